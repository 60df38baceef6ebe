"""Uncertainty of a benchmark's own metric: bootstrap over images, paired where both runs answered the items.

Questions about one image are not independent, so images are resampled, not questions. A metric is a weighted
sum of means (a MME subtask is 100 x mean over questions + 100 x mean over images; F1 is 2 TP per predicted
or true yes), so that thousands of resamples are one matrix product. Never averages over items that
were not scored.

Plain percentiles are too narrow for few images: n resampled images vary (n - 1) / n as much as n new ones,
and the width is itself an estimate. So the percentiles are taken as much further out as Student's t has it
("expanded percentiles", Hesterberg, arXiv 1411.5279). Fewer than six images have no interval:
resamples never leave the range of what was seen, which holds the middle in 1 - 2 ** (1 - n) of all samples.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharecap.student import NORMAL, quantile, two_sided

Key = TypeVar("Key", bound=Hashable)
Floats = NDArray[np.float64]

RESAMPLES = 2_000
LEVEL = 0.95
FEWEST = 6
"""Images that have an interval: the least of which nineteen of twenty samples lie around the middle."""
POWER = 0.8
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
    """A value with its interval; none of fewer than `FEWEST` images, or of a mean of fewer than two."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two runs, and the paired difference a - b."""

    a: Estimate
    b: Estimate
    difference: Estimate
    p: float | None = None  # of no difference; the interval's own: below 1 - level where it leaves zero out
    detectable: float | None = (
        None  # smallest true difference that is found in POWER of all samples this size
    )

    @property
    def decided(self) -> bool:
        """Whether the interval of the difference leaves zero out."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True, slots=True)
class Noise:
    """What the images don't tell of: variance of a mean over several runs, from the runs' own spread."""

    variance: float
    df: float  # degrees of freedom of that variance


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
    sums = _Sums.of(list(scores.values()))
    drawn = zip(scores.items(), sums.replicates(resamples, seed), sums.parts, strict=True)
    return {
        name: _estimate(value(score), rows, sums.spread(parts), level) for (name, score), rows, parts in drawn
    }


def compare(
    pairs: Mapping[Key, tuple[Score, Score]],
    *,
    noise: Mapping[Key, tuple[Noise | None, Noise | None]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[Key, Comparison]:
    """Each metric of both runs and the difference, resampled together: the same images are drawn for both.

    `noise` is each side's own where it is a mean over several runs; it widens the intervals.
    """
    sums = _Sums.of([score for pair in pairs.values() for score in pair])
    drawn = sums.replicates(resamples, seed)
    found = {}
    for i, (name, (a, b)) in enumerate(pairs.items()):
        parts_a, parts_b = sums.parts[2 * i], sums.parts[2 * i + 1]
        own_a, own_b = (noise or {}).get(name, (None, None))
        of_a, of_b = sums.spread(parts_a, own_a), sums.spread(parts_b, own_b)
        between = sums.spread(_minus(parts_a, parts_b), own_a, own_b)
        rows_a, rows_b = _noisy(drawn[2 * i], of_a, seed + 1), _noisy(drawn[2 * i + 1], of_b, seed + 2)
        point, rows = _less(value(a), value(b)), _less(rows_a, rows_b)
        known = not between.thin
        found[name] = Comparison(
            a=_estimate(value(a), rows_a, of_a, level),
            b=_estimate(value(b), rows_b, of_b, level),
            difference=_estimate(point, rows, between, level),
            p=_p(point, rows, between) if known else None,
            detectable=_detectable(rows, between, level) if known else None,
        )
    return found


def ratios(
    sums: Floats, pairs: Sequence[tuple[int, int]] = ()
) -> tuple[list[Estimate | None], list[Estimate | None]]:
    """Ratios whose tops and bottoms were summed image by image, and the paired difference a - b of each pair.

    For more images than there is room for `Mean`s of. `sums` is [images, ratios, 2], a pair two places among
    the ratios. None where a bottom is 0; else what `intervals` and `compare` tell of the same.
    """
    table = _Sums(sums.reshape(len(sums), -1), [[(1.0, 2 * i, 2 * i + 1)] for i in range(sums.shape[1])])
    drawn = table.replicates(RESAMPLES, 0)
    points = [top / bottom if bottom else None for top, bottom in sums.sum(axis=0).tolist()]

    def alone(i: int) -> Estimate | None:
        point = points[i]
        return None if point is None else _estimate(point, drawn[i], table.spread(table.parts[i]), LEVEL)

    def between(i: int, j: int) -> Estimate | None:
        a, b = points[i], points[j]
        if a is None or b is None:
            return None
        spread = table.spread(_minus(table.parts[i], table.parts[j]))
        return _estimate(_less(a, b), _less(drawn[i], drawn[j]), spread, LEVEL)

    return [alone(i) for i in range(len(points))], [between(i, j) for i, j in pairs]


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
    n = len(names)
    blocks = _weights(n, resamples, seed)
    rows = np.array([metric(row[index]) for block in blocks for row in block], dtype=np.float64)
    return _estimate(
        metric(np.ones(len(clusters))),
        rows,
        _Spread(max(1.0, n - 1.0), (n / max(1.0, n - 1.0)) ** 0.5, 0.0, n < FEWEST),
        level,
    )


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks [b, clusters] of how often each cluster is drawn; every row sums to `clusters`."""
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // clusters)
    for first in range(0, resamples, rows):
        b = min(rows, resamples - first)
        drawn = rng.integers(0, clusters, size=(b, clusters))
        drawn += np.arange(b)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=b * clusters).reshape(b, clusters).astype(np.float64)


