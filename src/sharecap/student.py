"""Student's t distribution: how much wider an interval is when its own width is an estimate.

By the angle whose tangent is t / sqrt(df): its density is cos(angle) ** (df - 1), which is summed on a grid.
So scoring needs no more than numpy.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()
_NORMAL_FROM = 1e5
"""Degrees of freedom beyond which t and the normal distribution agree to 5 digits."""


def quantile(p: float, df: float) -> float:
    """t below which lies the share `p` >= 0.5 of the distribution; `df` >= 1, whole or not."""
    if df > _NORMAL_FROM:
        return NORMAL.inv_cdf(p)
    angles, shares = _half(df)
    return math.sqrt(df) * math.tan(float(np.interp(2 * p - 1, shares, angles)))


def two_sided(t: float, df: float) -> float:
    """Share of the distribution that is at least as far from zero as `t`."""
    if df > _NORMAL_FROM:
        return 2 * NORMAL.cdf(-abs(t))
    angles, shares = _half(df)
    return max(0.0, 1 - float(np.interp(math.atan(abs(t) / math.sqrt(df)), angles, shares)))


@lru_cache(maxsize=64)
def _half(df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles from 0, and the share of |t| below each; nothing that counts is left out at the end."""
    assert df >= 1
    end = math.pi / 2 if df < 20 else math.atan(60 / math.sqrt(df))
    angles = np.linspace(0.0, end, 8001)
    density = np.cos(angles).clip(0.0) ** (df - 1)
    steps = (density[1:] + density[:-1]) / 2
    shares = np.concatenate(([0.0], np.cumsum(steps)))
    return angles, shares / shares[-1]
