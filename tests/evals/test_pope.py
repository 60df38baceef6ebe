"""POPE: garbage counts as yes and is shown, the yes-ratio is the answers', releases never mix."""

import json
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


@pytest.mark.parametrize("name", ["response", "answer"])
def test_answers_may_stand_beside_the_questions_of_the_label_file(tmp_path: Path, name: str) -> None:
    place = labels(tmp_path / "l")
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    said = lines(
        tmp_path / "a", [{**row, name: text} for row, text in zip(rows, ("yes", "no") * 2, strict=True)]
    )
    found = scored("pope", said, place)
    assert (found["score"], found["failed"]) == (1, 0)
    lines(tmp_path / "a", [{**row, name: "yes"} for row in rows[::-1]])
    with pytest.raises(SharecapError, match="answer 1 of random is to 'Is there a random 3"):
        scored("pope", tmp_path / "a", place)


def test_a_truth_beside_llava_s_answer_is_never_taken_for_it(tmp_path: Path) -> None:
    said = answers(tmp_path / "a", ["no"] * 4, answer="yes")
    assert scored("pope", said, labels(tmp_path / "l"))["sub"]["random: yes_ratio"] == 0


def test_a_label_file_is_no_file_of_answers(tmp_path: Path) -> None:
    place = labels(tmp_path / "l")
    with pytest.raises(SharecapError, match="row 1 of random holds its question"):
        scored("pope", place, place)


def test_a_null_is_an_empty_answer_which_the_rule_takes_for_yes(tmp_path: Path) -> None:
    rows = [{"prompt": f"Is there a random {i}?", "text": None} for i in range(4)]
    found = scored("pope", lines(tmp_path / "a", rows), labels(tmp_path / "l"))
    assert (found["sub"]["random: yes_ratio"], found["failed"]) == (1, 4)


def test_labels_may_have_capitals_and_be_lines(tmp_path: Path) -> None:
    place = labels(tmp_path / "l")
    text = place.read_text().replace('"yes"', '"Yes"').replace('"no"', '"No"')
    place.unlink()
    (tmp_path / "l" / "coco_pope_random.jsonl").write_text(text)
    said = answers(tmp_path / "a", ["yes", "no"] * 2)
    for at in (tmp_path / "l", tmp_path / "l" / "coco_pope_random.jsonl"):
        assert scored("pope", said, at)["score"] == 1


@pytest.mark.parametrize("at", ["pope", "pope/coco"])
def test_llava_s_folders_are_labels(tmp_path: Path, at: str) -> None:
    """Its question file lies above the label files, which here ask the same in two splits."""
    place = tmp_path / "pope" / "coco"
    place.mkdir(parents=True)
    rows = [{"image": "1.jpg", "text": "Is it?", "label": label} for label in ("yes", "no")]
    for split in ("adversarial", "popular"):
        lines(place / f"coco_pope_{split}.json", rows)
    asked = [{"question_id": i, "category": ("popular", "adversarial")[i // 2]} for i in range(4)]
    lines(tmp_path / "pope" / "llava_pope_test.jsonl", asked)
    texts = ("yes", "no", "yes", "yes")
    said = [{"question_id": i, "prompt": "Is it?", "text": text} for i, text in enumerate(texts)]
    found = scored("pope", lines(tmp_path / "a.jsonl", said), tmp_path / at)
    assert (found["sub"]["popular: f1"], found["sub"]["adversarial: acc"]) == (1, 0.5)