_Part = tuple[float, int, int]
"""A mean of a score: its weight, and the columns that hold its totals and counts."""


def _minus(a: Sequence[_Part], b: Sequence[_Part]) -> list[_Part]:
    """The parts of the difference."""
    return [*a, *((-weight, t, c) for weight, t, c in b)]


@dataclass(frozen=True)
class _Sums:
    """What resampling needs of many scores: totals and counts of every mean, by image."""

    table: Floats  # [images, columns]
    parts: list[list[_Part]]  # of each score

    @cached_property
    def marks(self) -> NDArray[np.int64]:
        """[columns] random numbers: their sums tell sets of columns apart."""
        columns: int = self.table.shape[1]
        return np.random.default_rng(0).integers(1, 2**40, size=columns)

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "_Sums":
        names = sorted({cluster for score in scores for mean in score for cluster in mean.clusters})
        place = {name: i for i, name in enumerate(names)}
        # Equal columns are kept once: less work, and equal runs then differ by exactly zero.
        column_of: dict[bytes, int] = {}
        columns: list[Floats] = []

        def column(index: NDArray[np.intp], per_item: Sequence[float] | None) -> int:
            weights = None if per_item is None else np.asarray(per_item, dtype=np.float64)
            sums = np.bincount(index, weights=weights, minlength=len(names)).astype(np.float64)
            key = sums.tobytes()
            if key not in column_of:
                column_of[key] = len(columns)
                columns.append(sums)
            return column_of[key]

        parts: list[list[_Part]] = []
        for score in scores:
            parts.append([])
            for mean in score:
                index = np.array([place[cluster] for cluster in mean.clusters])
                parts[-1].append(
                    (mean.weight, column(index, mean.values), column(index, mean.counts or None))
                )
        table = np.stack(columns, axis=1) if columns else np.zeros((0, 0))
        return cls(table, parts)

    def replicates(self, resamples: int, seed: int) -> list[Floats]:
        """[resamples] values of every score, from the same draws; nan where a mean is left without items."""
        if not self.table.size:
            return [np.zeros(resamples) for _ in self.parts]
        blocks = _weights(len(self.table), resamples, seed)
        sums = np.concatenate([block @ self.table for block in blocks])
        with np.errstate(invalid="ignore", divide="ignore"):
            return [
                sum((weight * (sums[:, t] / sums[:, c]) for weight, t, c in parts), np.zeros(resamples))
                for parts in self.parts
            ]

    def spread(self, parts: Sequence[_Part], *noise: Noise | None) -> "_Spread":
        """How far the draws of these parts' sum fall short of new samples.

        Images that take part in the same means are a stratum; degrees of freedom by Satterthwaite over strata
        (MME's subtasks have 20 to 200 images each) and over the runs' own noise.
        """
        extra = [one for one in noise if one is not None]
        influence = np.zeros(len(self.table))  # of an image on the score, to first order
        stratum = np.zeros(len(self.table), dtype=np.int64)
        thin = not parts
        for weight, t, c in parts:
            total, count = self.table[:, t], self.table[:, c]
            influence += weight * (total - count * (total.sum() / count.sum())) / count.sum()
            stratum += (count != 0) * self.marks[c]
            thin = thin or bool(np.count_nonzero(count) < 2)
        thin = thin or (not extra and bool(np.count_nonzero(stratum) < FEWEST))
        _, which, sizes = np.unique(stratum, return_inverse=True, return_counts=True)
        sizes = np.where(sizes < _SMALL, sizes[sizes < _SMALL].sum(), sizes)  # small ones count as one
        variances = np.bincount(which, weights=influence**2)
        freedom = np.maximum(sizes - 1.0, 1.0)
        whole = [*(variances * sizes / freedom), *(one.variance for one in extra)]
        shared = sum(v * v / df for v, df in zip(whole, [*freedom, *(one.df for one in extra)], strict=True))
        drawn, wanted = variances.sum() + sum(one.variance for one in extra), sum(whole)
        if drawn == 0:
            return _Spread(float(len(self.table)), 1.0, 0.0, thin)
        df = max(1.0, wanted**2 / shared)  # 1 is the least but for rounding
        return _Spread(df, (wanted / drawn) ** 0.5, sum(one.variance for one in extra), thin)


