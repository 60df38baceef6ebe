"""Edits, flags and drops by hand: kept beside the layers, undone step by step, sealed as a layer of edits."""

import html
import re
from pathlib import Path

import pytest

from sharecap.captions.layer import open_layer, read_layer, read_missing, write_layer
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption
from sharecap.web.review import Marks, Review, shown

from .conftest import Server, serving


@pytest.fixture
def first(dataset: Path) -> Caption:
    return next(iter(read_layer(dataset, "teacher")))


def test_the_last_edit_of_a_sentence_counts_and_undo_brings_the_one_before_back(
    dataset: Path, first: Caption
) -> None:
    review = Review(dataset)
    review.edit(first, 1, "A man waves.", "A woman waves.")
    review.edit(first, 1, "A man waves.", "Somebody waves.")
    review.edit(first, 2, "He wears a red hat.", "")
    assert shown(first, review.marks("teacher", first.image_id)) == "Somebody waves. Number 0."
    assert review.undo() == ("teacher", first.image_id)
    review.undo()
    assert shown(first, Review(dataset).marks("teacher", first.image_id)).startswith(
        "A woman waves. He wears"
    )
    review.undo()
    assert review.undo() is None
    assert review.marks("teacher", first.image_id) == Marks()


def test_a_flag_or_drop_given_twice_is_taken_back(dataset: Path, first: Caption) -> None:
    review = Review(dataset)
    for _ in range(2):
        review.flag(first, "check")
        review.drop(first)
        marks = review.marks("teacher", first.image_id)
        assert (marks.flags, marks.dropped) in ((("check",), True), ((), False))
    assert not marks
    with pytest.raises(UsageError, match="nothing was"):
        review.write("teacher", "mended")


def test_all_three_end_in_a_layer_that_counts_them(dataset: Path) -> None:
    review, rows = Review(dataset), list(read_layer(dataset, "teacher"))
    review.edit(rows[0], 3, "Number 0.", "Number none.")
    review.flag(rows[1], "check")
    review.drop(rows[2])
    made = review.write("teacher", "mended")
    assert {k: made.metrics[k] for k in ("edited", "flagged", "dropped", "captions")} == {
        "edited": 1,
        "flagged": 1,
        "dropped": 1,
        "captions": 11,
    }
    out = list(read_layer(dataset, "mended"))
    assert (out[0].text, out[0].flags) == ("A man waves. He wears a red hat. Number none.", ("edited",))
    assert (out[1].text, out[1].flags) == (rows[1].text, ("check",))
    assert [(m.image_id, m.kind) for m in read_missing(dataset, "mended")] == [
        (rows[2].image_id, "dropped_by_hand")
    ]
    assert len(out) + 1 == len(Catalog.open(dataset))
    assert open_layer(dataset, "mended").inputs["layer:teacher"] == open_layer(dataset, "teacher").digest


@pytest.mark.parametrize(("number", "was"), [(0, "A man waves."), (2, "A man waves."), (9, ""), (1, "")])
def test_an_edit_of_what_does_not_stand_there_is_refused(
    dataset: Path, first: Caption, number: int, was: str
) -> None:
    with pytest.raises(UsageError, match="not in the caption"):
        Review(dataset).edit(first, number, was, "x")


def test_an_image_that_is_taken_down_leaves_all_that_the_page_keeps(dataset: Path, first: Caption) -> None:
    from sharecap.captions.drop import drop
    from sharecap.web.building import build
    from sharecap.web.study import create, open_study

    build(dataset)
    review = Review(dataset)
    review.edit(first, 1, "A man waves.", "A woman waves.")
    review.drop(next(c for c in read_layer(dataset, "teacher") if c.image_id != first.image_id))
    create(dataset, "s", ["teacher", "captioner"], ["ann"], images=11, repeats=2)
    before = open_study(dataset, "s")
    (dataset / "scores").mkdir()
    (dataset / "scores" / "teacher.jsonl").write_text(f'{{"image_id": "{first.image_id}", "score": 1}}\n')
    report = drop(dataset, [first.image_id], "asked for")
    assert report.page == 3
    assert not (dataset / "view").exists()
    assert (dataset / "scores" / "teacher.jsonl").read_text() == ""
    assert list(Review(dataset).all("teacher")) != [first.image_id]
    after = open_study(dataset, "s")
    assert len(after.pairs) == len(before.pairs)
    assert first.text not in (dataset / "studies" / "s" / "study.json").read_text()
    for path in dataset.rglob("*"):
        if path.is_file():
            assert b"A woman waves." not in path.read_bytes(), path


def test_two_who_change_the_same_caption_do_not_undo_each_other_unseen(server: Server) -> None:
    image = server.room.index.image(0)
    assert image
    at = f"/image/{image.id}"
    form = server.text(f"{at}/sentence?layer=teacher&n=1")
    (seen,) = re.findall(r'name="seen" value="(\d+)"', form)
    mine = {"layer": "teacher", "n": 1, "was": "A man waves.", "text": "A woman waves.", "seen": seen}
    assert server.ask("POST", f"{at}/edit", mine)[0] == 200
    for step, more in (("edit", {"text": "A child waves."}), ("drop", {}), ("flag", {"flag": "check"})):
        status, _, body = server.ask("POST", f"{at}/{step}", {**mine, **more})
        assert (status, b"somebody changed this caption" in body) == (400, True)
    assert server.room.review.marks("teacher", image.id).edits[1].text == "A woman waves."
    (seen,) = set(re.findall(r'"seen": (\d+)', server.text(f"{at}?layer=teacher")))
    assert server.ask("POST", f"{at}/drop", {"layer": "teacher", "seen": seen})[0] == 200
    assert server.room.review.marks("teacher", image.id).dropped


def test_a_sentence_with_signs_that_can_not_be_shown_can_be_edited(dataset: Path) -> None:
    rows = [
        Caption(i.id, "", "A \u202eman\x00 waves. It rains.", "x", "p", "stop") for i in Catalog.open(dataset)
    ]
    write_layer(dataset, "odd", rows)
    with serving(dataset) as server:
        at = f"/image/{rows[0].image_id}"
        form = html.unescape(server.text(f"{at}/sentence?layer=odd&n=1"))
        (was,) = re.findall(r'name="was" value="([^"]*)"', form)
        edit = {"layer": "odd", "n": 1, "was": was, "text": "A man waves."}
        assert server.ask("POST", f"{at}/edit", edit)[0] == 200
        made = server.room.review.write("odd", "mended")
    assert made.metrics["edited"] == 1
    assert next(iter(read_layer(dataset, "mended"))).text == "A man waves. It rains."


def test_a_takedown_goes_through_foreign_scores_and_names_a_damaged_study(
    dataset: Path, first: Caption
) -> None:
    from sharecap.captions.drop import drop

    (dataset / "scores" / "folder.jsonl").mkdir(parents=True)
    scores = dataset / "scores" / "teacher.jsonl"
    scores.write_bytes(b"\xff\xfe\r\n" + f'{{"image_id": "{first.image_id}"}}\n'.encode() + b"\xe4")
    study = dataset / "studies" / "s" / "study.json"
    study.parent.mkdir(parents=True)
    study.write_text("{")
    with pytest.raises(SharecapError, match=r"cannot read a study .*study\.json"):
        drop(dataset, [first.image_id], "asked for")
    study.unlink()
    drop(dataset, [first.image_id], "asked for")
    assert scores.read_bytes() == b"\xff\xfe\r\n\xe4"
