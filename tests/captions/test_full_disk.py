"""A disk that runs full: one clear line, exit code 1, nothing half-written stands, and no answer is lost."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharecap.captions.exports.register import exports_of
from sharecap.captions.layer import layers, write_layer

from .conftest import Typed, make_dataset
from .given import given
from .server import Teacher


def fill(place: Path, leave: int) -> Path:
    """Take up all space but `leave` bytes."""
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):  # the ledger may take some too
        while (room := shutil.disk_usage(place).free - leave) > 0:
            f.write(bytes(room))
    return filler


@pytest.mark.parametrize("form", ["llava", "hf", "webdataset"])
def test_an_export_that_finds_no_room_leaves_nothing_on_the_full_disk(
    small_disk: Path, tmp_path: Path, typed: Typed, form: str
) -> None:
    dataset = make_dataset(tmp_path, 40)
    write_layer(dataset, "hand", given(dataset, "A boat. " * 400))
    fill(small_disk, 8_192)
    code, _, said = typed("export", dataset, "--format", form, "--out", small_disk / "out")
    assert (code, "no space left" in said) == (1, True)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    assert not exports_of(dataset)


def command(dataset: Path, teacher: Teacher, layer: str = "one") -> "subprocess.CompletedProcess[str]":
    words = ["caption", str(dataset), "--teacher", f"{teacher.url}#model", "--layer", layer, "--json"]
    line = [sys.executable, "-m", "sharecap.cli", *words, "--concurrency", "4"]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def assert_one_clear_line(done: "subprocess.CompletedProcess[str]") -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("sharecap: ")]
    assert (done.returncode, len(errors)) == (1, 1), done.stderr
    assert "free some space" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_during_the_run_stops_it_and_loses_no_answer(
    small_disk: Path, tmp_path: Path, teacher: Teacher
) -> None:
    dataset = small_disk / "dataset"
    shutil.copytree(make_dataset(tmp_path, 40), dataset)
    filler: list[Path] = []

    def on_answer(running: Teacher) -> None:
        if running.answered.total() == 10:
            filler.append(fill(small_disk, 600_000))

    teacher.on_answer = on_answer
    assert_one_clear_line(command(dataset, teacher))
    assert layers(dataset) == []
    filler[0].unlink()
    done = command(dataset, teacher)
    report = json.loads(done.stdout)
    assert (done.returncode, report["captions"], report["in_flight"]) == (0, 40, 0)
    assert set(teacher.counts().values()) == {1}


def test_a_disk_without_a_byte_left_is_one_clear_line(
    small_disk: Path, tmp_path: Path, teacher: Teacher
) -> None:
    dataset = small_disk / "dataset"
    shutil.copytree(make_dataset(tmp_path, 40), dataset)
    filler: list[Path] = []

    def on_answer(running: Teacher) -> None:
        if running.answered.total() == 10:
            filler.append(fill(small_disk, 0))

    teacher.on_answer = on_answer
    assert_one_clear_line(command(dataset, teacher))
    assert_one_clear_line(command(dataset, teacher))
    assert layers(dataset) == []
    filler[0].unlink()
    report = json.loads(command(dataset, teacher).stdout)
    assert report["captions"] == 40
    assert sum(n - 1 for n in teacher.counts().values()) <= 4


@pytest.mark.parametrize("left", [0, 4096, 12_288])
def test_a_layer_that_does_not_fit_is_not_there(
    small_disk: Path, tmp_path: Path, teacher: Teacher, left: int
) -> None:
    dataset = small_disk / "dataset"
    shutil.copytree(make_dataset(tmp_path, 40), dataset)
    assert command(dataset, teacher).returncode == 0
    filler = fill(small_disk, left)  # the same requests under another name: nothing to send, only to seal
    assert_one_clear_line(command(dataset, teacher, "two"))
    assert layers(dataset) == ["one"]
    filler.unlink()
    assert command(dataset, teacher, "two").returncode == 0
    assert layers(dataset) == ["one", "two"]
    assert len(teacher.log) == 40


def test_adding_to_a_full_disk_leaves_the_old_catalog(small_disk: Path, tmp_path: Path) -> None:
    dataset = small_disk / "dataset"
    shutil.copytree(make_dataset(tmp_path, 5), dataset)
    filler = fill(small_disk, 0)
    pictures = make_dataset(tmp_path / "more", 9).parent / "pictures"
    line = [sys.executable, "-m", "sharecap.cli", "add", str(pictures), "--to", str(dataset)]
    assert_one_clear_line(subprocess.run(line, capture_output=True, text=True, check=False))
    check = [sys.executable, "-m", "sharecap.cli", "check", str(dataset), "--json"]
    assert json.loads(subprocess.run(check, capture_output=True, text=True, check=True).stdout)["images"] == 5
    filler.unlink()
    done = subprocess.run([*line, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"] == 9
