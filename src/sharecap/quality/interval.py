"""Intervals of ratios of sums over images, and of paired differences: bootstrap over images.

A million images are resampled as 10,000 groups of them, drawn by digest: memory and time stay the same.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sharecap.quality.lexical import Pair
from sharecap.statistics import Estimate

RESAMPLES = 1_000
LEVEL = 0.95
GROUPS = 10_000
_BLOCK = 100
"""Resamples in one matrix product; a divisor of `RESAMPLES`."""


class Sums:
    """Tops and bottoms of measures, summed by group of images, for each of several `columns`."""

    def __init__(self, images: int, columns: int, measures: tuple[str, ...]) -> None:
        self._groups, self._all = max(1, min(images, GROUPS)), images
        self._measures = {name: i for i, name in enumerate(measures)}
        self._sums = np.zeros((self._groups, columns, len(measures), 2))

    def group(self, image_id: str, position: int) -> int:
        """Of an image: its own, or among more images than groups one that its digest draws."""
        return position if self._all == self._groups else int(image_id[:12], 16) % self._groups

    def add(self, group: int, column: int, pairs: Mapping[str, Pair]) -> None:
        """Add the measures of one caption."""
        if pairs:
            places = [self._measures[name] for name in pairs]
            self._sums[group, column, places] += list(pairs.values())

    def estimates(self) -> list[dict[str, Estimate]]:
        """For each column, every measure that has a value. Nothing may be added any more."""
        return self._told(*self._resampled)

    def differences(self, pairs: list[tuple[int, int]]) -> list[dict[str, Estimate]]:
        """For each pair of columns (a, b), every measure of a minus that of b, resampled together."""
        point, drawn, behind = self._resampled
        a, b = [one for one, _ in pairs], [other for _, other in pairs]
        return self._told(point[a] - point[b], drawn[:, a] - drawn[:, b], np.minimum(behind[a], behind[b]))

    def _told(
        self, point: NDArray[np.float64], drawn: NDArray[np.float64], behind: NDArray[np.int64]
    ) -> list[dict[str, Estimate]]:
        return [
            {
                name: _estimate(point[column, i], drawn[:, column, i], behind[column, i])
                for name, i in self._measures.items()
                if np.isfinite(point[column, i])
            }
            for column in range(len(point))
        ]

    @cached_property
    def _resampled(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Values [columns, measures], resampled ones [resamples, columns, measures], groups behind each."""
        rng, flat = np.random.default_rng(0), self._sums.reshape(self._groups, -1)
        sums = np.empty((RESAMPLES, flat.shape[1]))
        for first in range(0, RESAMPLES, _BLOCK):
            drawn = (rng.integers(0, self._groups, self._groups) for _ in range(_BLOCK))
            times = np.array([np.bincount(one, minlength=self._groups) for one in drawn], dtype=np.float64)
            sums[first : first + _BLOCK] = times @ flat
        shape = self._sums.shape[1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            point = self._sums.sum(0)
            resampled = sums.reshape(RESAMPLES, *shape)
            return (
                point[..., 0] / point[..., 1],
                resampled[..., 0] / resampled[..., 1],
                (self._sums[..., 1] > 0).sum(0),
            )


def _estimate(point: float, drawn: NDArray[np.float64], groups: int) -> Estimate:
    kept = drawn[np.isfinite(drawn)]
    if groups < 2 or not len(kept):
        return Estimate(float(point), None, None)
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(point), float(low), float(high))
