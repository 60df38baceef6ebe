"""Shares with their intervals, images being the unit of chance. Pure; only what was answered is counted."""

import math
from collections.abc import Sequence

from sharecap.statistics import Estimate, Mean, intervals

Z = 1.959964
"""Of a 95 % interval."""


def wilson(shares: Sequence[float]) -> Estimate:
    """Mean of values between 0 and 1, one per image, with Wilson's 95 % interval.

    It stays within 0 and 1 and does not shrink to a point when all agree. Values between 0 and 1 vary less
    than the zeros and ones that it is made for, so with ties and several raters it is on the wide side.
    """
    p = sum(shares) / len(shares)
    return Estimate(p, *wilson_bounds(p, len(shares)))


def wilson_bounds(p: float, n: float) -> tuple[float, float]:
    """The interval of `n` values whose mean is `p`."""
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def shares_of(images: Sequence[str], labels: Sequence[str], names: Sequence[str]) -> dict[str, Estimate]:
    """The share of each of `names` among `labels`, of which the i-th is about `images[i]`; {} without any.

    Resampled over images, but for what is said of none or of all.
    """
    if not labels:
        return {}
    clusters = tuple(images)
    scores = {name: (Mean(1.0, clusters, tuple(float(one == name) for one in labels)),) for name in names}
    return {name: opened(one, len(set(images))) for name, one in intervals(scores).items()}


def opened(share: Estimate, images: int) -> Estimate:
    """The share, with Wilson's interval if it is none or all: resamples of what agrees are all alike."""
    if share.value not in (0.0, 1.0):
        return share
    return Estimate(share.value, *wilson_bounds(share.value, images))
