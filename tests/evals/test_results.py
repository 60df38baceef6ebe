"""Comparisons of two runs: paired on the same items, or refused with a reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.comparison import Model, compare_all, compare_runs
from sharecap.evals.exam import Exam
from sharecap.evals.results import Run, read_run
from sharecap.evals.runner import evaluate, keep_predictions
from sharecap.evals.tables import comparison_lines, score_lines
from sharecap.evals.task import Record, Sample, grade
from tests.evals.small import Scripted, knowing, right_answer, tasks_of, write_benchmarks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("written"), 24)


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """One that knows everything, one that knows nothing about colors."""
    out = tmp_path_factory.mktemp("runs")
    tasks = tasks_of(root)

    def colorless(sample: Sample) -> bool:
        return sample.kind != "color"

    evaluate(knowing(tasks), Exam(tasks, resamples=100), out / "a")
    evaluate(replace_name(knowing(tasks, colorless), "colorless"), Exam(tasks, resamples=100), out / "b")
    return read_run(out / "a"), read_run(out / "b")


def models(*runs: Run) -> list[Model]:
    return [Model(run.name, (run,)) for run in runs]


def replace_name(answerer: Scripted, name: str) -> Scripted:
    return Scripted(answerer.reply, name * 8, name)


def test_a_run_equals_itself_exactly(runs: tuple[Run, Run]) -> None:
    found = compare_runs(runs[1], runs[1], resamples=300)
    for comparison in (found.overall, *found.kinds.values(), *found.benchmarks["mmbench"].values()):
        assert comparison.difference.value == 0
        assert comparison.difference.low in (0, None)
        assert comparison.difference.high in (0, None)


def test_a_difference_is_found_where_it_is_and_only_there(runs: tuple[Run, Run]) -> None:
    found = compare_runs(*runs, resamples=500)
    assert found.kinds["color"].difference.value == pytest.approx(100)
    assert found.kinds["count"].difference.value == 0
    assert found.benchmarks["mme"]["total"].difference.value == pytest.approx(200)
    assert found.benchmarks["mmbench"]["circular_accuracy"].difference.value == pytest.approx(12.5)
    assert found.overall.difference.value == pytest.approx((100 / 7 + 12.5 + 12.5) / 3)
    assert found.unparsed["mme"] == (0, 6)
    assert (found.a, found.b) == ("scripted", "colorless")


def test_the_tables_say_every_number_with_its_interval(
    runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # narrower terminals cut names
    text = "\n".join(comparison_lines(compare_all(models(*runs), resamples=200)))
    assert "total (of 1400)" in text
    assert "+200.00" in text
    assert "p corrected for looking 3 times; *: below 0.05 even so" in text
    assert "mmbench: McNemar p 0.250 (3 right in scripted only, 0 in colorless only)" in text
    assert "0 and 6 of 48 answers could not be parsed" in text
    assert "overall" in text


def test_benchmarks_that_only_one_run_has_are_named_and_left_out(runs: tuple[Run, Run]) -> None:
    a, b = runs
    smaller = Run("smaller", {name: rs for name, rs in b.records.items() if name != "vqav2"})
    found = compare_runs(a, smaller, resamples=100)
    assert found.only_in_one == ["vqav2"]
    assert set(found.benchmarks) == {"mme", "mmbench"}
    assert "vqav2: not in all runs, not compared" in comparison_lines([found])


def test_runs_without_a_common_benchmark_are_refused(runs: tuple[Run, Run]) -> None:
    a, b = runs
    with pytest.raises(SharecapError, match="no benchmark in common"):
        compare_runs(Run("a", {"mme": a.records["mme"]}), Run("b", {"vqav2": b.records["vqav2"]}))


def changed(run: Run, task: str, change: dict[str, object]) -> Run:
    records = list(run.records[task])
    return Run(run.name, {**run.records, task: [replace(records[0], **change), *records[1:]]})


def test_runs_on_different_items_data_or_rules_are_refused(runs: tuple[Run, Run]) -> None:
    a, b = runs
    shorter = Run("shorter", {**b.records, "mme": b.records["mme"][:-2]})
    with pytest.raises(SharecapError, match="different items of mme: 2 are in one run only"):
        compare_runs(a, shorter)
    with pytest.raises(SharecapError, match="different data or by different rules: vqav2"):
        compare_runs(a, changed(b, "vqav2", {"reference": ["other"] * 10}))
    labels = {**b.records["vqav2"][0].labels, "rule": "server"}
    with pytest.raises(SharecapError, match="different data or by different rules: vqav2"):
        compare_runs(a, changed(b, "vqav2", {"labels": labels}))


def test_predictions_from_elsewhere_are_paired_with_a_run_by_item(
    root: Path, runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """Their images are known by name only; they are resampled with the run's."""
    (task,) = (t for t in tasks_of(root) if t.name == "mme")
    records = grade(task, {s.id: right_answer(s) for s in task.samples}, tmp_path)
    keep_predictions("elsewhere", records, tmp_path / "kept", resamples=100)
    found = compare_runs(read_run(tmp_path / "kept"), runs[0], resamples=100)
    assert found.overall.difference == found.overall.difference.__class__(0.0, 0.0, 0.0)


def test_a_directory_of_another_kind_is_refused(tmp_path: Path) -> None:
    from sharecap import artifact

    artifact.stage(tmp_path / "x", "model", {}, {}, lambda _: {})
    with pytest.raises(SharecapError, match="this is a 'model', not an evaluation"):
        read_run(tmp_path / "x")
    with pytest.raises(SharecapError, match="no finished result here"):
        read_run(tmp_path / "nothing")


def test_a_score_without_enough_images_shows_no_interval(tmp_path: Path) -> None:
    line = Record("vqav2", "1", ("i",), "", "x", "x", ["x"], 1.0, 0.0, "", "1", {"rule": "server"})
    keep_predictions("one", [line], tmp_path / "run", resamples=50)
    from sharecap.evals.results import read_results

    assert "too few images" in "\n".join(score_lines(read_results(tmp_path / "run")))
