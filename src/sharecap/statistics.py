"""Uncertainty of a benchmark's own metric: bootstrap over images, paired where both runs answered the items.

Questions about one image are not independent, so images are resampled, not questions. A metric is a weighted
sum of means (a MME subtask is 100 x mean over questions + 100 x mean over images; F1 is 2 TP per predicted
or true yes), so that thousands of resamples are one matrix product. Never averages over items that
were not scored.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)
Floats = NDArray[np.float64]

RESAMPLES = 2_000
LEVEL = 0.95
_BLOCK = 4_000_000
"""Weights held at once (32 MB): enough for the speed, small enough for 100,000 images."""


@dataclass(frozen=True, slots=True)
class Mean:
    """`weight` times the sum of `values` over the sum of `counts`; value i comes from image `clusters[i]`."""

    weight: float
    clusters: tuple[str, ...]
    values: tuple[float, ...]
    counts: tuple[float, ...] = ()  # () stands for ones: a plain mean. Else a ratio of means

    def __post_init__(self) -> None:
        assert len(self.clusters) == len(self.values) == (len(self.counts) or len(self.values))
        assert self.total > 0

    @property
    def total(self) -> float:
        """What the values are shared out over."""
        return sum(self.counts) if self.counts else float(len(self.values))


Score = tuple[Mean, ...]
"""A metric: the sum of its means."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its percentile interval; none where fewer than two images stand behind a mean."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two runs, and the paired difference a - b."""

    a: Estimate
    b: Estimate
    difference: Estimate

    @property
    def decided(self) -> bool:
        """Whether the interval of the difference leaves zero out."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


def value(score: Score) -> float:
    """The metric on the items as they are."""
    return sum(mean.weight * (sum(mean.values) / mean.total) for mean in score)


def scaled(score: Score, factor: float) -> Score:
    """`factor` times the metric."""
    return tuple(replace(mean, weight=factor * mean.weight) for mean in score)


def intervals(
    scores: Mapping[Key, Score], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[Key, Estimate]:
    """Each metric with its interval; all of them see the same resamples."""
    drawn = _replicates(list(scores.values()), resamples, seed)
    pairs = zip(scores.items(), drawn, strict=True)
    return {name: _estimate(value(score), rows, (score,), level) for (name, score), rows in pairs}


def compare(
    pairs: Mapping[Key, tuple[Score, Score]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[Key, Comparison]:
    """Each metric of both runs and the difference, resampled together: the same images are drawn for both."""
    drawn = _replicates([score for pair in pairs.values() for score in pair], resamples, seed)
    found = {}
    for i, (name, (a, b)) in enumerate(pairs.items()):
        rows_a, rows_b = drawn[2 * i], drawn[2 * i + 1]
        found[name] = Comparison(
            a=_estimate(value(a), rows_a, (a,), level),
            b=_estimate(value(b), rows_b, (b,), level),
            difference=_estimate(value(a) - value(b), rows_a - rows_b, (a, b), level),
        )
    return found


def interval_of(
    metric: Callable[[Floats], float],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Interval of any function of the items, e.g. a ratio of means. `metric` takes one weight per item.

    One call per resample, so slower than `intervals`. For a paired difference let `metric` return it.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    blocks = _weights(len(names), resamples, seed)
    rows = np.array([metric(row[index]) for block in blocks for row in block], dtype=np.float64)
    single = (Mean(1.0, tuple(map(str, clusters)), (0.0,) * len(clusters)),)
    return _estimate(metric(np.ones(len(clusters))), rows, (single,), level)


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks [b, clusters] of how often each cluster is drawn; every row sums to `clusters`."""
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // clusters)
    for first in range(0, resamples, rows):
        b = min(rows, resamples - first)
        drawn = rng.integers(0, clusters, size=(b, clusters))
        drawn += np.arange(b)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=b * clusters).reshape(b, clusters).astype(np.float64)


def _replicates(scores: Sequence[Score], resamples: int, seed: int) -> list[Floats]:
    """[resamples] values of every score, from the same draws; nan where a mean is left without items."""
    means = [mean for score in scores for mean in score]
    names = sorted({cluster for mean in means for cluster in mean.clusters})
    place = {name: i for i, name in enumerate(names)}
    # Equal columns are kept once: less work, and equal runs then differ by exactly zero.
    column_of: dict[bytes, int] = {}
    columns: list[Floats] = []

    def column(per_cluster: Floats) -> int:
        key = per_cluster.tobytes()
        if key not in column_of:
            column_of[key] = len(columns)
            columns.append(per_cluster)
        return column_of[key]

    places = []
    for mean in means:
        index = np.array([place[cluster] for cluster in mean.clusters])
        total = np.bincount(index, weights=np.asarray(mean.values, dtype=np.float64), minlength=len(names))
        counts = np.asarray(mean.counts, dtype=np.float64) if mean.counts else None
        count = np.bincount(index, weights=counts, minlength=len(names)).astype(np.float64)
        places.append((column(total.astype(np.float64)), column(count)))
    if not means:
        return []
    table = np.stack(columns, axis=1)
    sums = np.concatenate([block @ table for block in _weights(len(names), resamples, seed)])
    drawn = []
    ahead = iter(places)
    with np.errstate(invalid="ignore", divide="ignore"):
        for score in scores:
            rows = np.zeros(resamples)
            for mean in score:
                total_at, count_at = next(ahead)
                rows += mean.weight * (sums[:, total_at] / sums[:, count_at])
            drawn.append(rows)
    return drawn


def _estimate(point: float, rows: Floats, scores: tuple[Score, ...], level: float) -> Estimate:
    thin = any(len(set(mean.clusters)) < 2 for score in scores for mean in score)
    kept = rows[np.isfinite(rows)]
    if thin or len(kept) == 0:
        return Estimate(float(point), None, None)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(point), float(low), float(high))
