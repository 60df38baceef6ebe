"""Ratios of sums over images, and paired differences of layers, with the intervals of `statistics.py`.

A million images are resampled as 10,000 groups of them, drawn by digest: memory and time stay the same.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sharecap.quality.lexical import NUMBERS, Pair
from sharecap.quality.shares import opened
from sharecap.statistics import Estimate, ratios

GROUPS = 10_000


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

    def told(
        self, pairs: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[dict[str, Estimate]], list[dict[str, Estimate]]]:
        """For each column all measures that have a value; for each pair of columns (a, b) those of a - b."""
        number = len(self._measures)
        alone, between = ratios(
            self._sums.reshape(self._groups, -1, 2),
            [(a * number + i, b * number + i) for a, b in pairs for i in range(number)],
        )
        behind = (self._sums[..., 1] > 0).sum(axis=0).ravel().tolist()
        values = [
            {
                name: one if name in NUMBERS else opened(one, images)
                for name, one, images in zip(self._measures, alone[at:], behind[at:], strict=False)
                if one
            }
            for at in range(0, len(alone), number)
        ]
        differences = [
            {
                name: one if name in NUMBERS else _apart(values[a][name], values[b][name], one)
                for name, one in zip(self._measures, between[at:], strict=False)
                if one
            }
            for (a, b), at in zip(pairs, range(0, len(between), number), strict=True)
        ]
        return values, differences


def _apart(a: Estimate, b: Estimate, found: Estimate) -> Estimate:
    """The difference of two shares; of none or all by their own intervals (Newcombe, 1998)."""
    if found.low is None or not {a.value, b.value} <= {0.0, 1.0}:
        return found
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    return Estimate(
        found.value,
        found.value - math.hypot(a.value - a.low, b.high - b.value),
        found.value + math.hypot(a.high - a.value, b.value - b.low),
    )
