"""MMBench: which option a text names, circular evaluation, and tables with quirks or faults."""

import base64
import json
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import mmbench
from sharecap.evals.task import Sample, grade
from sharecap.statistics import value

OPTIONS = {"A": "a cat", "B": "the dog", "C": "A blue bird"}
SAMPLE = Sample("1", (), "", "Which?", {"answer": "B", "options": OPTIONS}, "animals", "1")
HEADER = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image")


def table(path: Path, rows: list[tuple[object, ...]], header: tuple[str, ...] = HEADER) -> Path:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)), encoding="utf-8")
    return path


def rolled(group: int, answer: int = 0, copies: int = 3) -> list[tuple[object, ...]]:
    """Rows of one question: option k of copy 0 stands first in copy k."""
    texts = ["x", "y", "z"]
    rows: list[tuple[object, ...]] = []
    for k in range(copies):
        turned = texts[k:] + texts[:k]
        letter = "ABC"[turned.index(texts[answer])]
        rows.append((group + k * 1_000_000, "Which?", "", *turned, "", letter, "letters", ""))
    return rows


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B.", "B"),
        ("(B)", "B"),
        ("[C]:", "C"),
        ("B. the dog", "B"),
        ("C) A blue bird, I think", "C"),
        ("The answer is B", "B"),
        ("the correct option is (C).", "C"),
        ("Answer: A", "A"),
        ("the dog", "B"),
        ("The dog.", "B"),
        ("A blue bird", "C"),
        ("A cat is what I see", None),
        ("D", None),  # not offered
        ("A or B", None),
        ("the answer is B, or the answer is C", None),
        ("a", None),
        ("", None),
        ("I see nothing", None),
        ("Answer: a cat", None),
        ("Answer: A cat", None),
        ("the answer is B because I say so", "B"),
        ("Both. None of them.", None),
    ],
)
def test_a_text_names_one_option_or_none(text: str, letter: str | None) -> None:
    assert mmbench.parse(SAMPLE, text) == letter


@given(st.text(max_size=40))
def test_a_parsed_letter_is_always_one_that_was_offered(text: str) -> None:
    assert mmbench.parse(SAMPLE, text) in (None, *OPTIONS)


def test_a_question_counts_only_if_all_its_copies_are_right(tmp_path: Path) -> None:
    path = table(tmp_path / "dev.tsv", [*rolled(1), *rolled(2, answer=1), *rolled(3, copies=2)])
    task = mmbench.task(mmbench.read_samples(path))
    right = {s.id: s.reference["answer"] for s in task.samples}
    records = grade(task, right | {"2000002": "nothing"}, path)
    scores = {name: value(score) for name, score in task.measure(records).scores.items()}
    assert scores["circular_accuracy"] == pytest.approx(100 * 2 / 3)
    assert scores["accuracy"] == pytest.approx(100 * 7 / 8)
    assert scores["category: letters"] == scores["circular_accuracy"]


@pytest.mark.parametrize("letter", "ABC")
def test_a_constant_letter_gets_nothing(tmp_path: Path, letter: str) -> None:
    path = table(tmp_path / "dev.tsv", [*rolled(1), *rolled(2, answer=1), *rolled(3, answer=2)])
    task = mmbench.task(mmbench.read_samples(path))
    records = grade(task, {s.id: letter for s in task.samples}, path)
    assert value(task.measure(records).scores["circular_accuracy"]) == 0
    assert value(task.measure(records).scores["accuracy"]) == pytest.approx(100 / 3)


def test_the_prompt_has_hint_question_options_and_suffix(tmp_path: Path) -> None:
    rows = [(5, "Which?", "Look up.", "x", "y", "nan", "", "B", "", "")]
    task = mmbench.task(mmbench.read_samples(table(tmp_path / "dev.tsv", rows)))
    suffix = "Answer with the option's letter from the given choices directly."
    assert task.prompt(task.samples[0]) == f"Look up.\nWhich?\nA. x\nB. y\n{suffix}"


def test_a_chinese_table_gets_the_chinese_suffix_and_its_own_name(tmp_path: Path) -> None:
    rows = [(*row[:-1], base64.b64encode(b"picture").decode()) for row in rolled(1)]
    for name in ("mmbench_dev_20230712", "mmbench_dev_cn_20231003"):
        table(tmp_path / f"{name}.tsv", rows)
    english, chinese = mmbench.read_tasks(tmp_path)
    assert (english.name, chinese.name) == ("mmbench", "mmbench-cn")
    assert chinese.prompt(chinese.samples[0]).endswith("请直接回答选项字母。")


