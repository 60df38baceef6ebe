"""LLaVA's files are read whole or refused with the row that is wrong."""

import json
import os
from pathlib import Path

import pytest

from sharecap.data.rows import read_rows, write_rows
from sharecap.errors import SharecapError
from sharecap.records import Conversation, Turn


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        Conversation(
            "a", (str(tmp_path / "x/1.png"),), (Turn("user", "<image>\nQ"), Turn("assistant", "Ä – 你"))
        ),
        Conversation(
            "b", (), (Turn("user", "Q"), Turn("assistant", "A"), Turn("user", "Q"), Turn("assistant", "B"))
        ),
        Conversation(
            "c", (str(tmp_path / "1.png"), str(tmp_path / "2.png")), (Turn("user", "<image><image>"),)
        ),
    ]
    for root in (None, tmp_path):
        write_rows(tmp_path / "out/rows.json", rows, image_root=root)
        assert read_rows(tmp_path / "out/rows.json", image_root=tmp_path) == rows
    written = json.loads((tmp_path / "out/rows.json").read_text())
    assert written[0]["image"] == "x/1.png"
    assert "image" not in written[1]
    assert written[2]["image"] == ["1.png", "2.png"]


def test_the_authors_extra_keys_and_number_ids_are_fine(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Q", "markdown": {"answer": "", "type": "text"}},
        {"from": "gpt", "value": "A", "text": None},
    ]
    found = [{"id": 7, "model": "", "conversations": turns}, {"image": "coco/1.jpg", "conversations": turns}]
    (tmp_path / "rows.json").write_text(json.dumps(found))
    first, second = read_rows(tmp_path / "rows.json")
    assert first == Conversation("7", (), (Turn("user", "Q"), Turn("assistant", "A")))
    assert second.id == "1"
    assert second.images == (os.path.join(tmp_path, "coco/1.jpg"),)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("text", "row 1: not an object"),
        ({"id": "x"}, 'row 1: no "conversations" .id x.'),
        ({"id": "x", "conversations": []}, "no .conversations."),
        ({"id": "x", "conversations": [{"from": "system", "value": "Q"}]}, "a turn must be"),
        ({"id": "x", "conversations": [{"from": "human", "value": 3}]}, "a turn must be"),
        ({"id": "x", "conversations": ["Q"]}, "a turn must be"),
        (
            {"id": "x", "image": 3, "conversations": [{"from": "human", "value": "Q"}]},
            '"image" must be a path',
        ),
        (
            {"id": "x", "image": [""], "conversations": [{"from": "human", "value": "Q"}]},
            '"image" must be a path',
        ),
    ],
)
def test_a_bad_row_is_counted_and_named(tmp_path: Path, row: object, why: str) -> None:
    good = {"conversations": [{"from": "human", "value": "Q"}]}
    (tmp_path / "rows.json").write_text(json.dumps([good, row, row]))
    with pytest.raises(SharecapError, match=why) as caught:
        read_rows(tmp_path / "rows.json")
    assert "2 of 3 rows are bad, first row 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"), [("[1,", "not JSON"), ('{"id": 1}', "not a JSON list"), ("\ufffd", "not a JSON list")]
)
def test_a_file_that_is_no_list_of_rows_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(SharecapError, match=why):
        read_rows(tmp_path / "rows.json")


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match=r"cannot read rows .No such file or directory.: .*rows.json"):
        read_rows(tmp_path / "rows.json")


def test_an_image_outside_the_root_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    row = Conversation("a", ("/elsewhere/1.png",), (Turn("user", "<image>"),))
    with pytest.raises(SharecapError, match=r"image outside .* .row a.: /elsewhere/1.png"):
        write_rows(tmp_path / "rows.json", [row], image_root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[1,]", "[1 2]", "[1] 2", '["a'])
def test_what_is_no_json_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(SharecapError, match="not JSON"):
        read_rows(tmp_path / "rows.json")
