"""Recorded predictions of other people's models give the figures that the benchmarks' own scorers give."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharecap.evals.benchmarks import mmbench, mme, vqa
from sharecap.evals.statistics import value
from sharecap.evals.task import Record, Task, grade
from tests.evals.small import PARITY

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no recorded predictions at {PARITY}")


@pytest.fixture(scope="module")
def expected() -> Any:
    return json.loads((PARITY / "expected.json").read_text())


def scores(task: Task, records: list[Record]) -> dict[str, float]:
    return {name: value(score) for name, score in task.measure(records).scores.items()}


def test_mme_perception_and_cognition_match(expected: Any) -> None:
    task, answers = mme.read_predictions(PARITY / "mme" / "lavin")
    records = grade(task, answers, PARITY)
    case = expected["mme"]["cases"]["mme/lavin/*.txt"]
    found = scores(task, records)
    for name in ("perception", "cognition"):
        assert found[name] == pytest.approx(case[name], abs=expected["mme"]["tolerance"])
    assert found["total"] == pytest.approx(case["perception"] + case["cognition"])
    assert len(records) == 2374
    assert task.measure(records).notes == ()


def test_mmbench_circular_accuracy_matches(expected: Any) -> None:
    case = expected["mmbench"]["cases"]["mmbench/dev_half_llava-v1.5-13b.xlsx"]
    path = PARITY / "mmbench" / "dev_half_llava-v1.5-13b.xlsx"
    task, answers = mmbench.read_predictions(path, None)
    records = grade(task, answers, path)
    (circular,) = task.measure(records).scores["circular_accuracy"]
    assert (len(records), len(circular.values)) == (case["rows"], case["groups"])
    assert sum(circular.values) == case["groups_right"]
    assert value((circular,)) == pytest.approx(
        case["circular_accuracy"], abs=expected["mmbench"]["tolerance"]
    )


@pytest.mark.parametrize(
    ("rule", "lower", "name"),
    [
        ("m4c", False, None),
        ("server-raw", False, "official VQA code on raw text"),
        ("server-raw", True, "official VQA code, lower-cased predictions"),
        ("server", False, "official VQA code, predictions normalised first"),
    ],
)
@pytest.mark.parametrize(
    "file", ["llava-v1.5-13b_answers.jsonl", "llava-v1.5-13b_vqaformat_predictions.json"]
)
def test_textvqa_accuracy_matches_under_every_rule(
    expected: Any, file: str, rule: str, lower: bool, name: str | None
) -> None:
    folder = PARITY / "textvqa"
    task, answers = vqa.read_predictions("textvqa", folder / file, folder, rule)
    if lower:
        answers = {question: answer.lower() for question, answer in answers.items()}
    records = grade(task, answers, Path(file))
    case = expected["textvqa"]["cases"]["textvqa/llava-v1.5-13b_answers.jsonl"]
    wanted = expected["textvqa"]["same predictions under other normalisations"].get(name, case["accuracy"])
    assert len(records) == case["n"]
    assert scores(task, records)["accuracy"] == pytest.approx(wanted, abs=expected["textvqa"]["tolerance"])


def test_a_constant_answer_keeps_its_score_where_people_carry_no_id(tmp_path: Path) -> None:
    """By position, ten equal entries without an id are still ten people."""
    people = [{"answer": "unanswerable"}] * 10
    question = {"question_id": 1, "image_id": 1, "question": "what?"}
    (tmp_path / "questions.json").write_text(json.dumps({"questions": [question]}))
    (tmp_path / "annotations.json").write_text(
        json.dumps({"annotations": [{"question_id": 1, "answers": people}]})
    )
    predictions = tmp_path / "predictions" / "p.json"
    predictions.parent.mkdir()
    predictions.write_text(json.dumps([{"question_id": 1, "answer": "unanswerable"}]))
    task, answers = vqa.read_predictions("vqav2", predictions, tmp_path, "server")
    assert grade(task, answers, predictions)[0].score == 1.0
