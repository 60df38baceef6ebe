"""Models of several runs: their mean, their spread, and intervals that hold both kinds of chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sharecap.errors import SharecapError
from sharecap.evals.comparison import (
    Model,
    compare_all,
    compare_models,
    compare_runs,
    read_model,
    read_models,
)
from sharecap.evals.results import Run
from sharecap.evals.runner import keep_predictions
from sharecap.evals.tables import comparison_lines
from sharecap.evals.task import Record

ITEMS = 300


def run(name: str, right: float, seed: int, shared: int = 0) -> Run:
    """A run on ScienceQA; equal `shared` makes the same questions hard."""
    hard = np.random.default_rng(shared).random(ITEMS)
    luck = np.random.default_rng(seed + 1000).normal(0, 0.1, ITEMS)
    records = [
        Record(
            "scienceqa", str(i), (f"image{i}",), "", "A", "A", "A", float(h + x < right), 0.0, "", str(i), {}
        )
        for i, (h, x) in enumerate(zip(hard, luck, strict=True))
    ]
    return Run(name, {"scienceqa": records})


def several(name: str, *rights: float) -> Model:
    return Model(name, tuple(run(f"{name}{i}", right, 10 * len(name) + i) for i, right in enumerate(rights)))


def test_several_runs_are_compared_by_their_mean_with_their_spread() -> None:
    a, b = several("a", 0.6, 0.7, 0.8), several("bb", 0.5, 0.5)
    found = compare_models(a, b)
    each = [100 * np.mean([r.score for r in one.records["scienceqa"]]) for one in a.runs]
    metric = found.benchmarks["scienceqa"]["accuracy"]
    assert metric.a.value == pytest.approx(np.mean(each))
    assert found.runs == (3, 2)
    assert found.spread["scienceqa"][0] == pytest.approx(np.std(each, ddof=1))
    assert found.mcnemar == {}
    text = "\n".join(comparison_lines([found]))
    assert f"±{np.std(each, ddof=1):.2f}" in text


def test_the_runs_spread_widens_the_interval() -> None:
    """The same mean of three runs, near each other and far apart."""
    b = several("bb", 0.5, 0.5, 0.5)
    near, far = (compare_models(several("a", *rights), b) for rights in ((0.7, 0.7, 0.7), (0.5, 0.7, 0.9)))
    widths = [
        one.benchmarks["scienceqa"]["accuracy"].difference.high
        - one.benchmarks["scienceqa"]["accuracy"].difference.low
        for one in (near, far)
    ]
    assert widths[1] > 3 * widths[0]


def test_two_runs_have_the_interval_of_two_values() -> None:
    """12.7 standard errors, where 3.5 reach as far as any of the draws: mostly how the runs differ."""
    pair = several("a", 0.4, 0.8)
    each = [100 * np.mean([r.score for r in one.records["scienceqa"]]) for one in pair.runs]
    found = compare_models(pair, several("bb", 0.6, 0.6)).benchmarks["scienceqa"]["accuracy"].a
    assert found.high - found.value == pytest.approx(12.706 * np.std(each, ddof=1) / 2**0.5, rel=0.1)
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=0.1)


@pytest.mark.parametrize("count", [2, 3])
def test_intervals_of_seeds_and_images_hold_the_truth(count: int) -> None:
    """120 pairs of models, equal but for their seeds: zero lies in about 114 of the intervals."""
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(120):
        sides = []
        for name in ("a", "b"):
            levels = 0.6 + rng.normal(0, 0.03, count)
            runs = tuple(run(name, level, int(rng.integers(1e9)), trial) for level in levels)
            sides.append(Model(name, runs))
        found = compare_models(*sides, resamples=300).benchmarks["scienceqa"]["accuracy"].difference
        held += found.low <= 0 <= found.high
    assert held >= 109


def test_one_run_against_several_says_what_is_not_in_the_interval() -> None:
    found = compare_models(several("a", 0.7), several("bb", 0.5, 0.6))
    assert "a0" not in found.a
    assert "a: one run only, so how it varies from run to run is in no interval" in comparison_lines([found])


def test_the_correction_is_over_all_benchmarks_and_models() -> None:
    a, *others = (several(name, right) for name, right in (("a", 0.7), ("bb", 0.66), ("ccc", 0.5)))
    found = compare_all([a, *others], resamples=500)
    ps = [one.benchmarks["scienceqa"]["accuracy"].p for one in found]
    corrected = [one.corrected["scienceqa"] for one in found]
    assert ps[1] < ps[0]
    assert corrected[1] == pytest.approx(2 * ps[1])
    assert corrected[0] == pytest.approx(max(ps[0], corrected[1]))
    text = "\n".join(comparison_lines(found))
    assert "p corrected for looking 2 times" in text
    assert text.count("scienceqa: accuracy (of 100)") == 1


def test_one_run_each_is_the_plain_comparison() -> None:
    a, b = several("a", 0.7), several("bb", 0.5)
    assert (
        compare_all([a, b], resamples=100)[0].benchmarks
        == compare_runs(*a.runs, *b.runs, resamples=100).benchmarks
    )


def test_models_are_read_with_and_without_a_name(tmp_path: Path) -> None:
    for name, right in (("one", 0.5), ("two", 0.6), ("odd,name=x", 0.7)):
        keep_predictions(name, run(name, right, 3).records["scienceqa"], tmp_path / name, resamples=20)
    assert read_model(str(tmp_path / "one")).name == "one"
    assert read_model(str(tmp_path / "odd,name=x")).name == "odd,name=x"
    both = f"{tmp_path / 'one'},{tmp_path / 'two'}"
    assert [len(read_model(text).runs) for text in (both, f"ours={both}")] == [2, 2]
    assert [read_model(text).name for text in (both, f"ours={both}")] == ["one", "ours"]
    same = [str(tmp_path / "one"), f"one={both}"]
    assert [model.name for model in read_models(same)] == same
    with pytest.raises(SharecapError, match="a model stands there twice"):
        read_models([same[0], same[0]])
    for wrong in (f"={both}", f"ours={both},", f"{both},{tmp_path / 'one'}"):
        with pytest.raises(SharecapError):
            read_model(wrong)


def test_the_order_of_a_models_runs_decides_nothing() -> None:
    a = several("a", 0.61, 0.72, 0.83)
    found = compare_models(a, Model("b", a.runs[::-1])).benchmarks["scienceqa"]["accuracy"]
    assert found.difference.value == 0
    assert not found.decided
    assert found.p > 0.9


def test_seeds_that_answered_other_items_are_refused() -> None:
    a = several("a", 0.7, 0.7)
    short = Model(
        "a", (a.runs[0], replace(a.runs[1], records={"scienceqa": a.runs[1].records["scienceqa"][:-1]}))
    )
    with pytest.raises(SharecapError, match="different items of scienceqa: 1 are in one run only"):
        compare_models(short, several("bb", 0.5))
