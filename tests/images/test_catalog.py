"""The catalog: every file is an image once, or a counted failure with a reason; nothing is lost or copied."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharecap.cli import main
from sharecap.errors import Interrupted, SharecapError, UsageError
from sharecap.images import add as adding
from sharecap.images import catalog
from sharecap.images.add import add
from sharecap.images.candidate import Candidate
from sharecap.images.catalog import Catalog
from sharecap.images.check import check
from sharecap.images.crew import MANY, Crew, Result
from sharecap.images.dataset import held
from sharecap.images.failures import failures_of
from sharecap.images.place import read_bytes

from .test_decode import bomb, encoded, picture


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(40, 30, seed).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for seed, name in enumerate(["b.png", "a.png", "coco/deep/1.jpg", "coco/2.png", "sam/3.webp"]):
        save(root / name, seed)
    return root


def rows(dataset: Path) -> list[tuple[str, str]]:
    return [(Path(image.path).name, image.source) for image in Catalog.open(dataset)]


def test_images_keep_a_fixed_order_and_the_first_folders_name(folder: Path, tmp_path: Path) -> None:
    report = add([folder], tmp_path / "d")
    assert (report.added, report.known, report.failed) == (5, 0, {})
    expected = [
        ("a.png", "photos"),
        ("b.png", "photos"),
        ("2.png", "coco"),
        ("1.jpg", "coco"),
        ("3.webp", "sam"),
    ]
    assert rows(tmp_path / "d") == expected


def test_an_image_knows_its_bytes_and_size(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    opened = Catalog.open(tmp_path / "d")
    for image in opened:
        data = read_bytes(image)
        assert image.id == hashlib.sha256(data).hexdigest()
        assert (image.bytes, image.width, image.height) == (len(data), 40, 30)
        assert len(bytes.fromhex(image.phash)) == 8
    assert len(opened) == 5


def test_source_overrides_the_folders_name(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d", "web")
    assert {image.source for image in Catalog.open(tmp_path / "d")} == {"web"}


def test_adding_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    before = Catalog.open(tmp_path / "d")
    report = add([folder], tmp_path / "d")
    assert (report.added, report.known, report.images) == (0, 5, 5)
    assert Catalog.open(tmp_path / "d") == before


def test_the_same_bytes_are_one_image(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a.png", folder / "copy.png")
    report = add([folder], tmp_path / "d")
    assert (report.added, report.known, len(Catalog.open(tmp_path / "d"))) == (5, 1, 5)


def test_adding_more_keeps_what_was_there_and_leaves_one_table(folder: Path, tmp_path: Path) -> None:
    add([folder / "coco"], tmp_path / "d", "coco")
    first = [image.id for image in Catalog.open(tmp_path / "d")]
    add([folder], tmp_path / "d")
    assert [image.id for image in Catalog.open(tmp_path / "d")][:2] == first
    assert len(list((tmp_path / "d").glob("catalog-*"))) == 1


def test_the_digest_names_the_images_and_not_where_they_lie(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(folder, moved)
    add([moved], tmp_path / "e")
    assert Catalog.open(tmp_path / "d").digest == Catalog.open(tmp_path / "e").digest


def test_a_moved_image_is_found_at_its_new_place(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    (folder / "a.png").rename(folder / "z.png")
    assert check(tmp_path / "d").missing == [str(folder / "a.png")]
    report = add([folder], tmp_path / "d")
    assert (report.added, report.images, check(tmp_path / "d").missing) == (0, 5, [])


def test_many_files_on_all_cores_give_the_same_catalog(tmp_path: Path) -> None:
    for seed in range(MANY + 20):
        levels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{seed:04}.png" if seed else tmp_path / "0000.bmp")
    (tmp_path / "0003.png").write_bytes(b"")
    report = add([tmp_path], tmp_path / "d")
    assert (report.added, report.failed) == (MANY + 19, {"empty": 1})
    names = [Path(image.path).name for image in Catalog.open(tmp_path / "d")]
    assert names == sorted(names)


def test_a_sidecar_is_the_alt_text(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("  a red boat\n", encoding="utf-8")
    report = add([folder], tmp_path / "d")
    assert [image.alt_text for image in Catalog.open(tmp_path / "d")] == ["a red boat", "", "", "", ""]
    assert report.ignored == 0


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero.jpg": (lambda p: p.touch(), "empty"),
    "words.png": (lambda p: p.write_text("not found"), "not_an_image"),
    "cut.jpg": (lambda p: p.write_bytes(encoded("JPEG", picture(300, 200))[:2000]), "truncated"),
    "bomb.png": (lambda p: p.write_bytes(bomb(40_000)), "too_large"),
    "pipe.png": (os.mkfifo, "not_a_file"),
    "dangling.png": (lambda p: p.symlink_to("nowhere.png"), "missing"),
    "loop.png": (lambda p: p.symlink_to(p), "missing"),
    "outside.png": (lambda p: p.symlink_to("/etc/hostname"), "outside"),
    "folder_outside": (lambda p: p.symlink_to("/etc"), "outside"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_counted_failure_with_a_reason(folder: Path, tmp_path: Path, name: str) -> None:
    make, reason = BROKEN[name]
    make(folder / name)
    report = add([folder], tmp_path / "d")
    assert (report.added, report.failed) == (5, {reason: 1})
    (failure,) = failures_of(tmp_path / "d")
    assert (failure.path, failure.reason) == (str(folder / name), reason)
    assert check(tmp_path / "d").failed == {reason: 1}


def test_a_name_that_is_no_utf8_is_a_counted_failure(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    assert add([folder], tmp_path / "d").failed == {"unreadable": 1}


def test_a_mended_file_is_no_failure_any_more(folder: Path, tmp_path: Path) -> None:
    (folder / "new.png").touch()
    add([folder], tmp_path / "d")
    save(folder / "new.png", 99)
    add([folder], tmp_path / "d")
    assert (failures_of(tmp_path / "d"), len(Catalog.open(tmp_path / "d"))) == ([], 6)


def test_links_within_the_folder_are_taken_once(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("a.png")
    (folder / "again").symlink_to("coco")
    report = add([folder], tmp_path / "d")
    assert (report.added, report.known, report.failed) == (5, 1, {})


def test_a_missing_folder_is_wrong_usage_and_makes_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        add([tmp_path / "nothing"], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_dataset_is_no_source_of_images(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    with pytest.raises(UsageError, match="this is a dataset"):
        add([tmp_path / "d"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_directory_with_other_files_is_not_taken_for_a_dataset(folder: Path) -> None:
    with pytest.raises(UsageError, match="holds other files"):
        add([folder], folder)
    assert not (folder / "dataset.json").exists()


def test_a_dataset_with_two_writers_is_refused(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    with held(tmp_path / "d"), pytest.raises(SharecapError, match="another command"):
        add([folder], tmp_path / "d")


def test_no_dataset_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match="sharecap add"):
        Catalog.open(tmp_path / "d")


def test_a_damaged_index_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text('{"catalog": ')
    with pytest.raises(SharecapError, match="damaged dataset"):
        Catalog.open(tmp_path / "d")


def test_check_names_missing_and_changed_files(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"other")
    report = check(tmp_path / "d")
    assert (report.missing, report.changed) == ([str(folder / "a.png")], [str(folder / "b.png")])
    assert report.sources == {"coco": 2, "photos": 2, "sam": 1}


def test_a_killed_add_leaves_the_old_catalog(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    before = Catalog.open(tmp_path / "d")
    save(folder / "new.png", 99)
    # The process kills itself at the last moment: the new table is written, the index is not.
    script = (
        "import os, signal, sys; from pathlib import Path; from sharecap.images import add, catalog\n"
        "catalog.write_atomically = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "add.add([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    line = [sys.executable, "-c", script, str(folder), str(tmp_path / "d")]
    assert subprocess.run(line, check=False).returncode == -signal.SIGKILL
    assert Catalog.open(tmp_path / "d") == before
    assert len(list(before)) == 5
    assert add([folder], tmp_path / "d").images == 6
    assert sorted(p.name for p in (tmp_path / "d").iterdir() if p.suffix == ".partial") == []
    assert len(list((tmp_path / "d").glob("catalog-*"))) == 1


def test_an_add_in_many_harvests_gives_the_same_catalog(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add([folder], tmp_path / "d")
    monkeypatch.setattr(adding, "HARVEST", 2)
    shutil.copy(folder / "a.png", folder / "copy.png")
    (folder / "bad.png").touch()
    report = add([folder], tmp_path / "e")
    assert (report.added, report.known, report.failed, report.images) == (5, 1, {"empty": 1}, 5)
    assert list(Catalog.open(tmp_path / "e")) == list(Catalog.open(tmp_path / "d"))


def test_ctrl_c_keeps_the_images_so_far(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ctrl-C comes after the first two images are known.
    def results(crew: Crew, wanted: Iterable[Candidate]) -> Generator[Result, None, None]:
        for number, result in enumerate(crew_results(crew, wanted)):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            yield result

    crew_results = Crew.results
    monkeypatch.setattr(Crew, "results", results)
    with pytest.raises(Interrupted, match="2 images are in"):
        add([folder], tmp_path / "d")
    monkeypatch.undo()
    assert len(Catalog.open(tmp_path / "d")) == 2
    assert add([folder], tmp_path / "d").added == 3


def test_the_command_line_prints_counts_and_sets_exit_codes(folder: Path, tmp_path: Path) -> None:
    def command(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "sharecap.cli", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    (folder / "bad.png").touch()
    done = command("add", folder, "--to", tmp_path / "d", "--json")
    assert (done.returncode, json.loads(done.stdout)["failed"]) == (0, {"empty": 1})
    assert command("check", tmp_path / "d").returncode == 0
    (folder / "a.png").unlink()
    assert command("check", tmp_path / "d").returncode == 1
    missing = command("add", tmp_path / "nothing", "--to", tmp_path / "e")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("sharecap: no such file or folder: ")
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("to", "says"), [("file/x", "cannot write"), ("n" * 300, "cannot write"), (b"\xff", "not UTF-8")]
)
def test_a_dataset_where_none_can_be_is_one_clear_error(tmp_path: Path, to: str | bytes, says: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SharecapError, match=says):
        add([tmp_path / "pictures"], tmp_path / os.fsdecode(to))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pictures"]


def test_a_catalog_that_is_cut_off_is_one_clear_error(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(encoded("PNG", picture()))
    add([pictures], tmp_path / "d")
    table = Catalog.open(tmp_path / "d").table
    table.write_bytes(table.read_bytes()[:200])
    for act in (lambda: add([pictures], tmp_path / "d"), lambda: list(Catalog.open(tmp_path / "d"))):
        with pytest.raises(SharecapError, match=r"damaged catalog .*restore it"):
            act()


def test_chosen_images_come_from_any_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "ROWS", 3)
    for seed in range(8):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    add([tmp_path / "photos"], tmp_path / "d")
    opened = Catalog.open(tmp_path / "d")
    images = list(opened)
    assert [(stretch.at, len(stretch)) for stretch in opened.stretches()] == [(0, 3), (3, 3), (6, 2)]
    assert list(opened.chosen(bytes([0, 1, 0, 0, 0, 0, 2, 1]))) == [images[1], images[6], images[7]]
    assert [stretch.at for stretch in opened.stretches(bytes([0, 0, 0, 0, 0, 1, 0, 0]))] == [3]
    assert list(opened.chosen(bytes(8))) == []


def test_an_older_catalog_lacks_columns_and_a_damaged_one_needed_ones(folder: Path, tmp_path: Path) -> None:
    add([folder], tmp_path / "d")
    opened = Catalog.open(tmp_path / "d")
    table, images = pq.read_table(opened.table), list(opened)
    pq.write_table(table.select(table.column_names[:-1]), opened.table)
    assert list(opened) == images
    pq.write_table(table.drop_columns(["phash"]), opened.table)
    with pytest.raises(SharecapError, match=r"damaged catalog .*phash.*restore it"):
        list(opened)
    pq.write_table(table.select(table.column_names[:3]), opened.table)
    with pytest.raises(SharecapError, match="damaged catalog"):
        list(opened)


def test_results_never_send_a_files_name_to_the_terminal_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": name} for name in ("set/\x1b[31m.png", "\x9b2J/\u202egnp.png")]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    words = ["sharecap", "add", str(tmp_path / "list.json"), "--to", str(tmp_path / "d")]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit, match="0"):
            main()
        said = capsys.readouterr().out
        assert "\\u001b[31m" in said
        assert "\\u009b2J" in said
        assert not {"\x1b", "\x9b", "\u202e"} & set(said)
    assert json.loads(said)["failed"] == {"missing": 2}


def test_an_error_is_one_line_whatever_a_name_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sharecap", "add", str(tmp_path / "a\nb\x1b[31m"), "--to", "d"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "a\\nb\\x1b[31m" in said) == (1, True)
