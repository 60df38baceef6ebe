"""The writers' files, line by line as the official releases have them."""

import base64
import csv
import json
from pathlib import Path

from sharecap.scenes.benchmark_files import Question, YesNoPair, write_mmbench, write_mme, write_vqav2
from tests.evals.small import pictures


def test_mme_files_have_two_lines_an_image_in_both_layouts(tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "drawn", 2)
    pairs = [
        YesNoPair(one, "relation", "Is it left?", "Is it right?"),
        YesNoPair(one, "position", "Is it up?", "Is it down?"),
        YesNoPair(two, "style", "Is it a mosaic?", "Is it a woodcut?"),
    ]
    write_mme(pairs, tmp_path / "mme")
    assert (tmp_path / "mme" / "position" / "000000.txt").read_text() == (
        "Is it left? Please answer yes or no.\tYes\nIs it right? Please answer yes or no.\tNo\n"
    )
    assert (tmp_path / "mme" / "position" / "000001.png").read_bytes() == one.read_bytes()
    assert (tmp_path / "mme" / "artwork" / "images" / "000000.png").read_bytes() == two.read_bytes()
    assert (tmp_path / "mme" / "artwork" / "questions_answers_YN" / "000000.txt").is_file()


def test_mmbench_rows_are_rolled_copies_with_the_answer_rolled_along(tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "drawn", 2)
    questions = [
        Question("a", one, "color", "Which color?", "blue", ("red", "blue", "green")),
        Question("b", two, "count", "How many?", "two", ("two", "three")),
    ]
    write_mmbench(questions, tmp_path / "dev.tsv")
    with open(tmp_path / "dev.tsv", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    assert [(r["index"], r["A"], r["B"], r["C"], r["answer"]) for r in rows] == [
        ("0", "red", "blue", "green", "B"),
        ("1", "two", "three", "", "A"),
        ("1000000", "blue", "green", "red", "A"),
        ("1000001", "three", "two", "", "B"),
        ("2000000", "green", "red", "blue", "C"),
    ]
    assert base64.b64decode(rows[2]["image"]) == one.read_bytes()
    assert {r["category"] for r in rows} == {"color", "count"}


def test_vqav2_answers_stand_as_vqav2_has_them_ten_times(tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "drawn", 2)
    questions = [
        Question("a", one, "count", "How many?", "three"),
        Question("b", two, "relation", "Where?", "to the left of"),
        Question("c", one, "existence", "Is there?", "Yes"),
    ]
    write_vqav2(questions, tmp_path / "vqav2")
    content = json.loads((tmp_path / "vqav2" / "v2_mscoco_val2014_annotations.json").read_text())
    found = content["annotations"]
    assert [a["multiple_choice_answer"] for a in found] == ["3", "to left of", "yes"]
    assert [a["answer_type"] for a in found] == ["number", "other", "yes/no"]
    assert [a["question_type"] for a in found] == ["count", "relation", "existence"]
    assert [x["answer_id"] for x in found[0]["answers"]] == list(range(1, 11))
    assert [a["question_id"] for a in found] == [1000, 2000, 1001]
    images = sorted(p.name for p in (tmp_path / "vqav2" / "val2014").iterdir())
    assert images == ["COCO_val2014_000000000001.png", "COCO_val2014_000000000002.png"]
