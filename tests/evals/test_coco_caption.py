"""COCO captions: whose captions are scored, and what is said where the scorer or Java is not there."""

import importlib.util
from pathlib import Path

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.suite import read_predictions
from tests.evals.scored import lines, scored, whole

PEOPLE = [{"image_id": i, "caption": f"a dog {place}"} for i in (1, 2, 3) for place in ("here", "there")]


def test_some_images_may_be_captioned_and_it_is_said_how_many(tmp_path: Path) -> None:
    labels = whole(tmp_path / "captions_val2014.json", {"annotations": PEOPLE})
    path = whole(
        tmp_path / "p.json", [{"image_id": 1, "caption": "a dog"}, {"image_id": "3", "caption": "dogs"}]
    )
    task, answers = read_predictions("coco-caption", [path], labels, None)
    assert [(s.id, s.reference) for s in task.samples] == [(i, ["a dog here", "a dog there"]) for i in "13"]
    assert answers == {"1": "a dog", "3": "dogs"}
    assert task.notes == ("2 of the 3 labelled images have a caption here",)


def test_images_go_by_their_number_and_labels_may_be_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    whole(tmp_path / "l" / "captions_val2014.json", {"annotations": PEOPLE})
    rows = [{"image_id": "000000000001", "caption": "a dog"}, {"image_id": "3.jpg", "caption": "dogs"}]
    _, answers = read_predictions("coco-caption", [whole(tmp_path / "p.json", rows)], tmp_path / "l", None)
    assert answers == {"1": "a dog", "3": "dogs"}


def test_a_missing_caption_withholds_the_score_before_anything_is_run(tmp_path: Path) -> None:
    labels = whole(tmp_path / "l.json", {"annotations": PEOPLE})
    for missing in ("", None):
        rows = [{"image_id": 1, "caption": missing}]
        found = scored("coco_caption", lines(tmp_path / "p.jsonl", rows), labels)
        assert (found["score"], found["withheld"]) == (None, "1 of 1 images have no caption")


def test_captions_of_other_images_or_twice_are_refused(tmp_path: Path) -> None:
    labels = whole(tmp_path / "l.json", {"annotations": PEOPLE})
    path = lines(tmp_path / "p.jsonl", [{"image_id": 9, "caption": "x"}])
    with pytest.raises(SharecapError, match="no image of these captions is among the labels"):
        scored("coco-caption", path, labels)
    with pytest.raises(SharecapError, match=r"1 of 1 items are not in the benchmark \(first: 9\)"):
        scored("coco-caption", lines(path, [{"image_id": i, "caption": "x"} for i in (1, 9)]), labels)
    with pytest.raises(SharecapError, match="item 1 appears twice"):
        scored("coco-caption", lines(path, [{"image_id": 1, "caption": "x"}] * 2), labels)


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is not None, reason="pycocoevalcap is here")
def test_without_the_scorer_its_extra_is_named(tmp_path: Path) -> None:
    labels = whole(tmp_path / "l.json", {"annotations": PEOPLE})
    with pytest.raises(SharecapError, match=r"need pycocoevalcap.*sharecap\[coco\]"):
        scored("coco-caption", lines(tmp_path / "p.jsonl", [{"image_id": 1, "caption": "x"}]), labels)
