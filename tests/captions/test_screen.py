"""Dropping near-duplicates and benchmark images: counted, noted, undone at will; captions follow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharecap.captions.card import Said, facts
from sharecap.captions.layer import read_layer, side_by_side, write_layer
from sharecap.captions.screen import leave_out, screen
from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.check import check
from sharecap.images.left_out import Reason, left_out
from sharecap.records import Caption

from ..images.test_duplicates import scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four scenes, the first in two sizes; `bench` has the second one."""
    for name in ("photos", "bench"):
        (tmp_path / name).mkdir()
    for seed in range(4):
        scene(seed).save(tmp_path / "photos" / f"{seed}.png")
    scene(0, 256).save(tmp_path / "photos" / "large.png")
    scene(1, 100).save(tmp_path / "bench" / "q.jpg")
    return tmp_path / "photos"


@pytest.fixture
def dataset(photos: Path, tmp_path: Path) -> Path:
    """The photographs, each with a caption."""
    add([photos], tmp_path / "d")
    images = list(Catalog.open(tmp_path / "d"))
    captions = [Caption(i.id, "", f"caption of {Path(i.path).name}", "me", "", "stop") for i in images]
    write_layer(tmp_path / "d", "mine", captions)
    return tmp_path / "d"


def names(dataset: Path) -> list[str]:
    return [Path(image.path).name for image in Catalog.open(dataset)]


def test_what_is_found_stays_in_until_it_is_dropped(dataset: Path, tmp_path: Path) -> None:
    found = screen(dataset, duplicates=True, against=[tmp_path / "bench"])
    assert (found.dropped, len(names(dataset))) == ([], 5)
    again = screen(dataset)
    assert (again.overlap, again.duplicates) == (found.overlap, found.duplicates)
    with pytest.raises(UsageError, match="nothing to drop"):
        screen(dataset, drop=True)


def test_captions_follow_the_images_that_are_dropped(dataset: Path, tmp_path: Path) -> None:
    found = screen(dataset, duplicates=True, against=[tmp_path / "bench"], drop=True)
    dropped = [(one.kind, one.images, one.layers, one.left) for one in found.dropped]
    assert dropped == [("overlap", 1, {"mine": 1}, 4), ("duplicate", 1, {"mine": 1}, 3)]
    assert names(dataset) == ["2.png", "3.png", "large.png"]
    texts = [caption.text for caption in read_layer(dataset, "mine")]
    assert texts == [f"caption of {name}" for name in names(dataset)]
    assert all(row[0] for _, row in side_by_side(Catalog.open(dataset), ["mine"]))
    assert check(dataset).left_out == {"duplicate": 1, "overlap": 1}
    assert {why.kind: Path(why.like).name for why in left_out(dataset).values()}["overlap"] == "bench::q.jpg"


def test_the_card_counts_what_was_dropped_once(dataset: Path, photos: Path, tmp_path: Path) -> None:
    screen(dataset, duplicates=True, against=[tmp_path / "bench"], drop=True)
    add([photos], dataset)
    found = facts(dataset, "mine", tmp_path / "card", Said("CC0-1.0", "mine", "photos"))
    assert (found.images, found.screened, found.not_taken) == (3, {"duplicate": 1, "overlap": 1}, {})


def test_what_was_dropped_does_not_come_back_unless_its_line_is_removed(dataset: Path, photos: Path) -> None:
    screen(dataset, duplicates=True, drop=True)
    assert add([photos], dataset).failed == {"left_out": 1}
    assert len(names(dataset)) == 4
    (dataset / "left_out.jsonl").unlink()
    assert add([photos], dataset).added == 1


def test_dropping_twice_finds_nothing_more(dataset: Path, tmp_path: Path) -> None:
    for expected in (2, 0):
        found = screen(dataset, duplicates=True, against=[tmp_path / "bench"], drop=True)
        assert len(found.dropped) == expected
    assert len(left_out(dataset)) == 2


def test_a_dropping_that_stopped_halfway_is_finished_by_the_same_call(dataset: Path) -> None:
    why = {next(iter(Catalog.open(dataset))).id: Reason("duplicate", "another")}
    index = (dataset / "dataset.json").read_text()
    tables = {path: path.read_bytes() for path in dataset.glob("catalog-*.parquet")}
    assert leave_out(dataset, "duplicate", why).layers == {"mine": 1}
    # The catalog comes last: before it, all the rest was done.
    (dataset / "dataset.json").write_text(index)
    for path, data in tables.items():
        path.write_bytes(data)
    report = leave_out(dataset, "duplicate", why)
    assert (report.images, report.layers, report.left) == (1, {}, 4)
    assert len(list(side_by_side(Catalog.open(dataset), ["mine"]))) == 4


def test_a_damaged_list_is_one_clear_line(dataset: Path) -> None:
    (dataset / "left_out.jsonl").write_text("{}\n")
    with pytest.raises(SharecapError, match="damaged list of images left out"):
        check(dataset)


def test_the_command_reports_and_drops(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharecap.cli", "check", str(dataset), "--duplicates", "--against"]
    command += [str(tmp_path / "bench")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "near-duplicates: 1 images within 4 bits" in run.stdout
    assert "bench: 0 exact, 1 near, of 1 images there" in run.stdout
    run = subprocess.run([*command, "--drop", "--json"], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert [one["images"] for one in found["dropped"]] == [1, 1]
    assert (found["images"], found["left_out"]) == (3, {"duplicate": 1, "overlap": 1})
