"""Intervals of ratios over images hold the truth about as often as they say; differences are paired."""

import numpy as np
import pytest

from sharecap.quality import interval
from sharecap.quality.interval import Sums


def filled(values: np.ndarray, ids: list[str] | None = None) -> Sums:
    """One column of plain means."""
    sums = Sums(len(values), 1, ("x",))
    for position, value in enumerate(values):
        sums.add(sums.group(ids[position] if ids else "", position), 0, {"x": (float(value), 1.0)})
    return sums


def test_a_ratio_is_that_of_the_sums() -> None:
    sums = Sums(3, 1, ("x", "never"))
    for position, pair in enumerate([(1, 2), (0, 0), (3, 4)]):
        sums.add(position, 0, {"x": pair})
    (found,) = sums.estimates()
    assert set(found) == {"x"}  # a bottom of 0 is no number
    assert found["x"].value == pytest.approx(4 / 6)


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        (found,) = filled(rng.normal(3, 2, 60)).estimates()
        held += found["x"].low <= 3 <= found["x"].high  # type: ignore[operator]
    assert 180 <= held <= 198


def test_no_image_has_no_value() -> None:
    assert Sums(0, 2, ("x",)).estimates() == [{}, {}]


def test_one_image_has_a_value_and_no_interval() -> None:
    (found,) = filled(np.array([2.0])).estimates()
    assert (found["x"].value, found["x"].low, found["x"].high) == (2.0, None, None)


def test_a_difference_of_paired_columns_is_narrower_than_the_columns() -> None:
    rng, sums = np.random.default_rng(1), Sums(100, 2, ("x",))
    for position, value in enumerate(rng.normal(0, 5, 100)):
        sums.add(position, 0, {"x": (value, 1)})
        sums.add(position, 1, {"x": (value + 0.1, 1)})
    (found,) = sums.differences([(1, 0)])
    assert found["x"].low == pytest.approx(0.1)
    assert found["x"].high == pytest.approx(0.1)
    low, high = sums.estimates()[0]["x"].low, sums.estimates()[0]["x"].high
    assert low is not None
    assert high is not None
    assert high - low > 1


def test_more_images_than_groups_are_drawn_into_groups_with_the_same_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(0, 1, 4_000)
    ids = [f"{n:012x}" for n in np.random.default_rng(3).integers(0, 2**40, 4_000).tolist()]
    (alone,) = filled(values).estimates()
    monkeypatch.setattr(interval, "GROUPS", 400)
    (grouped,) = filled(values, ids).estimates()
    assert grouped["x"].value == pytest.approx(alone["x"].value)
    widths = [one["x"].high - one["x"].low for one in (alone, grouped)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
