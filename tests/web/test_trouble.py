"""What goes wrong under an open page: files damaged, foreign, half written, removed, moved, read-only."""

import json
import shutil
from pathlib import Path

import pytest

from sharecap.captions.layer import write_layer
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption
from sharecap.web import room as rooms
from sharecap.web.building import build
from sharecap.web.index import Index
from sharecap.web.query import Finder, Query

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
