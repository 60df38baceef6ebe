"""POPE: garbage counts as yes and is shown, the yes-ratio is the answers', releases never mix."""

from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError
from tests.evals.scored import lines, scored

OBJECTS = ("dog", "cat", "bus", "tie")


def labels(directory: Path, split: str = "random", questions: int = 4, first: int = 0) -> Path:
    """Every second object is there."""
    directory.mkdir(exist_ok=True)
    rows = [
        {"image": f"{i // 2}.jpg", "text": f"Is there a {split} {i}?", "label": ("yes", "no")[i % 2]}
        for i in range(first, first + questions)
    ]
    return lines(directory / f"coco_pope_{split}.json", rows)


def answers(path: Path, texts: list[str], split: str = "random", **more: Any) -> Path:
    rows = [
        {"question_id": i, "prompt": f"Is there a {split} {i}?\nOne word.", "text": t, **more}
        for i, t in enumerate(texts)
    ]
    return lines(path, rows)


def test_what_says_neither_yes_nor_no_counts_as_yes_and_is_shown(tmp_path: Path) -> None:
    found = scored("pope", answers(tmp_path / "a", ["Yes", "banana", "no", "No."]), labels(tmp_path / "l"))
    assert found["notes"][0] == "random: TP 1, FP 1, TN 1, FN 1"
    assert found["failed"] == 1
    assert found["score"] == 0.5


@pytest.mark.parametrize(
    ("text", "no"),
    [
        ("No, there is not.", True),
        ("There is not one", True),
        ("nothing", False),
        ("NO", False),  # the rule knows no and No only
        ("Yes. No dog though.", False),  # only the first sentence is read
        ("I, see no, dog", True),
        ("", False),
    ],
)
def test_the_first_sentences_words_decide(tmp_path: Path, text: str, no: bool) -> None:
    found = scored("pope", answers(tmp_path / "a", [text] * 4), labels(tmp_path / "l"))
    assert found["sub"]["random: yes_ratio"] == (0 if no else 1)


def test_the_yes_ratio_is_that_of_the_answers(tmp_path: Path) -> None:
    """Half of the labels are yes, whatever was answered."""
    found = scored("pope", answers(tmp_path / "a", ["yes", "yes", "yes", "no"]), labels(tmp_path / "l"))
    assert found["sub"]["random: yes_ratio"] == 0.75


def test_answers_to_the_old_random_split_are_refused_on_the_new_one(tmp_path: Path) -> None:
    place = labels(tmp_path / "l", questions=3000)
    with pytest.raises(SharecapError, match=r"2,910 answers for 3,000 labels.*2,910 questions in the old"):
        scored("pope", answers(tmp_path / "a", ["yes"] * 2910), place)


def test_answers_in_another_order_than_the_labels_are_refused(tmp_path: Path) -> None:
    place = labels(tmp_path / "l", first=1)
    with pytest.raises(SharecapError, match="answer 1 of random is to 'Is there a random 0"):
        scored("pope", answers(tmp_path / "a", ["yes"] * 4), place)


def test_splits_are_told_apart_by_their_questions_or_by_their_files(tmp_path: Path) -> None:
    place = tmp_path / "l"
    for split in ("adversarial", "popular"):
        labels(place, split)
        (tmp_path / "files").mkdir(exist_ok=True)
        answers(tmp_path / "files" / f"answers_{split}.jsonl", ["yes", "no", "yes", "yes"], split)
    both = [(tmp_path / "files" / f"answers_{s}.jsonl").read_text() for s in ("popular", "adversarial")]
    (tmp_path / "one.jsonl").write_text("".join(both))
    found = scored("pope", tmp_path / "one.jsonl", place)
    assert found == scored("pope", tmp_path / "files", place)
    assert found["score"] == pytest.approx(0.8)
    assert "splits that are not there: random" in found["notes"]
    (tmp_path / "one.jsonl").write_text(both[0] + both[0])
    with pytest.raises(
        SharecapError, match="8 answers for 8 labels of adversarial, popular can't be matched"
    ):
        scored("pope", tmp_path / "one.jsonl", place)


def test_a_precision_without_a_yes_is_left_out_and_f1_is_zero(tmp_path: Path) -> None:
    found = scored("pope", answers(tmp_path / "a", ["no"] * 4), labels(tmp_path / "l"))
    assert found["score"] == 0
    assert "random: precision" not in found["sub"]


def test_one_split_is_picked_out_by_the_question_file(tmp_path: Path) -> None:
    place = tmp_path / "l"
    rows = [
        {"question_id": i, "text": f"Is there a {split} {i % 4}?", "category": split}
        for i, split in enumerate(["popular"] * 4 + ["random"] * 4)
    ]
    only = labels(place, "random")
    lines(place / "llava_pope_test.jsonl", rows)
    said = [{"question_id": row["question_id"], "prompt": row["text"], "text": "yes"} for row in rows]
    found = scored("pope", lines(tmp_path / "a.jsonl", said), only)
    assert (found["n"], found["sub"]["random: recall"]) == (4, 1)
    said[0]["question_id"] = 99
    with pytest.raises(SharecapError, match="no question 99 in the question file"):
        scored("pope", lines(tmp_path / "a.jsonl", said), only)
