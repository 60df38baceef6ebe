"""Rows that can't be trained on are listed and counted before training, and left out only when asked."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharecap.data import measure as measuring
from sharecap.data.check import REASONS, prepare
from sharecap.data.documents import digest_of
from sharecap.data.measure import measure
from sharecap.data.mixed import some_of
from sharecap.data.rows import Rows, write_rows
from sharecap.errors import SharecapError
from sharecap.records import Conversation, Turn
from tests.data.words import Letters, row


@pytest.fixture
def good(tmp_path: Path) -> str:
    """A picture."""
    Image.effect_noise((40, 40), 50).save(tmp_path / "good.png")
    return str(tmp_path / "good.png")


def bad_rows(folder: Path, good: str) -> dict[str, tuple[Conversation, str]]:
    """Row by name, with the reason it must be listed for."""
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(Path(good).read_bytes()[:500])
    (folder / "folder.png").mkdir()

    def turns(*texts: str, first: str = "user") -> tuple[Turn, ...]:
        roles = ("user", "assistant") if first == "user" else ("assistant", "user")
        return tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts))

    return {
        "gone": (row("gone", str(folder / "gone.png")), "missing"),
        "empty": (row("empty", good, str(folder / "empty.png")), "empty"),
        "no image": (Conversation("no image", (), turns("<image>\nQ", "A")), "no_image"),
        "no place": (Conversation("no place", (good,), turns("Q", "A")), "no_place"),
        "roles": (Conversation("roles", (), turns("Q", "A", first="assistant")), "wrong_role"),
        "blank": (row("blank", good, answer=" \n"), "empty_answer"),
        "unanswered": (Conversation("unanswered", (), turns("Q")), "no_answer"),
        "odd": (row("odd", answer="no!"), "uncuttable"),
        "long": (row("long", asked="Q" * 100), "too_long"),
        "many": (row("many", good, good, good), "too_many_images"),
        "cut": (row("cut", str(folder / "cut.png")), "truncated"),
        "folder": (row("folder", str(folder / "folder.png")), "not_a_file"),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_bad_row_is_listed_with_its_reason(tmp_path: Path, good: str, workers: int) -> None:
    bad = bad_rows(tmp_path, good)
    rows = [row("first", good), *(found for found, _ in bad.values()), row("last")]
    write_rows(tmp_path / "rows.json", rows)
    listed = tmp_path / "quarantine.jsonl"
    lazy = Rows(tmp_path / "rows.json")
    settings = {"room": 50, "pack_images": 2, "quarantine": listed, "decode": True, "workers": workers}
    made = prepare(lazy, Letters(), drop=REASONS, **settings)  # type: ignore[arg-type]
    assert [d.id for d in made.documents] == ["first", "last"]
    assert made.documents.lengths.tolist() == [len(d) for d in made.documents]
    assert made.dropped == Counter(reason for _, reason in bad.values())
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {line["row"]: line["reason"] for line in lines} == {name: why for name, (_, why) in bad.items()}
    assert [line["number"] for line in lines] == list(range(1, 1 + len(bad)))
    assert {line["row"]: Path(line["image"]).name for line in lines}["empty"] == "empty.png"
    with pytest.raises(SharecapError, match=r"12 of 14 rows can't be trained on .*1 missing.*first row gone"):
        prepare(lazy, Letters(), **settings)  # type: ignore[arg-type]
    without = prepare(some_of(lazy, np.array([0, 13])), Letters(), **settings)  # type: ignore[arg-type]
    assert not listed.exists()
    assert not without.dropped


def test_only_what_may_be_dropped_is(tmp_path: Path, good: str) -> None:
    rows = [row("a", good), row("b", asked="Q" * 99), row("c", str(tmp_path / "gone.png"))]
    quarantine = tmp_path / "quarantine.jsonl"
    with pytest.raises(SharecapError, match=r"1 of 3 rows .*1 missing.*first row c: no such file.*gone\.png"):
        prepare(rows, Letters(), room=50, quarantine=quarantine, drop=["too_long"])
    with pytest.raises(SharecapError, match="no rows to train on"):
        prepare(rows[1:], Letters(), room=50, quarantine=quarantine, drop=REASONS)


def test_a_broken_row_of_a_file_is_listed_by_its_number(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    lines = [
        {"id": "a", "conversations": turns},
        {"id": "b"},
        {"id": "c", "conversations": [{"from": "bot"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = some_of(Rows(tmp_path / "rows.jsonl"), np.array([2, 0, 1, 0]))
    made = prepare(rows, Letters(), room=50, quarantine=tmp_path / "q.jsonl", drop=REASONS)
    assert [d.id for d in made.documents] == ["a", "a"]
    assert made.dropped == {"wrong_role": 1, "malformed": 1}
    listed = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(x["number"], x["row"]) for x in listed] == [
        (0, "number 2 of rows.jsonl"),
        (2, "number 1 of rows.jsonl"),
    ]


def test_sizes_of_many_rows_are_kept_and_rows_cut_when_asked_for(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"r{i}", answer="a" * (1 + i % 9)) for i in range(50)]
    few = measure(rows, Letters())
    monkeypatch.setattr(measuring, "FEW", 10)
    monkeypatch.setattr(measuring, "AT_ONCE", 7)
    write_rows(tmp_path / "rows.json", rows)
    lazy = Rows(tmp_path / "rows.json")
    many = measure(lazy, Letters(), workers=2)
    assert many.documents is None
    assert many.sizes.tokens.tolist() == few.sizes.tokens.tolist()
    assert len(list(cache.rglob("sizes/*.npy"))) == 1

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "gathered", never)
        assert measure(lazy, Letters()).digest == many.digest
        made = prepare(lazy, Letters(), room=50, quarantine=tmp_path / "q.jsonl").documents
    assert made.cut is None
    assert digest_of(made) == digest_of(document for document in few.documents or () if document)
    made.sizes.tokens.flags.writeable = False
    other = prepare(some_of(lazy, np.arange(49)), Letters(), room=50, quarantine=tmp_path / "q.jsonl")
    assert other.documents.digest != made.digest
    made.rows = rows[1:] + rows[:1]
    with pytest.raises(SharecapError, match="the row has changed: row r1"):
        made[0]