_SMALL = 5
"""Images; smaller strata are taken together."""


@dataclass(frozen=True, slots=True)
class _Spread:
    """What makes an interval of draws as wide as it must be."""

    df: float  # degrees of freedom of the draws' variance
    wider: float  # standard deviation of new samples in those of the draws
    noise: float  # variance to add to the draws
    thin: bool  # too few images: nothing can be said


def _estimate(point: float, rows: Floats, spread: _Spread, level: float) -> Estimate:
    kept = rows[np.isfinite(rows)]
    if spread.thin or len(kept) == 0:
        return Estimate(float(point), None, None)
    far = spread.wider * quantile((1 + level) / 2, spread.df)
    tail = NORMAL.cdf(-far)
    # A draw at each end, alike from both sides and never between two, as `_p` counts them.
    low, high = (s * float(np.quantile(s * kept, tail, method="inverted_cdf")) for s in (1, -1))
    if tail * len(kept) < 1:  # beyond what the draws reach
        error = far * float(kept.std())
        low, high = min(low, point - error), max(high, point + error)
    return Estimate(float(point), float(low), float(high))


def _noisy(rows: Floats, spread: _Spread, seed: int) -> Floats:
    """The draws with the runs' own spread in them."""
    if not spread.noise:
        return rows
    noise: Floats = spread.noise**0.5 * np.random.default_rng(seed).standard_normal(len(rows))
    return rows + noise


def _p(point: float, rows: Floats, spread: _Spread) -> float:
    """The level at which the interval of the difference would just touch zero, from 1."""
    kept = rows[np.isfinite(rows)]
    beyond = min(float((kept <= 0).mean()), float((kept >= 0).mean()))
    t = -NORMAL.inv_cdf(max(beyond, 1 / (len(kept) + 1))) if beyond < 0.5 else 0.0
    error = float(kept.std())
    if beyond == 0 and error > _NOTHING * abs(point):  # beyond what the draws reach: by their deviation
        t = max(t, abs(point) / error)
    return two_sided(t / spread.wider, spread.df)


_NOTHING = 1e-9
"""Differences, as a share of the values, that come of rounding: the same runs in another order."""


def _less(a: Any, b: Any) -> Any:
    """a - b, of numbers or of draws; exactly zero where only rounding tells them apart."""
    return np.where(np.abs(a - b) > _NOTHING * (np.abs(a) + np.abs(b)), a - b, 0.0 * (a - b))


def _detectable(rows: Floats, spread: _Spread, level: float) -> float | None:
    """(t + z) standard errors: what a test at this level finds with a chance of POWER; None: draws alike."""
    error = spread.wider * float(np.nanstd(rows))
    if error <= _NOTHING * float(np.nanmax(np.abs(rows))):
        return None
    return float((quantile((1 + level) / 2, spread.df) + NORMAL.inv_cdf(POWER)) * error)
