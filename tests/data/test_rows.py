"""LLaVA's files are read row by row, the same rows as a whole reading gives; what is no row is named."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharecap.data import index
from sharecap.data.rows import Rows, read_rows, row_of, write_rows
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
        ({"id": "x", "conversations": [{"from": "narrator", "value": "Q"}]}, "a turn must be"),
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


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_mark_before_the_text_is_no_part_of_the_rows(name: str, tmp_path: Path) -> None:
    row = {"id": "7", "conversations": [{"from": "human", "value": "Ö?"}, {"from": "gpt", "value": "Ü."}]}
    text = json.dumps(row) + "\n"
    (tmp_path / name).write_text(f"[{text}]" if name == "rows.json" else text, encoding="utf-8-sig")
    (found,) = read_rows(tmp_path / name)
    assert (found.id, found.turns[1].text) == ("7", "Ü.")
    (tmp_path / name).write_text("", encoding="utf-8-sig")
    if name == "rows.jsonl":
        assert read_rows(tmp_path / name) == []
    else:
        with pytest.raises(SharecapError, match="an empty file"):
            read_rows(tmp_path / name)


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


WORDS = st.text(alphabet='ab"\\\\/{}[],:\\n ä你\\x7f\u2028😀', max_size=12)
FOUND = st.fixed_dictionaries(
    {
        "id": WORDS,
        "conversations": st.lists(
            st.fixed_dictionaries({"from": st.just("gpt"), "value": WORDS}), min_size=1, max_size=3
        ),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    found=st.lists(FOUND, max_size=6),
    piece=st.integers(1, 40),
    style=st.sampled_from([{"indent": 1}, {"ensure_ascii": False}]),
)
def test_rows_are_those_of_a_whole_reading_wherever_pieces_end(
    found: list[Any],
    piece: int,
    style: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "PIECE", piece)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(found, **style), encoding="utf-8")
    expected = [row_of(fields, i, tmp_path) for i, fields in enumerate(found)]
    assert list(Rows(path)) == expected
    path.with_suffix(".jsonl").write_text("".join(json.dumps(fields) + "\n\n" for fields in found))
    assert list(Rows(path.with_suffix(".jsonl"))) == expected


def test_an_index_is_kept_and_made_anew_for_another_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SMALL", 0)
    turns = [{"from": "human", "value": "Q"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": "a", "conversations": turns}]))
    rows = Rows(path)
    assert rows[0].id == rows[-1].id == "a"
    kept = sorted(cache.rglob("*.npy"))
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr(index, "list_in", None)  # it must not be called again
        again = pickle.loads(pickle.dumps(rows))
        assert list(again) == list(rows)
    path.write_text(json.dumps([{"id": "b", "conversations": turns}]))
    assert Rows(path)[0].id == "b"
    with pytest.raises(SharecapError, match="the rows' file has changed"):
        pickle.loads(pickle.dumps(rows))
    with pytest.raises(IndexError):
        rows[1]


def test_parquet_gives_the_same_rows_as_json(tmp_path: Path) -> None:
    found = [
        {
            "id": "1",
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nÄ"}, {"from": "gpt", "value": "x"}],
        },
        {
            "id": "2",
            "image": None,
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "y"}],
        },
    ] * 1500
    (tmp_path / "rows.json").write_text(json.dumps(found))
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "rows.parquet", row_group_size=1000)
    assert list(Rows(tmp_path / "rows.parquet")) == list(Rows(tmp_path / "rows.json"))
    pq.write_table(
        pa.Table.from_pylist([{"conversations": [], "image": {"bytes": b"x"}}]), tmp_path / "bytes.parquet"
    )
    with pytest.raises(SharecapError, match=r'column "image" holds struct.*, not paths'):
        Rows(tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(SharecapError, match='no column "conversations"'):
        Rows(tmp_path / "text.parquet")
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(SharecapError, match="cannot read rows"):
        Rows(tmp_path / "no.parquet")


def test_a_bad_row_of_many_is_an_error_only_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"conversations": [{"from": "gpt", "value": "A"}]}\n{"id": 1\n')
    rows = Rows(tmp_path / "rows.jsonl")
    assert len(rows) == 2
    assert rows[0].id == "0"
    with pytest.raises(SharecapError, match=r"row 1: not JSON .*: .*rows.jsonl"):
        rows[1]


CHILD = """
import resource, sys
from pathlib import Path
from sharecap.data import index
from sharecap.data.rows import Rows
index.PIECE, index.SMALL = 1 << 20, 0
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
rows = Rows(Path(sys.argv[1]))
assert sum(len(rows[i].turns) for i in range(0, len(rows), 3)) == len(range(0, len(rows), 3))
print(len(rows), peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "conversations": [{"from": "gpt", "value": "word " * 400}]})
    peaks = []
    for name, rows in (("small", 2_000), ("large", 20_000)):  # 4 MB and 40 MB
        path = tmp_path / name
        path.write_text("[" + ",\n".join([line] * rows) + "]")
        done = subprocess.run([sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=True)
        assert int(done.stdout.split()[0]) == rows
        peaks.append(int(done.stdout.split()[1]))
    assert peaks[1] - peaks[0] < 4_000  # KiB; the index alone is 320


def test_no_room_for_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SharecapError, match=r"cannot write .*file/rows\.json\. make room"):
        write_rows(tmp_path / "file" / "rows.json", [])
