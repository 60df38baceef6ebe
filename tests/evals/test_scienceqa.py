"""ScienceQA: which letters its rule takes, where the truth may stand, which questions have a picture."""

from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import scienceqa
from sharecap.evals.task import Sample
from tests.evals.scored import lines, scored, whole

SAMPLE = Sample("1", (), "", "?", None, "", "1")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("B. low", "B"), ("B.", None), ("b", None), (" B", None), ("(B)", None),
        ("Thus low. The answer is B.", "B"), ("The answer is B", None),
        ("The answer is B. The answer is C.", None), ("the answer is B.", None), ("FAILED", None),
    ],
)  # fmt: skip
def test_scienceqa_takes_a_letter_in_three_forms_only(text: str, letter: str | None) -> None:
    assert scienceqa.parse(SAMPLE, text) == letter


def problems(directory: Path) -> Path:
    rows = {
        name: {"question": "Which?", "choices": ["x", "y"], "answer": 1, "image": image, "hint": hint}
        for name, image, hint in (("1", "image.png", ""), ("2", None, "Look."), ("9", None, ""))
    }
    whole(directory / "pid_splits.json", {"test": ["1", "2"], "train": ["9"]})
    return whole(directory / "problems.json", rows)


def test_scienceqa_answers_are_scored_against_the_official_problems(tmp_path: Path) -> None:
    labels = problems(tmp_path)
    rows = [
        {"question_id": "1", "text": "B", "prompt": "?"},
        {"question_id": "2", "text": "A", "prompt": "?"},
    ]
    for place in (labels, tmp_path):
        found = scored("scienceqa", lines(tmp_path / "answers.jsonl", rows), place)
        assert (found["metric"], found["score"], found["n"]) == ("image_accuracy", 100, 1)
        assert found["sub"] == {"accuracy": 50, "image_accuracy": 100, "text_accuracy": 0}
    result = {"acc": 50.0, "results": {}, "outputs": {"1": "The answer is B.", "2": "The answer is B."}}
    assert scored("scienceqa", whole(tmp_path / "result.json", result), labels)["sub"]["accuracy"] == 100
    with pytest.raises(SharecapError, match=r"add --labels problems\.json"):
        scored("scienceqa", tmp_path / "result.json")


@pytest.mark.parametrize("answer", [-1, 2, "A", None])
def test_scienceqa_s_answer_must_be_a_place_among_its_choices(tmp_path: Path, answer: object) -> None:
    row = {"question": "Which?", "choices": ["x", "y"], "answer": answer, "hint": ""}
    with pytest.raises(SharecapError, match=r"problem 7: the answer .* is no place among its choices"):
        scienceqa.read_samples(whole(tmp_path / "problems.json", {"7": row}))


def test_scienceqa_without_knowledge_of_pictures_says_so(tmp_path: Path) -> None:
    labels = lines(
        tmp_path / "l.jsonl", [{"question_id": "1", "answer": "A"}, {"question_id": "2", "answer": "B"}]
    )
    rows = [{"question_id": n, "text": "A"} for n in ("1", "2")]
    found = scored("scienceqa", lines(tmp_path / "p.jsonl", rows), labels)
    assert (found["metric"], found["score"]) == ("accuracy", 50)
    assert "which questions have a picture is not known" in found["notes"][0]


@pytest.mark.parametrize("answers", [(0, 1), ("0", "1"), ("A", "B"), ("a", "b")])
def test_scienceqa_s_labels_are_letters_or_places_from_zero(tmp_path: Path, answers: tuple[Any, Any]) -> None:
    rows = [{"question_id": str(i), "answer": answer} for i, answer in enumerate(answers)]
    said = lines(tmp_path / "p.jsonl", [{"question_id": str(i), "text": "AB"[i]} for i in range(2)])
    for labels in (lines(tmp_path / "l.jsonl", rows), whole(tmp_path / "l.json", rows)):
        assert scored("scienceqa", said, labels)["score"] == 100


@pytest.mark.parametrize("answer", [8, -1, "high", "", None, True, 0.5, "AB"])
def test_a_label_of_scienceqa_s_that_is_neither_is_refused(tmp_path: Path, answer: object) -> None:
    labels = lines(tmp_path / "l.jsonl", [{"question_id": "7", "answer": answer}])
    said = lines(tmp_path / "p.jsonl", [{"question_id": "7", "text": "A"}])
    with pytest.raises(SharecapError, match=r"question 7: the answer .* is neither a letter nor a choice"):
        scored("scienceqa", said, labels)
    lines(labels, [{"question_id": "7", "answer": 2, "choices": ["x", "y"]}])
    with pytest.raises(SharecapError, match="question 7: the answer 2 is neither"):
        scored("scienceqa", said, labels)


def test_prompts_tell_pictures_where_scienceqa_s_problems_don_t(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1}
    rows = [
        {"question_id": "1", "text": "B", "prompt": "<image>\nWhich?"},
        {"question_id": "2", "text": "A", "prompt": "Which?"},
    ]
    said = lines(tmp_path / "p.jsonl", rows)
    for first in (row, {**row, "image": "image.png"}):
        labels = whole(tmp_path / "problems.json", {"1": first, "2": row})
        found = scored("scienceqa", said, labels)
        assert found["sub"] == {"accuracy": 50, "image_accuracy": 100, "text_accuracy": 0}
        bare = lines(tmp_path / "bare.jsonl", [{"question_id": r["question_id"], "text": "B"} for r in rows])
        assert scored("scienceqa", bare, labels)["metric"] == (
            "accuracy" if first is row else "image_accuracy"
        )


def test_scienceqa_s_problems_name_their_split_themselves(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "image": None}
    labels = whole(
        tmp_path / "problems.json", {"1": {**row, "split": "test"}, "2": {**row, "split": "train"}}
    )
    said = lines(tmp_path / "p.jsonl", [{"question_id": "1", "text": "B"}])
    found = scored("scienceqa", said, labels)
    assert (found["score"], found["sub"]["text_accuracy"]) == (100, 100)


def test_llava_s_question_file_of_scienceqa_holds_the_truth(tmp_path: Path) -> None:
    def asked(name: str, question: str, answer: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"id": name, "conversations": turns}

    rows = [asked("1", "Which?\n<image>", "The answer is B."), asked("2", "Which?", "The answer is A.")]
    labels = whole(tmp_path / "llava_test_CQM-A.json", rows)
    said = lines(tmp_path / "p.jsonl", [{"question_id": n, "text": "B"} for n in ("1", "2")])
    found = scored("scienceqa", said, labels)
    assert found["sub"] == {"accuracy": 50, "image_accuracy": 100, "text_accuracy": 0}
    whole(labels, [asked("1", "Which?", "It is B.")])
    with pytest.raises(SharecapError, match=r"question 1: no one letter in 'It is B\.'"):
        scored("scienceqa", said, labels)
