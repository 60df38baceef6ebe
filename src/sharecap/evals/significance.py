"""What is said beside an interval: McNemar's test, and a correction for looking at many benchmarks.

A test is given only where it applies: McNemar's needs units that are right or wrong, the same in both runs.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sharecap.statistics import Score
from sharecap.student import NORMAL

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Units (items, or a metric's groups of them) that only one of two runs got right."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Score, b: Score) -> McNemar | None:
    """The test on a metric that is the share of right units; None for any other.

    Exact where every image has one unit. Where some have several, they aren't independent: then the images'
    differences are tested against zero (Obuchowski, Statistics in Medicine 17, 1998), which is McNemar's
    statistic where all have one.
    """
    if not (len(a) == len(b) == 1 and a[0].clusters == b[0].clusters and not a[0].counts and not b[0].counts):
        return None
    ours, theirs = np.asarray(a[0].values), np.asarray(b[0].values)
    if not np.isin(np.concatenate((ours, theirs)), (0.0, 1.0)).all():
        return None
    only_a, only_b = int((ours > theirs).sum()), int((ours < theirs).sum())
    images, index = np.unique(np.asarray(a[0].clusters), return_inverse=True)
    if len(images) == len(ours):
        return McNemar(only_a, only_b, _exact(only_a, only_b))
    each = np.bincount(index, weights=ours - theirs)
    squares = float((each**2).sum())
    z = float(each.sum()) / math.sqrt(squares) if squares else 0.0
    return McNemar(only_a, only_b, 2 * NORMAL.cdf(-abs(z)))


def _exact(one: int, other: int) -> float:
    """Two-sided binomial: as uneven a split of so many units, were either side as likely."""
    n, k = one + other, min(one, other)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(x - n * math.log(2)) for x in logs))


def holm(family: Mapping[Key, float]) -> dict[Key, float]:
    """Each p after Holm's correction: the chance of any false find in the family stays at the level."""
    found: dict[Key, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(family, key=lambda key: family[key])):
        largest = max(largest, min(1.0, (len(family) - rank) * family[key]))
        found[key] = largest
    return found
