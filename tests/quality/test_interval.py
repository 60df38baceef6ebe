"""Intervals of ratios over images hold the truth about as often as they say; differences are paired."""

import numpy as np
import pytest

from sharecap.quality import interval
from sharecap.quality.interval import Sums
from sharecap.quality.shares import wilson
from sharecap.statistics import Estimate, Mean, compare

NAME = "words"
"""A measure that is no share."""


def filled(values: np.ndarray, ids: list[str] | None = None) -> Sums:
    """One column of plain means."""
    sums = Sums(len(values), 1, (NAME,))
    for position, value in enumerate(values):
        sums.add(sums.group(ids[position] if ids else "", position), 0, {NAME: (float(value), 1.0)})
    return sums


def test_a_ratio_is_that_of_the_sums() -> None:
    sums = Sums(3, 1, (NAME, "never"))
    for position, pair in enumerate([(1, 2), (0, 0), (3, 4)]):
        sums.add(position, 0, {NAME: pair})
    (found,) = sums.told()[0]
    assert set(found) == {NAME}  # a bottom of 0 is no number
    assert found[NAME].value == pytest.approx(4 / 6)


@pytest.mark.parametrize("images", [6, 8, 12, 20, 60])
def test_intervals_cover_the_mean_as_often_as_they_say(images: int) -> None:
    rng, worlds = np.random.default_rng(images), 300
    held = 0
    for _ in range(worlds):
        (found,) = filled(rng.normal(3, 2, images)).told()[0]
        held += found[NAME].low <= 3 <= found[NAME].high  # type: ignore[operator]
    assert 0.915 <= held / worlds <= 0.985


def test_of_fewer_than_six_images_nothing_is_said_of_chance() -> None:
    sums = Sums(2, 2, (NAME,))
    for position, (a, b) in enumerate([(9, 5), (6, 5)]):
        sums.add(position, 0, {NAME: (a, 1)})
        sums.add(position, 1, {NAME: (b, 1)})
    (difference,) = sums.told([(0, 1)])[1]
    assert difference[NAME] == Estimate(2.5, None, None)
    (five,) = filled(np.arange(5.0)).told()[0]
    (six,) = filled(np.arange(6.0)).told()[0]
    assert five[NAME] == Estimate(2.0, None, None)
    assert six[NAME].low is not None


def test_a_share_of_none_or_all_is_no_certainty() -> None:
    """No wrong caption among twenty: three in twenty may still be, as Wilson has it."""
    sums = Sums(20, 2, ("chair_s", "sentences"))
    for position in range(20):
        sums.add(position, 0, {"chair_s": (0, 1), "sentences": (1, 1)})
        sums.add(position, 1, {"chair_s": (1, 1), "sentences": (1, 1)})
    (none, every), (difference, same) = sums.told([(0, 1), (0, 0)])
    assert none["chair_s"] == wilson([0.0] * 20)
    assert every["chair_s"] == wilson([1.0] * 20)
    assert none["sentences"] == Estimate(1.0, 1.0, 1.0)  # a number of one is not all
    reach = none["chair_s"].high
    assert reach is not None
    assert difference["chair_s"].value == -1
    assert difference["chair_s"].low == pytest.approx(-1)
    assert difference["chair_s"].high == pytest.approx(-1 + reach * 2**0.5)
    assert same["chair_s"] == Estimate(0.0, pytest.approx(-reach), pytest.approx(reach))


def test_the_intervals_are_those_of_the_whole_project() -> None:
    rng = np.random.default_rng(4)
    pairs = rng.integers(1, 9, (2, 30, 2)).astype(float)
    sums = Sums(30, 2, (NAME,))
    for column in (0, 1):
        for position, (top, bottom) in enumerate(pairs[column].tolist()):
            sums.add(position, column, {NAME: (top, bottom)})
    (a, b), (difference,) = sums.told([(0, 1)])
    images = tuple(f"{n:02}" for n in range(30))
    scores = [(Mean(1.0, images, tuple(one[:, 0]), tuple(one[:, 1])),) for one in pairs]
    wanted = compare({"x": (scores[0], scores[1])})["x"]
    for found, one in ((a, wanted.a), (b, wanted.b), (difference, wanted.difference)):
        assert (found[NAME].value, found[NAME].low, found[NAME].high) == pytest.approx(
            (one.value, one.low, one.high)
        )


def test_no_image_has_no_value() -> None:
    assert Sums(0, 2, (NAME,)).told([(0, 1)]) == ([{}, {}], [{}])


def test_one_image_has_a_value_and_no_interval() -> None:
    (found,) = filled(np.array([2.0])).told()[0]
    assert (found[NAME].value, found[NAME].low, found[NAME].high) == (2.0, None, None)


def test_a_difference_of_paired_columns_is_narrower_than_the_columns() -> None:
    rng, sums = np.random.default_rng(1), Sums(100, 2, (NAME,))
    for position, value in enumerate(rng.normal(0, 5, 100)):
        sums.add(position, 0, {NAME: (value, 1)})
        sums.add(position, 1, {NAME: (value + 0.1, 1)})
    (found,) = sums.told([(1, 0)])[1]
    assert found[NAME].low == pytest.approx(0.1)
    assert found[NAME].high == pytest.approx(0.1)
    low, high = sums.told()[0][0][NAME].low, sums.told()[0][0][NAME].high
    assert low is not None
    assert high is not None
    assert high - low > 1


def test_more_images_than_groups_are_drawn_into_groups_with_the_same_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(0, 1, 4_000)
    ids = [f"{n:012x}" for n in np.random.default_rng(3).integers(0, 2**40, 4_000).tolist()]
    (alone,) = filled(values).told()[0]
    monkeypatch.setattr(interval, "GROUPS", 400)
    (grouped,) = filled(values, ids).told()[0]
    assert grouped[NAME].value == pytest.approx(alone[NAME].value)
    widths = [one[NAME].high - one[NAME].low for one in (alone, grouped)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
