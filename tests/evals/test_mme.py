"""MME: the rule of four characters, pairs by image, both layouts of the release, files that aren't right."""

from pathlib import Path

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import mme
from sharecap.evals.task import Record, grade
from sharecap.statistics import value
from tests.evals.scored import lines, scored
from tests.evals.small import pictures


def result_lines(*responses: tuple[str, str]) -> list[str]:
    """Two lines an image: responses to the question that is true and to the one that is not."""
    return [
        f"{i}.jpg\tIs it {truth}? Please answer yes or no.\t{truth}\t{response}\n"
        for i, pair in enumerate(responses)
        for truth, response in zip(("Yes", "No"), pair, strict=True)
    ]


def graded_file(path: Path, lines: list[str]) -> tuple[list[Record], dict[str, float]]:
    path.write_text("".join(lines), encoding="utf-8")
    task, answers = mme.read_predictions(path, None)
    records = grade(task, answers, path)
    return records, {name: value(score) for name, score in task.measure(records).scores.items()}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("  Yes", None),
        (" yes, there is", "yes"),
        ("Not sure", "no"),
        ("It is yes", None),
        ("", None),
        ("YES", "yes"),
        ("unknown", None),
        ("I know", None),
        ("know", "no"),
        ("maybe", None),
    ],
)
def test_yes_and_no_are_looked_for_in_four_characters(text: str, answer: str | None) -> None:
    sample = next(iter(mme.task([mme.sample(("count", "a", 1), "?", "Yes", (), Path())]).samples))
    assert mme.parse(sample, text) == answer


def test_a_subtask_is_accuracy_plus_accuracy_of_whole_images(tmp_path: Path) -> None:
    lines = result_lines(("yes", "no"), ("yes", "yes"), ("no", "maybe"), ("Yes.", "No."))
    records, scores = graded_file(tmp_path / "count.txt", lines)
    assert scores["count"] == pytest.approx(100 * 5 / 8 + 100 * 2 / 4)
    assert sum(r.parsed is None for r in records) == 1
    assert scores["total"] == scores["perception"] == scores["count"]
    assert "cognition" not in scores  # nothing of it was asked: not zero, not there


def test_pairs_are_made_by_image_whatever_the_order(tmp_path: Path) -> None:
    lines = result_lines(("yes", "no"), ("yes", "yes"), ("no", "no"))
    _, in_order = graded_file(tmp_path / "count.txt", lines)
    _, mixed = graded_file(tmp_path / "count.txt", lines[::2] + lines[1::2])
    assert mixed == in_order


def test_a_constant_yes_gets_a_quarter_of_the_marks(tmp_path: Path) -> None:
    _, scores = graded_file(tmp_path / "OCR.txt", result_lines(*[("Yes", "Yes")] * 10))
    assert scores["OCR"] == 50.0


