"""Recorded models against each other: what is told apart, what is not, and how wide the intervals are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.evals.comparison import Model, RunComparison, compare_models, compare_runs
from sharecap.evals.results import Run
from sharecap.evals.suite import read_predictions
from sharecap.evals.task import grade
from sharecap.statistics import Comparison, intervals
from tests.evals.small import PARITY

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no recorded predictions at {PARITY}")


def run(benchmark: str, predictions: str | Path, labels: str | None = None) -> Run:
    path = PARITY / predictions
    task, answers = read_predictions(benchmark, [path], PARITY / labels if labels else None, None)
    return Run(Path(predictions).stem, {task.name: grade(task, answers, path)})


def headline(found: RunComparison) -> Comparison:
    ((task, (metric, _)),) = found.headlines.items()
    return found.benchmarks[task][metric]


def test_chair_tells_every_recorded_captioner_from_the_best() -> None:
    names = ("Instruction2_instructblip", "Instruction2_llava", "Instruction2_minigpt-4")
    best, *others = (run("chair", f"chair/captions/{name}.json", "chair") for name in names)
    for other in others:
        found = headline(compare_runs(best, other))
        assert found.decided
        assert found.difference.high < 0  # fewer objects that aren't there
        assert found.detectable < abs(found.difference.value)


def test_chair_s_caption_share_can_t_tell_the_two_long_captioners_and_its_mentions_can() -> None:
    minigpt, llava = (
        run("chair", f"chair/captions/{name}.json", "chair")
        for name in ("Instruction1_minigpt-4", "Instruction2_llava")
    )
    found = compare_runs(minigpt, llava).benchmarks["chair"]
    assert found["CHAIRi"].difference.high < 0
    assert found["CHAIRs"].difference.low < 0 < found["CHAIRs"].difference.high
    assert abs(found["CHAIRs"].difference.value) < found["CHAIRs"].detectable


def test_reviews_of_the_same_answers_differ_unless_their_spread_is_known() -> None:
    """A judge's second look moves LLaVA-Bench by more than a point."""
    files = [f"llava_bench/llava-v1.5-7b-eval{i}.jsonl" for i in (1, 2, 3)]
    first, second, third = (run("llava-bench", file) for file in files)
    alone = headline(compare_runs(first, third))
    assert alone.difference.value == pytest.approx(-1.6, abs=0.1)
    assert alone.decided
    found = compare_models(Model("once", (first, second)), Model("again", (third, second)))
    assert 0.3 < found.spread["llava-bench"][0] < 1.5
    assert not headline(found).decided
    assert headline(found).p > 0.05


def test_grades_of_one_run_and_of_three_agree() -> None:
    one, three = (
        run("mm-vet", f"mm_vet/llava-v1.5-7b_gpt-4-grade-{n}runs.json", "mm_vet/mm-vet.json") for n in (1, 3)
    )
    per_item = {r.group: r.score for r in one.records["mm-vet"]}
    again = [r for r in three.records["mm-vet"] if r.id.endswith("#2")]
    assert len(again) == len(per_item)
    second = Run("second", {"mm-vet": [replace(r, id=f"{r.group}#1") for r in again]})
    found = headline(compare_runs(one, second))
    assert not found.decided
    assert found.difference.high - found.difference.low < 3  # paired: two graders, the same 218 answers


@pytest.mark.parametrize(
    ("benchmark", "predictions", "labels", "metric", "half"),
    [
        ("seed-bench", "seed_bench/llava-v1.5-13b_upload.jsonl", "seed_bench/labels.jsonl", "image", 0.77),
        ("scienceqa", "scienceqa/llava-v1.5-13b_output.json", None, "image_accuracy", 1.97),
    ],
)
def test_intervals_of_recorded_models_are_as_wide_as_is_known(
    benchmark: str, predictions: str, labels: str | None, metric: str, half: float
) -> None:
    one = run(benchmark, predictions, labels)
    found = intervals(one.measured()[benchmark].scores)[metric]
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_one_model_against_a_constant_is_decided_by_every_test(tmp_path: Path) -> None:
    ours = run("seed-bench", "seed_bench/llava-v1.5-13b_upload.jsonl", "seed_bench/labels.jsonl")
    rows = [json.dumps({"question_id": r.id, "prediction": "B"}) for r in ours.records["seed-bench"]]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    found = compare_runs(ours, run("seed-bench", tmp_path / "b.jsonl", "seed_bench/labels.jsonl"))
    assert headline(found).decided
    assert found.mcnemar["seed-bench"].p < 1e-100
    assert headline(found).detectable < 3
