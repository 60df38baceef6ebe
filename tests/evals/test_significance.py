"""Tests beside the intervals: as scipy has them, and only where they apply."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from sharecap.evals.significance import holm, mcnemar
from sharecap.statistics import Mean, Score, compare
from sharecap.student import quantile, two_sided


@pytest.mark.parametrize("df", [1.0, 1.5, 3.0, 19.9, 20.1, 300.0, 2e5])
def test_students_t_is_scipys(df: float) -> None:
    for p in (0.6, 0.9, 0.975, 0.995):
        assert quantile(p, df) == pytest.approx(t.ppf(p, df), rel=1e-4)
    for x in (0.0, 0.5, 2.0, 4.0):
        assert two_sided(x, df) == pytest.approx(2 * t.sf(x, df), rel=1e-3)


def units(values: list[float], images: list[str] | None = None) -> Score:
    return (Mean(100.0, tuple(images or map(str, range(len(values)))), tuple(values)),)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_mcnemar_is_the_binomial_test_on_what_only_one_got_right(pairs: list[tuple[bool, bool]]) -> None:
    a, b = ([float(x) for x in side] for side in zip(*pairs, strict=True))
    found = mcnemar(units(a), units(b))
    assert found is not None
    unlike = found.only_a + found.only_b
    wanted = binomtest(found.only_a, unlike).pvalue if unlike else 1.0
    assert found.p == pytest.approx(wanted)


def test_mcnemar_takes_an_images_questions_together() -> None:
    """Ten questions that go the same way tell no more than one."""
    a, b = [1.0] * 6 + [0.0] * 2, [0.0] * 6 + [1.0] * 2
    images = [f"i{n}" for n in range(8)]
    once = mcnemar(units(a, [*images[:7], "i6"]), units(b, [*images[:7], "i6"]))
    often = mcnemar(units(a * 10, [*images[:7], "i6"] * 10), units(b * 10, [*images[:7], "i6"] * 10))
    assert once is not None
    assert often is not None
    assert once.p == pytest.approx(often.p)


def test_mcnemar_applies_to_right_and_wrong_alone() -> None:
    assert mcnemar(units([0.3, 1.0]), units([1.0, 0.0])) is None
    assert mcnemar(units([0.0, 1.0]) * 2, units([1.0, 0.0]) * 2) is None
    assert mcnemar(units([0.0, 1.0]), units([1.0, 0.0], ["x", "y"])) is None


def test_holm_multiplies_by_how_many_are_left_and_keeps_the_order() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_p_below_the_level_and_an_interval_without_zero_are_the_same_thing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = ((rng.random(40) < chance).astype(float).tolist() for chance in (0.6, 0.4))
    found = compare({"m": (units(a), units(b))}, resamples=1000, seed=seed)["m"]
    assert found.p is not None
    if abs(found.p - 0.05) > 0.01:  # at the edge, a resample more or less decides
        assert found.decided == (found.p < 0.05)


def test_what_the_benchmark_can_show_is_found_in_four_of_five_samples() -> None:
    """300 samples of 400 items, of which a alone gets 13.1 % right and b alone 6.9 %: 6.3 points."""
    rng = np.random.default_rng(5)
    drawn = rng.choice([1.0, -1.0, 0.0], p=[0.1314, 0.0686, 0.8], size=(300, 400))
    pairs = {i: (units((row > 0).tolist()), units((row < 0).tolist())) for i, row in enumerate(drawn)}
    found = compare(pairs, resamples=500)
    assert np.mean([one.detectable for one in found.values()]) == pytest.approx(6.28, rel=0.03)
    assert np.mean([one.decided for one in found.values()]) == pytest.approx(0.8, abs=0.07)


def test_equal_runs_tell_nothing_of_what_could_be_shown() -> None:
    same = units([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert compare({"m": (same, same)})["m"].detectable is None
    assert compare({"m": (same, same)})["m"].p == 1.0
