"""Intervals: right in size, paired where they should be, and honest where there is too little to say."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.statistics import Mean, Noise, Score, compare, interval_of, intervals, scaled, value

FEW = 200
units = st.lists(
    st.tuples(st.sampled_from([f"image{i}" for i in range(8)]), st.sampled_from([0.0, 0.3, 0.6, 1.0])),
    min_size=1,
    max_size=40,
)


def mean(pairs: list[tuple[str, float]], weight: float = 100.0) -> Score:
    return (Mean(weight, tuple(c for c, _ in pairs), tuple(v for _, v in pairs)),)


@given(units, units)
@settings(max_examples=40, deadline=None)
def test_equal_runs_differ_by_exactly_nothing(
    first: list[tuple[str, float]], second: list[tuple[str, float]]
) -> None:
    score = mean(first) + mean(second, 30.0)
    found = compare({"m": (score, score)}, resamples=FEW)["m"].difference
    assert found.value == 0
    assert (found.low, found.high) in ((0, 0), (None, None))


@given(units)
@settings(max_examples=40, deadline=None)
def test_an_interval_lies_within_what_the_items_allow(pairs: list[tuple[str, float]]) -> None:
    found = intervals({"m": mean(pairs)}, resamples=FEW)["m"]
    assert found.value == pytest.approx(100 * sum(v for _, v in pairs) / len(pairs))
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.high <= 100 + 1e-9


@given(units, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_difference_changes_its_sign_when_the_runs_change_places(pairs, rng) -> None:
    other = [(c, rng.choice([0.0, 1.0])) for c, _ in pairs]
    ab = compare({"m": (mean(pairs), mean(other))}, resamples=FEW)["m"].difference
    ba = compare({"m": (mean(other), mean(pairs))}, resamples=FEW)["m"].difference
    assert ab.value == -ba.value
    if ab.low is not None:
        assert (ab.low, ab.high) == (pytest.approx(-ba.high), pytest.approx(-ba.low))


@given(units)
@settings(max_examples=30, deadline=None)
def test_repeating_the_questions_of_every_image_tells_nothing_new(pairs: list[tuple[str, float]]) -> None:
    """Ten copies of each item in its image's cluster leave the interval as it was."""
    once, often = intervals({"once": mean(pairs), "often": mean(pairs * 10)}, resamples=FEW).values()
    assert often.value == pytest.approx(once.value)
    assert often.low == (None if once.low is None else pytest.approx(once.low))
    assert often.high == (None if once.high is None else pytest.approx(once.high))


@given(units)
@settings(max_examples=20, deadline=None)
def test_the_general_function_agrees_with_the_weighted_sums(pairs: list[tuple[str, float]]) -> None:
    values = np.array([v for _, v in pairs])
    clusters = [c for c, _ in pairs]
    general = interval_of(lambda w: float(100 * (w @ values) / w.sum()), clusters, resamples=FEW)
    quick = intervals({"m": mean(pairs)}, resamples=FEW)["m"]
    for a, b in ((general.value, quick.value), (general.low, quick.low), (general.high, quick.high)):
        assert a == (None if b is None else pytest.approx(b))


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(400)
    pairs = [(f"image{i}", float(v)) for i, v in enumerate(values)]
    found = intervals({"m": mean(pairs, 1.0)}, resamples=5000)["m"]
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_pairing_sees_a_small_difference_that_single_intervals_hide() -> None:
    rng = np.random.default_rng(4)
    hard = rng.random(500)
    a = [(f"image{i}", float(h < 0.55)) for i, h in enumerate(hard)]
    b = [(f"image{i}", float(h < 0.50)) for i, h in enumerate(hard)]
    found = compare({"m": (mean(a), mean(b))})["m"]
    assert found.decided
    assert found.a.low < found.b.high  # the single intervals overlap


def test_one_image_gives_a_value_and_no_interval() -> None:
    found = intervals({"m": mean([("one", 1.0), ("one", 0.0)])})["m"]
    assert (found.value, found.low, found.high) == (50.0, None, None)


def test_fewer_than_six_images_have_no_interval_and_decide_nothing() -> None:
    """Two that differ alike are one in two by chance."""
    few = mean([("one", 0.4), ("two", 0.1)])
    found = compare({"m": (few, mean([("one", 0.0), ("two", 0.0)]))})["m"]
    assert (found.difference.low, found.difference.high, found.p, found.decided) == (None, None, None, False)
    for images in (5, 6):
        names = [f"image{i}" for i in range(images)]
        one = intervals({"m": mean([(name, i / 9) for i, name in enumerate(names)])})["m"]
        other = interval_of(lambda w: float((w @ np.arange(len(w))) / w.sum()), names)
        assert (one.low is None, other.low is None) == (images < 6, images < 6)


def test_a_mean_of_few_images_among_many_still_has_an_interval() -> None:
    many = [(f"image{i}", 1.0) for i in range(200)]
    found = intervals({"m": mean(many) + mean([("image0", 1.0), ("image1", 0.0)])})["m"]
    assert found.low <= 100  # two values, of which the draws see no more than the range
    assert found.high >= 200


@given(st.lists(st.floats(-0.2, 1), min_size=1, max_size=4), st.integers(2, 5), st.sampled_from([None, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_p_is_below_its_bound_just_where_the_interval_leaves_zero_out(
    varying: list[float], few: int, runs: int | None
) -> None:
    """With few pictures that vary, and with two or three runs, where the draws' own reach does not do."""
    many = mean([(f"image{i}", 0.0) for i in range(40)])
    part = mean([(f"image{i}", varying[i % len(varying)]) for i in range(few)])
    noise = None if runs is None else {"m": (Noise(25.0, runs), None)}
    found = compare({"m": (many + part, many + scaled(part, 0.0))}, noise=noise, resamples=FEW)["m"]
    assert found.p is None or found.decided == (found.p < 0.05 - 1e-9)


def test_scaling_scales_value_and_interval() -> None:
    score = mean([("a", 1.0), ("b", 0.0), ("c", 1.0)])
    assert value(scaled(score, 0.5)) == pytest.approx(value(score) / 2)


def test_the_same_seed_gives_the_same_interval() -> None:
    score = mean([(f"image{i}", i % 3 / 2) for i in range(30)])
    assert intervals({"m": score}, seed=7) == intervals({"m": score}, seed=7)
    assert intervals({"m": score}, seed=7) != intervals({"m": score}, seed=8)


def test_many_metrics_of_thousands_of_items_are_compared_at_once() -> None:
    rng = np.random.default_rng(0)
    pairs = {
        f"metric{k}": tuple(
            mean([(f"image{i // 2}", float(v)) for i, v in enumerate(rng.random(6000))]) for _ in "ab"
        )
        for k in range(10)
    }
    for found in compare(pairs).values():
        assert found.a.low < found.a.value < found.a.high


@given(units, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_ratio_of_means_is_resampled_above_and_below_alike(
    pairs: list[tuple[str, float]], rng: random.Random
) -> None:
    clusters, values = (tuple(side) for side in zip(*pairs, strict=True))
    counts = tuple(float(rng.randint(1, 5)) for _ in pairs)
    found = intervals({"r": (Mean(100.0, clusters, values, counts),)}, resamples=FEW)["r"]
    above, below = np.array(values), np.array(counts)
    wanted = interval_of(lambda w: float(100 * (w @ above) / (w @ below)), clusters, resamples=FEW)
    assert found.value == pytest.approx(wanted.value)
    assert (found.low is None) == (wanted.low is None)
    if found.low is not None:
        assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
