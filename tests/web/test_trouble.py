"""What goes wrong under an open page: files damaged, foreign, half written, removed, moved, read-only."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from sharecap.captions.layer import read_layer, write_layer
from sharecap.captions.ledger import connect
from sharecap.captions.running import Running, noted
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption
from sharecap.web import room as rooms
from sharecap.web.building import build
from sharecap.web.index import Index
from sharecap.web.query import Finder, Query
from sharecap.web.review import Review
from sharecap.web.runs import Trainings
from sharecap.web.study import VOTES, create, open_study, vote, votes
from tests.captions.test_full_disk import fill

from .conftest import captioned, serving


def scored(dataset: Path, text: bytes, layer: str = "teacher") -> Index:
    """The index of the dataset with a good score of the first image and then `text`."""
    (dataset / "scores").mkdir(exist_ok=True)
    first = next(iter(Catalog.open(dataset)))
    good = json.dumps({"image_id": first.id, "score": 0.5, "sentences": None}).encode() + b"\n"
    (dataset / "scores" / f"{layer}.jsonl").write_bytes(good + text)
    build(dataset)
    return Index(dataset, lambda *_: None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"image_id": "', []),  # it is being written
        (b'{"image_id": "\n', ["1 bad lines, the first is line 2: Invalid JSON"]),
        (b"\xff\xfe\n[]\n", ["2 bad lines, the first is line 2"]),
        (b'{"image_id": "%064d", "score": NaN}\n' % 0, ["1 bad lines, the first is line 2"]),
        (b'{"image_id": "%064d", "score": 1}\n' % 0, ["1 lines are about images that are not here"]),
        (b'{"image_id": "%064d", "sentences": ["perhaps"]}\n' % 0, ["1 bad lines"]),
    ],
)
def test_bad_lines_of_scores_are_told_and_the_good_ones_count(
    dataset: Path, text: bytes, told: list[str]
) -> None:
    index = scored(dataset, text)
    assert index.state().whole
    assert Finder(index).page(Query("teacher", order="best")).places == [0]
    assert len(index.troubles()) == len(told)
    for line, wanted in zip(index.troubles(), told, strict=True):
        assert line.startswith(f"scores/teacher.jsonl: {wanted}")
    (dataset / "scores" / "teacher.jsonl").unlink()
    build(dataset)
    assert index.troubles() == []
    assert Finder(index).page(Query("teacher", order="best")).places == []


def test_scores_of_no_layer_and_names_that_hold_no_file_are_no_hindrance(dataset: Path) -> None:
    index = scored(dataset, b"", layer="nobody's")
    (dataset / "scores" / "folder.jsonl").mkdir()
    (dataset / "scores" / "gone.jsonl").symlink_to(dataset / "nowhere")
    build(dataset)
    assert index.state().whole
    assert index.troubles() == ["scores/nobody's.jsonl: there is no such layer"]


def test_what_a_judge_keeps_beside_the_scores_is_no_trouble(dataset: Path) -> None:
    index = scored(dataset, b"")
    for what in ("claims", "claims-failed", "mend", "answers"):
        (dataset / "scores" / f"teacher.{what}.jsonl").write_text('{"image": "x"}\n')
    build(dataset)
    assert index.troubles() == []


@pytest.mark.parametrize("manifest", ["{", '{"kind": "model"}', "[]"])
def test_a_layer_that_is_none_is_told_and_the_rest_is_shown(dataset: Path, manifest: str) -> None:
    for name in ("third", "not a layer's name"):
        (dataset / "layers" / name).mkdir()
        (dataset / "layers" / name / "manifest.json").write_text(manifest)
    with serving(dataset) as server:
        found = server.text("/found?layer=teacher")
        assert "<b>12</b>" in found
        assert "layer third: " in found
        assert "layer not a layer&#39;s name: " in found
        assert str(dataset) not in found
        assert server.ask("GET", "/")[0] == 200


def test_a_damaged_list_of_near_duplicates_is_told_and_the_rest_is_shown(dataset: Path) -> None:
    from sharecap.images.duplicates import FOLDER, TABLE, find_duplicates

    find_duplicates(dataset, 10)
    (dataset / FOLDER / TABLE).write_bytes(b"no table")
    build(dataset)
    index = Index(dataset, lambda *_: None)
    assert index.state().whole
    assert index.troubles()[0].startswith(f"{FOLDER}: can't be read")


def test_a_layer_that_goes_with_another_catalog_is_told(dataset: Path) -> None:
    rows = [Caption(i.id, "", "Third.", "x", "p", "stop") for i in Catalog.open(dataset)]
    write_layer(dataset, "third", rows)
    other = captioned(dataset.parent / "other", 14)
    shutil.copy(other / "layers" / "teacher" / "captions.parquet", dataset / "layers" / "third")
    build(dataset)
    assert "does not go with the catalog" in Index(dataset, lambda *_: None).troubles()[0]


def test_before_anything_is_in_the_page_says_so_and_then_shows_it(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms.Builder, "__call__", lambda *_: None)
    with serving(dataset, made=False) as server:
        for path in ("/", "/?layer=teacher", "/?q=red&order=longest", "/page?layer=captioner"):
            assert "are being taken in" in server.text(path)
        assert "<b>0</b> of 12" in server.text("/found")
        assert "<option selected>captioner</option>" in server.text("/")
        build(dataset)
        assert "are being taken in" not in server.text("/")
        rows = [Caption(i.id, "", "Third.", "x", "p", "stop") for i in Catalog.open(dataset)]
        write_layer(dataset, "third", rows)  # sealed while the page is open
        image = server.room.index.image(0)
        assert image
        assert "are being taken in" in server.text("/?layer=third")
        assert b"in a moment" in server.ask("GET", f"/image/{image.id}?layer=third")[2]
        build(dataset)
        assert server.text("/?layer=third").count("Third.") >= 12


def test_a_count_is_never_that_of_older_scores(dataset: Path) -> None:
    scored(dataset, b"")
    with serving(dataset) as server:
        asked = "/found?layer=teacher&score_from=0.4"
        assert "<b>1</b>" in server.text(asked)
        (dataset / "scores" / "teacher.jsonl").write_text("")
        build(dataset)
        assert "<b>0</b>" in server.text(asked)


def test_a_builder_that_failed_is_tried_again(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "AGAIN_S", 0.0)
    builder = rooms.Builder()
    index = Index(dataset, builder)
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", shutil.which("false"))
        index.refresh()
        builder._process.wait(60)
    assert builder.trouble() == "its process ended with 1"
    index.refresh()
    builder._process.wait(60)
    assert (builder.trouble(), index.state().whole) == ("", True)


def test_a_cache_that_is_removed_is_made_again_under_the_open_page(dataset: Path) -> None:
    with serving(dataset) as server:
        first = next(iter(Catalog.open(dataset)))
        assert server.ask("GET", f"/thumb/{first.id}")[0] == 200
        shutil.rmtree(dataset / "view")
        server.ask("GET", "/")
        server.room.builder._process.wait(60)
        assert server.text("/?layer=teacher").count('<li class="card') == 12
        assert server.ask("GET", f"/thumb/{first.id}")[1]["content-type"] == "image/jpeg"
        assert (dataset / "view" / "thumbs.sqlite").exists()


def test_images_that_come_or_are_taken_down_change_the_open_page(dataset: Path) -> None:
    from sharecap.captions.drop import drop

    with serving(dataset) as server:
        first, second, *_ = Catalog.open(dataset)
        for one in (first, second):
            assert server.ask("GET", f"/thumb/{one.id}")[0] == 200
        drop(dataset, [first.id], "asked for")
        server.text("/")
        assert server.ask("GET", f"/thumb/{first.id}")[0] == 400
        assert server.ask("GET", f"/picture/{first.id}")[0] == 400
        server.room.builder._process.wait(60)
        assert "of 11 images" in server.text("/found?layer=teacher")
        assert server.ask("GET", f"/image/{second.id}?layer=teacher")[0] == 200
        folder = dataset.parent / "more"
        folder.mkdir()
        shutil.copy(first.path, folder / "same.png")
        from PIL import Image as Picture

        Picture.new("RGB", (50, 40), (1, 2, 3)).save(folder / "new.png")
        add([folder], dataset)
        server.text("/")
        server.room.builder._process.wait(60)
        assert "of 12 images" in server.text("/found?layer=teacher")


def test_a_dataset_that_is_moved_away_is_one_line_and_back_again_it_is_shown(dataset: Path) -> None:
    with serving(dataset) as server:
        away = dataset.rename(dataset.with_name("elsewhere"))
        status, _, body = server.ask("GET", "/")
        assert (status, b"no dataset here" in body) == (500, True)
        assert not dataset.exists()
        away.rename(dataset)
        assert server.ask("GET", "/")[0] == 200


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written there meanwhile, not even by root."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    bind = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("edited", [False, True])
def test_a_read_only_dataset_is_shown_and_says_why_it_is_not_edited(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(dataset.parent / "cache"))
    first = next(iter(read_layer(dataset, "teacher")))
    connect(dataset / "ledger.sqlite").close()
    if edited:
        review = Review(dataset)
        review.edit(first, 1, "A man waves.", "A woman waves.")
        review.close()
    create(dataset, "s", ["teacher", "captioner"], ["ann"], images=3, repeats=0)
    (token,) = open_study(dataset, "s").raters
    with read_only(dataset), serving(dataset) as server:
        gallery = server.text("/?layer=teacher")
        assert gallery.count('<li class="card') == 12
        assert ("A woman waves." in gallery) == edited
        assert "nothing can be edited here" in gallery
        assert server.ask("GET", f"/thumb/{first.image_id}")[1]["content-type"] == "image/jpeg"
        assert "hx-post" not in server.text(f"/image/{first.image_id}?layer=teacher")
        assert server.ask("GET", "/runs")[0] == 200
        for path, fields in (
            (f"/image/{first.image_id}/drop", {"layer": "teacher"}),
            ("/undo", {}),
            ("/write", {"layer": "teacher", "to": "mended"}),
            (
                "/studies",
                {"name": "t", "a": "teacher", "b": "captioner", "raters": "x", "images": 2, "repeats": 0},
            ),
            (f"/rate/{token}", {"trial": 0, "choice": 1}),
        ):
            status, _, body = server.ask("POST", path, fields)
            assert status in (400, 500), path
            assert b"read-only" in body.lower() or b"nothing was edited" in body, body
    if edited:
        assert Review(dataset).undo() == ("teacher", first.image_id)


def test_an_edit_that_finds_the_disk_full_is_told_and_thumbnails_go_on(small_disk: Path) -> None:
    dataset = captioned(small_disk, 6)
    first = next(iter(read_layer(dataset, "teacher")))
    with serving(dataset) as server:
        fill(small_disk, 0)
        texts = {"layer": "teacher", "n": 1, "was": "A man waves.", "text": "x" * 20_000}
        status, _, body = server.ask("POST", f"/image/{first.image_id}/edit", texts)
        assert (status, b"full" in body) == (500, True)
        assert server.ask("GET", f"/thumb/{first.image_id}")[1]["content-type"] == "image/jpeg"
        assert server.ask("GET", f"/image/{first.image_id}?layer=teacher")[0] == 200
        (small_disk / "filler").unlink()
        assert server.ask("POST", f"/image/{first.image_id}/edit", texts)[0] == 200


def test_notes_of_runs_that_are_foreign_or_damaged_are_passed_over(dataset: Path) -> None:
    run = Running("teacher", "big", "p@1/", 12, 0, None, time.time())
    connect(dataset / "ledger.sqlite").close()
    with noted(dataset, run):
        for number, change in enumerate(
            ({"started": "x"}, {"images": None}, {"process": 10**30}, {"budget_usd": "much"}, {"layer": 3})
        ):
            path = dataset / "runs" / f"{number}.json"
            path.write_text(json.dumps({**asdict(run), **change}))
        (dataset / "runs" / "list.json").write_text("[]")
        with serving(dataset) as server:
            assert server.text("/runs").count('<section class="run"') == 1


def test_metrics_that_can_not_be_drawn_leave_the_curve_whole(dataset: Path) -> None:
    lines = [{"step": n, "loss": 2.0 / n, "tokens_per_s": 10**400} for n in range(1, 4)]
    odd = [
        '{"step": 4, "loss": Infinity}',
        '{"step": 5, "loss": NaN}',
        '{"step": true, "loss": 1}',
        '{"step"',
    ]
    runs = dataset.parent / "runs"
    (runs / "one").mkdir(parents=True)
    (runs / "one" / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), *odd, ""]))
    with serving(dataset, runs=[runs]) as server:
        page = server.text("/runs")
        assert "loss per learned token, 3 steps" in page
        assert "nan" not in page
        assert "tokens per second," not in page


def test_pages_that_look_at_the_same_run_take_its_lines_in_once(dataset: Path) -> None:
    runs = dataset.parent / "runs"
    runs.mkdir()
    lines = "".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in range(20_000))
    (runs / "metrics.jsonl").write_text(lines)
    trainings = Trainings([runs])
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(trainings.now) for _ in range(4)]:
            done.result()
    assert len(trainings.now()[0].lines) == 20_000


def test_a_damaged_study_leaves_the_others_raters_their_links(dataset: Path) -> None:
    study = create(dataset, "z", ["teacher", "captioner"], ["ann"], images=3, repeats=0)
    (token,) = study.raters
    (dataset / "studies" / "a").mkdir()
    (dataset / "studies" / "a" / "study.json").write_text("{")
    (dataset / "studies" / "b").mkdir()  # a kill was here
    with serving(dataset) as server:
        assert server.ask("GET", f"/rate/{token}")[0] == 200
        status, _, body = server.ask("GET", "/rate/nobody")
        assert (status, b"damaged study" in body, b"studies/" in body) == (500, True, False)
        assert b"studies/a/study.json" in server.ask("GET", "/studies/a")[2]
    assert create(dataset, "b", ["teacher", "captioner"], ["ann"], images=3, repeats=0).name == "b"


def test_votes_of_another_study_or_no_study_are_none(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=3, repeats=0)
    vote(study, "ann", 0, "left", 1.0)
    good = json.loads((study.directory / VOTES).read_text())
    for change in (
        {"pair": 99},
        {"pair": -1},
        {"left": "x"},
        {"choice": "both"},
        {"trial": None},
        {"rater": 1},
    ):
        with open(study.directory / VOTES, "a") as file:
            file.write(json.dumps({**good, "trial": 1, **change}) + "\n")
    assert [v.trial for v in votes(study)] == [0]
    with serving(dataset) as server:
        for path in ("/studies/s", "/studies/s/votes.csv", "/studies/s/label-studio.json"):
            assert server.ask("GET", path)[0] == 200
