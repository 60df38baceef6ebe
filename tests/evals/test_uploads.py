"""Upload files: what each server takes, from answers as LLaVA keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.files import read_rows
from sharecap.evals.uploads import write_upload
from tests.evals.scored import lines


@pytest.mark.parametrize(
    ("benchmark", "content"),
    [
        ("vqav2", [{"question_id": 3, "answer": "2 dogs"}, {"question_id": 10, "answer": "=1"}]),
        (
            "vizwiz",
            [
                {"image": "VizWiz_test_00000003.jpg", "answer": "2 dogs"},
                {"image": "VizWiz_test_00000010.jpg", "answer": "=1"},
            ],
        ),
        ("mm_vet", {"v1_3": "The two dogs.", "v1_10": "=1"}),
    ],
)
def test_answers_are_written_as_the_server_takes_them(tmp_path: Path, benchmark: str, content: Any) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        [{"question_id": 3, "text": "The two dogs."}, {"question_id": 10, "text": "=1"}],
    )
    assert write_upload(benchmark, path, None, tmp_path / "up.json") == 2
    found = json.loads((tmp_path / "up.json").read_text())
    if benchmark != "mm_vet":  # "=" is punctuation to the normaliser
        content = [{**row, "answer": row["answer"].replace("=", "")} for row in content]
    assert found == content


def test_mmbenchs_sheet_repeats_the_questions_and_keeps_answers_as_text(tmp_path: Path) -> None:
    table = tmp_path / "dev.tsv"
    table.write_text("index\tquestion\thint\tA\tB\tcategory\timage\n1\tWhich?\t\tx\ty\tlogic\tAAAA\n")
    path = lines(tmp_path / "a.jsonl", [{"question_id": 1, "text": "=B"}])
    write_upload("mmbench", path, table, tmp_path / "up.xlsx")
    row = {"index": "1", "question": "Which?", "A": "x", "B": "y", "prediction": "=B"}
    assert read_rows(tmp_path / "up.xlsx") == [row]
    lines(path, [{"question_id": 2, "text": "B"}])
    with pytest.raises(SharecapError, match=r"1 of 1 questions have no prediction \(first: 1\)"):
        write_upload("mmbench", path, table, tmp_path / "other.xlsx")
    assert not (tmp_path / "other.xlsx").exists()


def test_nothing_is_written_over_and_other_benchmarks_have_no_upload(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question_id": 1, "text": "x"}])
    with pytest.raises(UsageError, match="this file is there already"):
        write_upload("vqav2", path, None, path)
    with pytest.raises(UsageError, match="pope has no upload file"):
        write_upload("pope", path, None, tmp_path / "up")
    with pytest.raises(UsageError, match="add --labels"):
        write_upload("mmbench", path, None, tmp_path / "up")


def test_what_can_t_be_read_or_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question_id": 1, "text": "x"}])
    with pytest.raises(SharecapError, match=r"cannot read \(No such file or directory\): .*gone\.tsv"):
        write_upload("vqav2", tmp_path / "gone.tsv", None, tmp_path / "up.json")
    with pytest.raises(SharecapError, match=r"cannot write \(No such file or directory\): .*none/"):
        write_upload("vqav2", path, None, tmp_path / "none/up.json")
    odd = lines(tmp_path / "odd.jsonl", [{"question_id": "\ud800", "text": "\ud800"}])
    with pytest.raises(SharecapError, match="half of a surrogate pair"):
        write_upload("mm-vet", odd, None, tmp_path / "up.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "odd.jsonl"]
