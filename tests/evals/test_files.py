"""Files that can't be scored: each is one clear line that names the file and the row, for every benchmark."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharecap.errors import SharecapError
from sharecap.evals.files import answers_of, id_of, read_rows, read_whole, text_of
from sharecap.evals.suite import MEASURES, read_predictions
from tests.evals.scored import lines, scored, sheet, whole

HEADER = ["index", "question", "A", "B", "answer", "prediction"]
ROW = [1, "?", "x", "y", "A", "A"]


def half(path: Path) -> Path:
    path.write_text('{"question_id": "1", "text": "A"}\n{"question_id": "2", "te')
    return path


def test_half_written_lines_are_named_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match=r"line 2 is not JSON .*half-written.*") as error:
        read_rows(half(tmp_path / "p.jsonl"))
    assert "p.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


LABELS: dict[str, Callable[[Path], object]] = {
    "seed-bench": lambda p: lines(p, [{"question_id": "1", "answer": "A"}]),
    "scienceqa": lambda p: lines(p, [{"question_id": "1", "answer": "A"}]),
    "gqa": lambda p: whole(p, {"1": {"question": "?", "answer": "x"}}),
    "qbench": lambda p: whole(
        p, [{"question": "?", "img_path": "1", "candidates": ["x", "y"], "correct_ans": "x"}]
    ),
    "textvqa": lambda p: whole(
        p, {"data": [{"question_id": 1, "image_id": 1, "question": "?", "answers": ["x"] * 10}]}
    ),
    "pope": lambda p: lines(p, [{"image": "1", "text": "?", "label": "yes"}]),
}


@pytest.mark.parametrize("benchmark", LABELS)
@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "{}",
        "[1]",
        '{"question_id": "1"}',
        '{"question_id": "1", "text": "A"}\n{"question_id": "1", "text": "B"}\n',
        '{"question_id": "77", "text": "A"}\n{"question_id": "78", "text": "A"}\n',
        '{"question_id": "1", "text": "A"}\n{"question_id": "2", "te',
    ],
)
def test_bad_predictions_give_one_line_and_no_number(tmp_path: Path, benchmark: str, content: str) -> None:
    labels = tmp_path / "labels.json"
    LABELS[benchmark](labels)
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(SharecapError) as error:
        scored(benchmark, path, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("benchmark", MEASURES)
@pytest.mark.parametrize("content", ["", "[]", "{}", "[[]]", "null", "7", '{"a": {"score": 7}}', "\x00\xff"])
def test_no_benchmark_crashes_on_a_file_that_is_not_its_own(
    tmp_path: Path, benchmark: str, content: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(SharecapError):
        scored(benchmark, path, path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["question_id", "text", "answer", "data", "questions", "correct", "content", "score"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(sorted(MEASURES)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_refused(tmp_path: Path, content: object, benchmark: str) -> None:
    path = whole(tmp_path / "p.json", content)
    with contextlib.suppress(SharecapError):
        read_predictions(benchmark, [path], path, None)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match=r"column missing: prediction\|text"):
        scored("mmbench", sheet(tmp_path / "p.xlsx", [HEADER[:-1], ROW[:-1]]))
    with pytest.raises(SharecapError, match="column missing: A"):
        scored(
            "mmbench",
            sheet(tmp_path / "p.xlsx", [["index", "question", "B", "answer", "prediction"], ROW[:5]]),
        )
    with pytest.raises(SharecapError, match="column missing: answer"):
        scored("mmstar", sheet(tmp_path / "p.xlsx", [["index", "question", "prediction"], [1, "?", "A"]]))


def test_the_truth_is_never_taken_for_a_prediction(tmp_path: Path) -> None:
    """A table with a column `answer` and no prediction would score 100."""
    with pytest.raises(SharecapError, match="column missing"):
        scored("mmstar", sheet(tmp_path / "p.xlsx", [["index", "question", "answer"], [1, "?", "A"]]))


def test_a_formula_in_a_sheet_is_named_by_its_cell(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match=r"cell F2 holds a formula \(=A2\)"):
        scored("mmbench", sheet(tmp_path / "p.xlsx", [HEADER, [*ROW[:-1], "=A2"]]))


def test_a_table_with_broken_base64_is_named_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    header = [*HEADER, "image"]
    path.write_text("\n".join("\t".join(map(str, row)) for row in (header, [*ROW, "%%%"])) + "\n")
    with pytest.raises(SharecapError, match=r"row 1: the image is not base64.*p\.tsv"):
        scored("mmbench", path)


def test_a_row_with_more_cells_than_the_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("index\tprediction\n1\tA\n2\tB\tC\n")
    with pytest.raises(SharecapError, match="row 3 has 3 columns, the header 2"):
        read_rows(path)


def test_ids_are_the_same_as_number_text_and_spreadsheet_number() -> None:
    assert {id_of({"index": value}) for value in (7, "7", 7.0, "7.0")} == {"7"}
    assert id_of({"question_id": "1.5"}) == "1.5"


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_lines_lists_and_sheets_hold_the_same_answers(tmp_path: Path, answers: dict[str, str]) -> None:
    rows = [{"question_id": name, "text": text} for name, text in answers.items()]
    one, other = lines(tmp_path / "p.jsonl", rows), whole(tmp_path / "p.json", rows)
    found = answers_of(read_rows(one), one)
    assert found == answers_of(read_rows(other), other)
    assert list(found.values()) == list(answers.values())
    assert read_whole(other) == json.loads(other.read_text())


def test_a_sample_log_of_lmms_eval_is_read_as_predictions(tmp_path: Path) -> None:
    """Its own parsing and its own score are left alone; the text is taken as the model gave it."""
    rows = [
        {
            "doc_id": 0,
            "doc": {"question_id": "1", "question": "what?", "answer": "x"},
            "target": "x",
            "resps": [["X."]],
            "filtered_resps": ["guess"],
            "exact_match": 0.0,
        }
    ]
    labels = whole(tmp_path / "labels.json", {"1": {"question": "what?", "answer": "x"}})
    assert scored("gqa", lines(tmp_path / "samples.jsonl", rows), labels)["score"] == 100


def test_a_null_is_an_empty_answer_and_never_the_word_none() -> None:
    assert text_of(None) == ""
    assert text_of("None") == "None"
    assert text_of(7) == "7"


def test_an_answer_of_null_earns_nothing_where_people_said_zero(tmp_path: Path) -> None:
    people = [{"answer": "0"}] * 10
    labels = tmp_path / "annotations.json"
    rows = [
        {"question_id": 7, "image_id": 1, "question_type": "how", "answer_type": "number", "answers": people}
    ]
    labels.write_text(json.dumps({"annotations": rows}))
    for answer, score in (("none", 100.0), (None, 0.0)):
        path = tmp_path / "answers.json"
        path.write_text(json.dumps([{"question_id": 7.0, "answer": answer}]))
        assert scored("vqav2", path, labels)["score"] == score


@pytest.mark.parametrize("between", ["", " ", "\n", "\r\n\n"])
@pytest.mark.parametrize("indent", [None, 1])
def test_objects_may_stand_one_after_the_other(tmp_path: Path, between: str, indent: int | None) -> None:
    rows = [{"question_id": i, "text": "A }{ B"} for i in range(3)]
    path = tmp_path / "p.jsonl"
    path.write_text(between.join(json.dumps(row, indent=indent) for row in rows))
    assert read_rows(path) == rows
    assert read_whole(path) == rows


@pytest.mark.parametrize("end", ['{"question_id": "2", "te', "{", "x", '"text"', "[]", "}"])
@pytest.mark.parametrize("between", ["", "\n"])
def test_what_follows_an_object_and_is_none_is_one_line(tmp_path: Path, between: str, end: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question_id": "1", "text": "A"}' + between + end)
    with pytest.raises(SharecapError, match=f"^line {2 if between else 1} is not") as error:
        read_rows(path)
    assert "\n" not in str(error.value)


def test_only_known_columns_lose_their_capitals_and_only_where_one_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Index,A,L2-Category,Answer,ANSWER,QuestionID\n1,2,3,4,5,6\n")
    (row,) = read_rows(path)
    assert list(row) == ["index", "A", "L2-Category", "Answer", "ANSWER", "questionId"]