def test_an_image_may_be_the_index_of_the_row_that_holds_it(tmp_path: Path) -> None:
    code = base64.b64encode(b"picture" * 20).decode()
    first, second, *_ = rolled(1)
    path = table(tmp_path / "dev.tsv", [(*first[:-1], code), (*second[:-1], 1)])
    assert [s.images for s in mmbench.read_samples(path)] == [(b"picture" * 20,)] * 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*rolled(1), *rolled(1)], "item 1 appears twice"),
        (
            [(1, "Which?", "", "x", "y", "", "", "D", "", "")],
            "row 1: the answer 'D' is none of the options A/B",
        ),
        ([(1, "Which?", "", "x", "y", "", "", "", "", "")], "row 1 lacks answer"),
        ([("one", "Which?", "", "x", "y", "", "", "A", "", "")], "'one' is not an index"),
        ([(1, "Which?", "", "x", "y", "", "", "A", "", "%%%")], "row 1: the image is not base64"),
        (rolled(1), "row 1 has no image"),
        ([], "no questions"),
    ],
)
def test_a_wrong_table_is_one_clear_line(tmp_path: Path, rows: list[tuple[object, ...]], words: str) -> None:
    table(tmp_path / "dev.tsv", rows)
    with pytest.raises(SharecapError, match=words):
        mmbench.read_tasks(tmp_path)


def test_a_table_without_its_columns_says_which(tmp_path: Path) -> None:
    table(tmp_path / "dev.tsv", [(1, "Which?")], header=("index", "question"))
    with pytest.raises(SharecapError, match="column missing: A, B, answer"):
        mmbench.read_tasks(tmp_path)


def test_predictions_are_read_from_json_lines_and_spreadsheets_alike(tmp_path: Path) -> None:
    data = table(tmp_path / "dev.tsv", rolled(1))
    lines = tmp_path / "p.jsonl"
    texts = {1: "A", 1_000_001: "C", 2_000_001: "B"}
    lines.write_text("".join(json.dumps({"question_id": i, "text": t}) + "\n" for i, t in texts.items()))
    book = openpyxl.Workbook()
    book.active.append(["index", "question", "A", "B", "C", "prediction", "answer"])
    for row in rolled(1):
        book.active.append([row[0], row[1], *row[3:6], texts[int(str(row[0]))], row[7]])
    book.save(tmp_path / "p.xlsx")
    for path, labels in ((lines, data), (tmp_path / "p.xlsx", None), (tmp_path / "p.xlsx", data)):
        task, answers = mmbench.read_predictions(path, labels)
        assert value(task.measure(grade(task, answers, path)).scores["circular_accuracy"]) == 100


def test_an_empty_prediction_is_wrong_and_counted(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["index", "question", "A", "B", "prediction", "answer"], [1, "?", "x", "y", None, "A"]):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    task, answers = mmbench.read_predictions(tmp_path / "p.xlsx", None)
    (record,) = grade(task, answers, tmp_path)
    assert (record.parsed, record.score) == (None, 0.0)


def test_predictions_that_lack_items_or_know_others_are_refused(tmp_path: Path) -> None:
    data = table(tmp_path / "dev.tsv", rolled(1))
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"index": 1, "prediction": "A"}\n')
    task, answers = mmbench.read_predictions(lines, data)
    with pytest.raises(SharecapError, match=r"2 of 3 items have no prediction \(first: 1000001\)"):
        grade(task, answers, lines)
    with pytest.raises(SharecapError, match=r"1 of 3 items are not in the benchmark \(first: 9\)"):
        grade(task, {s.id: "A" for s in task.samples} | {"9": "B"}, lines)
    lines.write_text('{"index": 1, "prediction": "A"}\n' * 2)
    with pytest.raises(SharecapError, match="item 1 appears twice"):
        mmbench.read_predictions(lines, data)


@pytest.mark.parametrize("content", ["not json\n", "{}\n", "[1]\n", "7\n", '{"index": "x", "text": "A"}\n'])
def test_lines_that_are_no_predictions_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    data = table(tmp_path / "dev.tsv", rolled(1))
    with pytest.raises(
        SharecapError, match=r"line 1 is not JSON|column missing|is not a JSON object|'x' is not an index"
    ):
        mmbench.read_predictions(tmp_path / "p.jsonl", data)


def test_a_file_that_only_calls_itself_a_spreadsheet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.xlsx").write_text("index,prediction\n")
    with pytest.raises(SharecapError, match="not a spreadsheet"):
        mmbench.read_predictions(tmp_path / "p.xlsx", None)