def test_missing_subtasks_are_named_and_full_marks_shrink(tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text("".join(result_lines(("yes", "no"))))
    (tmp_path / "code_reasoning.txt").write_text("".join(result_lines(("yes", "no"))))
    task, answers = mme.read_predictions(tmp_path, None)
    measures = task.measure(grade(task, answers, tmp_path))
    assert measures.out_of == 400
    assert value(measures.scores["total"]) == 400
    assert "12 of 14 subtasks are not there" in measures.notes[0]
    assert "celebrity" in measures.notes[0]
    assert measures.notes[0].endswith("perception is out of 200, cognition is out of 200")


def test_the_prompt_asks_for_a_short_answer_instead(tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text("".join(result_lines(("yes", "no"))))
    task, _ = mme.read_predictions(tmp_path, None)
    asked = task.prompt(task.samples[0])
    assert asked == "Is it Yes?\nAnswer the question using a single word or phrase."


def test_both_layouts_of_the_release_are_read_also_one_folder_down(tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "drawn", 2)
    root = tmp_path / "mme" / "MME_Benchmark_release_version"
    beside, split = root / "count", root / "landmark"
    for folder in (beside, split / "images", split / "questions_answers_YN"):
        folder.mkdir(parents=True)
    lines = "Is it A? Please answer yes or no.\tYes\nIs it B? Please answer yes or no.\tNo\n"
    (beside / "1.png").write_bytes(one.read_bytes())
    (beside / "1.txt").write_text(lines)
    (split / "images" / "x.png").write_bytes(two.read_bytes())
    (split / "questions_answers_YN" / "x.txt").write_text(lines)
    (task,) = mme.read_tasks(tmp_path / "mme")
    assert [s.id for s in task.samples] == [
        *("count/1.png#1", "count/1.png#2", "landmark/x.png#1", "landmark/x.png#2")
    ]
    assert [s.reference for s in task.samples] == ["Yes", "No"] * 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1.jpg\tIs it?\tYes\n"], "line 1 has 3 tab-separated fields"),
        (["1.jpg\tIs it?\tYes\tyes\n"], "do not have two answers each"),
        (["1.jpg\tIs it?\tYes\tyes\n"] * 2, "appears twice"),
        (["1.jpg\tIs it?\tPerhaps\tyes\n"], "must be Yes or No"),
        ([], "no questions"),
    ],
)
def test_a_wrong_result_file_is_one_clear_line(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(SharecapError, match=words):
        graded_file(tmp_path / "count.txt", lines)


def test_a_file_that_is_no_subtask_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match="'counting' is not a subtask"):
        graded_file(tmp_path / "counting.txt", result_lines(("yes", "no")))


@pytest.mark.parametrize(
    ("content", "words"),
    [("Is it?\tYes\n", "two lines"), ("Is it?\tYes\nIs it not?\tDunno\n", "must be Yes or No")],
)
def test_a_wrong_question_file_is_one_clear_line(tmp_path: Path, content: str, words: str) -> None:
    (image,) = pictures(tmp_path / "mme" / "count", 1)
    image.with_suffix(".txt").write_text(content)
    with pytest.raises(SharecapError, match=words):
        mme.read_tasks(tmp_path / "mme")


def test_questions_without_their_image_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mme" / "count"
    folder.mkdir(parents=True)
    (folder / "7.txt").write_text("Is it?\tYes\nIs it not?\tNo\n")
    with pytest.raises(SharecapError, match=r"no image for these questions.*7\.txt"):
        mme.read_tasks(tmp_path / "mme")


PAIR = (("Is it one?", "Yes"), ("Is it two?", "No"))


def said(path: Path, texts: tuple[object, object]) -> Path:
    rows = [
        {"question_id": "count/1.png", "prompt": question, "text": text}
        for (question, _), text in zip(PAIR, texts, strict=True)
    ]
    return lines(path, rows)


def results(path: Path) -> Path:
    path.write_text("".join(f"1.jpg\t{question}\t{truth}\tyes\n" for question, truth in PAIR))
    return path


def test_an_answer_of_null_is_no_answer_and_not_the_no_in_none(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    results(tmp_path / "l" / "count.txt")
    found = scored("mme", said(tmp_path / "a.jsonl", ("Yes", None)), tmp_path / "l")
    assert (found["sub"]["count"], found["failed"]) == (50, 1)


def test_one_result_file_is_labels_too(tmp_path: Path) -> None:
    path = results(tmp_path / "count.txt")
    assert scored("mme", said(tmp_path / "a.jsonl", ("Yes", "No")), path)["sub"]["count"] == 200


def test_other_texts_beside_the_subtasks_are_passed_over_and_capitals_don_t_matter(tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.mkdir()
    (place / "README.txt").write_text("About these files.\n")
    with pytest.raises(SharecapError, match="'README' is not a subtask"):
        scored("mme", place)
    results(place / "ocr.txt")
    assert scored("mme", place)["sub"]["OCR"] == 50
    rows = [{"question_id": "OCR/1.png", "prompt": question, "text": truth} for question, truth in PAIR]
    assert scored("mme", lines(tmp_path / "a.jsonl", rows), place)["sub"]["OCR"] == 200
