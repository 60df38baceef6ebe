"""Single sentences dropped or replaced in a layer of their own; the original keeps every letter."""

import json
from pathlib import Path

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from sharecap.captions.edits import EDITS, Edit, applied, edit, read_edits, shorten
from sharecap.captions.layer import open_layer, read_layer, read_missing, write_layer
from sharecap.captions.sentences import pieces, sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

from .conftest import Typed, make_dataset

TEXT = "A man waves. He wears a red hat. The dog sleeps."


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path, 3)
    rows = [Caption(image.id, "", TEXT, "people", "none", "stop") for image in Catalog.open(dataset)]
    write_layer(dataset, "hand", rows)
    return dataset


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (TEXT, ["A man waves.", "He wears a red hat.", "The dog sleeps."]),
        ("Dr. Smith met J. Doe at 5.30 p.m. on St. Mark's Square.", None),
        ("It costs 3.50 in the U.S. Army shop, e.g. Bread.", None),
        ("He said “Stop!” He left.", ["He said “Stop!”", "He left."]),
        ("Really?! Yes... No.", ["Really?!", "Yes...", "No."]),
        ("猫が寝ている。犬が走る！", ["猫が寝ている。", "犬が走る！"]),
        ("A heading\n\n- one item\n- another", ["A heading", "- one item", "- another"]),
        ("no end", None),
    ],
)
def test_sentences_are_cut_where_a_reader_would(text: str, cut: list[str] | None) -> None:
    assert sentences(text) == (cut or [text])


@generated(st.text(alphabet='Ab1 .!?…"”)\n。', max_size=60))
def test_the_pieces_always_join_to_the_text(text: str) -> None:
    assert "".join(a + b for a, b in pieces(text)) == text
    assert all(sentence.strip() for sentence, _ in pieces(text)) or not text.strip()


def test_long_rows_of_stops_and_spaces_are_cut_in_no_time() -> None:
    for text in ("." * 200_000, "a." * 100_000, " " * 200_000, "a" + " " * 200_000, ".\n" * 100_000):
        assert "".join(a + b for a, b in pieces(text)) == text


def test_a_sentence_is_dropped_or_replaced_and_the_original_stays(layered: Path) -> None:
    first, second, _ = (image.id for image in Catalog.open(layered))
    changes = [
        Edit(first, 2, "He wears a red hat."),
        Edit(second, 3, "The dog sleeps.", "The dog is awake."),
        Edit(second, 1, "A man waves."),
    ]
    edit(layered, "hand", changes, "checked")
    rows = list(read_layer(layered, "checked"))
    assert [row.text for row in rows] == [
        "A man waves. The dog sleeps.",
        "He wears a red hat. The dog is awake.",
        TEXT,
    ]
    assert [(row.flags, row.origin) for row in rows] == [(("edited",), "hand")] * 2 + [((), "hand")]
    assert {row.text for row in read_layer(layered, "hand")} == {TEXT}
    kept = read_edits(open_layer(layered, "checked").path / EDITS)
    assert sorted(kept, key=str) == sorted(changes, key=str)


def test_a_caption_that_loses_every_sentence_is_counted(layered: Path) -> None:
    first = next(iter(Catalog.open(layered))).id
    cut = [Edit(first, n, sentence) for n, sentence in enumerate(sentences(TEXT), 1)]
    made = edit(layered, "hand", cut, "checked")
    assert (made.metrics["captions"], made.metrics["failures"]) == (2, {"edited_away": 1})
    assert [missing.image_id for missing in read_missing(layered, "checked")] == [first]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Edit("", 2, "He wears a blue hat."), "not the one that the edit names"),
        (Edit("", 9, "He wears a red hat."), "not the one that the edit names: None"),
        (Edit("f" * 64, 1, "A man waves."), "catalog lacks"),
    ],
)
def test_an_edit_that_fits_nothing_is_an_error_and_makes_no_layer(
    layered: Path, change: Edit, says: str
) -> None:
    first = next(iter(Catalog.open(layered))).id
    fitting = Edit(change.image_id or first, change.sentence, change.was)
    with pytest.raises(SharecapError, match=says):
        edit(layered, "hand", [fitting], "checked")
    assert not (layered / "layers" / "checked").exists()


def test_two_edits_of_one_sentence_are_an_error(layered: Path) -> None:
    with pytest.raises(SharecapError, match="two edits of sentence 1"):
        edit(layered, "hand", [Edit("f" * 64, 1, "A"), Edit("f" * 64, 1, "B")], "checked")


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"image_id": "x", "sentence": 1, "was": ""}', '{"sentence": 0}']
)
def test_a_bad_line_of_edits_is_named(tmp_path: Path, line: str) -> None:
    good = json.dumps({"image_id": "0" * 64, "sentence": 1, "was": "A."})
    (tmp_path / "edits.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(SharecapError, match="line 2"):
        read_edits(tmp_path / "edits.jsonl")


def test_line_separators_inside_an_edits_text_do_not_end_its_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    line = json.dumps({"image_id": "a" * 64, "sentence": 1, "was": text, "text": text}, ensure_ascii=False)
    (tmp_path / "edits").write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert read_edits(tmp_path / "edits") == [Edit("a" * 64, 1, text, text)] * 2


def test_the_rest_of_an_edited_caption_is_kept_to_the_letter() -> None:
    assert applied("Ah.  B!\n\nC?", {2: Edit("", 2, "B!", "D.")}, "") == "Ah.  D.\n\nC?"


def test_short_captions_are_the_first_sentences(layered: Path) -> None:
    shorten(layered, "hand", "short")
    assert {row.text for row in read_layer(layered, "short")} == {"A man waves."}


def test_the_command_edits_or_shortens_and_never_both(layered: Path, typed: Typed, tmp_path: Path) -> None:
    first = next(iter(Catalog.open(layered))).id
    (tmp_path / "e.jsonl").write_text(json.dumps({"image_id": first, "sentence": 1, "was": "A man waves."}))
    assert typed("edit", layered, "--to", "short", "--first-sentence", "--layer", "hand")[0] == 0
    code, out, _ = typed("edit", layered, "--to", "new", "--edits", tmp_path / "e.jsonl", "--layer", "hand")
    assert (code, out.splitlines()[0]) == (0, "layer new: 3 captions")
    code, _, err = typed("edit", layered, "--to", "x", "--layer", "hand")
    assert (code, "either" in err) == (2, True)
    with pytest.raises(UsageError, match="cannot read the edits"):
        read_edits(tmp_path / "none.jsonl")
