"""Exports: whole or not at all, every row with its image, back again with the same captions."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image as Picture

from sharecap.artifact import file_digest
from sharecap.captions.drop import drop
from sharecap.captions.export import export
from sharecap.captions.exports.hf import HuggingFace, HuggingFaceWriter
from sharecap.captions.exports.llava import INSTRUCTIONS, Llava
from sharecap.captions.exports.register import exports_of
from sharecap.captions.exports.shards import Shards
from sharecap.captions.exports.sidecar import Sidecar
from sharecap.captions.exports.webdataset import WebDataset
from sharecap.captions.layer import read_layer, write_layer
from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

from .conftest import Typed, make_dataset
from .given import given


@pytest.mark.parametrize("out", [".", "file/x.json", "/proc/x.json", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_one_clear_error(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    write_layer(dataset, "hand", given(dataset))
    with pytest.raises(SharecapError, match=r"cannot write|this is a directory"):
        export(dataset, "hand", Llava(Path(out)))
    assert not list(tmp_path.rglob("*.partial"))


def exported(path: Path) -> list[dict[str, object]]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(rows, list)
    return rows


def test_rows_are_llavas_and_every_one_has_its_image(dataset: Path, tmp_path: Path) -> None:
    captions = given(dataset, "Ünïcode “boat”")
    write_layer(dataset, "hand", captions)
    report = export(dataset, "hand", Llava(tmp_path / "out.json", image_root=tmp_path / "pictures"))
    rows = exported(tmp_path / "out.json")
    assert (report.rows, report.left_out, len(rows)) == (12, {}, 12)
    for row, caption in zip(rows, captions, strict=True):
        assert set(row) == {"id", "image", "conversations"}
        human, gpt = row["conversations"]  # type: ignore[misc]
        assert (row["id"], gpt) == (caption.image_id, {"from": "gpt", "value": caption.text})
        assert human["from"] == "human"
        assert human["value"].removeprefix("<image>\n") in INSTRUCTIONS
        assert (tmp_path / "pictures" / str(row["image"])).is_file()
        assert str(row["image"]).startswith("coco/")


def test_without_a_root_paths_are_absolute(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    export(dataset, "hand", Llava(tmp_path / "out.json"))
    assert all(Path(str(row["image"])).is_absolute() for row in exported(tmp_path / "out.json"))


def test_an_image_outside_the_root_is_wrong_usage_and_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    (tmp_path / "root").mkdir()
    with pytest.raises(UsageError, match="outside the image root"):
        export(dataset, "hand", Llava(tmp_path / "out.json", image_root=tmp_path / "root"))
    assert not list(tmp_path.glob("out.json*"))


@pytest.mark.parametrize("place", ["catalog", "picture", "of another dataset"])
def test_a_list_never_takes_the_place_of_a_file_that_is_no_export(
    dataset: Path, tmp_path: Path, place: str
) -> None:
    write_layer(dataset, "hand", given(dataset))
    out = {
        "catalog": dataset / "dataset.json",
        "picture": Path(next(iter(Catalog.open(dataset))).path),
    }.get(place, tmp_path / "x.json")
    if not out.exists():
        out.write_text("[]")
    before = file_digest(out)
    with pytest.raises(UsageError, match="no export of this dataset"):
        export(dataset, "hand", Llava(out))
    assert file_digest(out) == before
    assert not exports_of(dataset)
    export(dataset, "hand", Llava(tmp_path / "mine.json"))
    assert export(dataset, "hand", Llava(tmp_path / "mine.json")).rows == 12


def test_a_row_never_goes_without_its_image(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset)[2:])
    images = [Path(image.path) for image in Catalog.open(dataset)]
    images[3].unlink()
    report = export(dataset, "hand", Llava(tmp_path / "out.json"))
    assert (report.rows, report.without_caption, report.left_out) == (9, 2, {"missing": 1})
    named = [json.loads(line) for line in Path(report.named_in).read_text().splitlines()]
    assert [(row["where"], row["reason"]) for row in named] == [(str(images[3]), "missing")]
    assert len(exported(tmp_path / "out.json")) == 9


def test_an_images_instruction_depends_on_the_seed_and_nothing_else(dataset: Path, tmp_path: Path) -> None:
    def instructions(layer: str, seed: int) -> dict[object, str]:
        export(dataset, layer, Llava(tmp_path / "out.json", seed=seed))
        rows = exported(tmp_path / "out.json")
        return {row["id"]: row["conversations"][0]["value"] for row in rows}  # type: ignore[index]

    write_layer(dataset, "all", given(dataset))
    write_layer(dataset, "some", given(dataset, "Other.")[5:])
    whole, part = instructions("all", 0), instructions("some", 0)
    assert part == {key: whole[key] for key in part}
    assert instructions("all", 1) != whole
    assert len(Counter(whole.values())) > 1


def test_an_export_of_a_layer_older_than_the_images_is_refused(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    add([make_dataset(tmp_path / "more", 13).parent / "pictures"], dataset)
    with pytest.raises(SharecapError, match="images were added"):
        export(dataset, "hand", Llava(tmp_path / "out.json"))


HOSTILE = 'Line one\n| "two" | <b>&amp;</b> `x` \\ \x1b[31m \x00 \u2028 😀 [a](b) ---'


def hostile(dataset: Path) -> list[Caption]:
    """A layer `odd` whose captions hold everything that breaks formats; its captions."""
    rows = [replace(c, text=f"{HOSTILE} {n}") for n, c in enumerate(given(dataset))]
    write_layer(dataset, "odd", rows)
    return rows


def readable(text: str) -> str:
    """What a plain text file says of `text`."""
    return text.replace("\x1b", "�").replace("\x00", "�")


def test_datasets_loads_the_parquet_shards_with_their_images(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    rows, catalog = hostile(dataset), list(Catalog.open(dataset))
    report = export(dataset, "odd", HuggingFace(tmp_path / "hf"))
    found = load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"), split="train")
    assert (report.rows, len(found)) == (12, 12)
    for there, caption, image in zip(found, rows, catalog, strict=True):
        assert (there["caption"], there["image_id"], there["source"]) == (caption.text, image.id, "coco")
        with Picture.open(image.path) as picture:
            assert (there["image"].size, there["image"].tobytes()) == (picture.size, picture.tobytes())


def test_shards_end_at_their_size_and_hold_the_bytes_unchanged(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 300)
    write_layer(dataset, "hand", given(dataset))
    target = HuggingFace(tmp_path / "hf")
    writer = HuggingFaceWriter(Shards(target.out, "data/train-{:05}.parquet"), shard_bytes=20_000)
    for image, caption in zip(Catalog.open(dataset), given(dataset), strict=True):
        writer.put(image, caption)
    files = writer.finish()
    assert [file.rows for file in files] == [100, 100, 100]
    table = pq.read_table(tmp_path / "hf" / "data")
    data = {row["image_id"]: row["image"]["bytes"] for row in table.to_pylist()}
    assert all(data[image.id] == Path(image.path).read_bytes() for image in Catalog.open(dataset))
    assert [file.sha256 for file in files] == [file_digest(target.out / file.name) for file in files]


def test_tar_shards_hold_image_words_and_json_under_one_key(dataset: Path, tmp_path: Path) -> None:
    rows, catalog = hostile(dataset), list(Catalog.open(dataset))
    report = export(dataset, "odd", WebDataset(tmp_path / "wds"))
    with tarfile.open(tmp_path / "wds" / "shard-000000.tar") as tar:
        names = tar.getnames()
        read = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    keys = [name.partition(".")[0] for name in names]
    assert (report.rows, len(names)) == (12, 36)
    assert keys == [image.id for image in catalog for _ in range(3)]
    for image, caption in zip(catalog, rows, strict=True):
        about = json.loads(read[f"{image.id}.json"])
        assert read[f"{image.id}.png"] == Path(image.path).read_bytes()
        assert (about["caption"], about["width"]) == (caption.text, 8)
        assert read[f"{image.id}.txt"].decode() == readable(caption.text)


def test_equal_captions_give_equal_shards(dataset: Path, tmp_path: Path) -> None:
    hostile(dataset)
    for form in (HuggingFace, WebDataset):
        first = export(dataset, "odd", form(tmp_path / f"{form.form}-1")).files
        assert export(dataset, "odd", form(tmp_path / f"{form.form}-2")).files == first


@pytest.mark.parametrize("form", [HuggingFace, WebDataset])
def test_a_directory_with_something_in_it_is_refused_and_left_alone(
    dataset: Path, tmp_path: Path, form: type[HuggingFace | WebDataset]
) -> None:
    write_layer(dataset, "hand", given(dataset))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        export(dataset, "hand", form(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "new").mkdir()
    assert export(dataset, "hand", form(tmp_path / "new")).rows == 12


@pytest.mark.parametrize("form", [HuggingFace, WebDataset])
def test_images_that_are_gone_or_not_what_they_were_have_no_row(
    dataset: Path, tmp_path: Path, form: type[HuggingFace | WebDataset]
) -> None:
    write_layer(dataset, "hand", given(dataset))
    images = [Path(image.path) for image in Catalog.open(dataset)]
    images[0].unlink()
    images[1].write_bytes(images[2].read_bytes())
    report = export(dataset, "hand", form(tmp_path / "out"))
    assert (report.rows, report.left_out) == (10, {"changed": 1, "missing": 1})
    named = [json.loads(line)["where"] for line in Path(report.named_in).read_text().splitlines()]
    assert named == [str(images[0]), str(images[1])]


def test_a_killed_export_leaves_nothing_in_its_place_and_the_next_one_is_whole(
    dataset: Path, tmp_path: Path
) -> None:
    write_layer(dataset, "hand", given(dataset))
    out = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from sharecap.captions.export import export;"
        "from sharecap.captions.exports import webdataset as w;"
        "put = w.WebDatasetWriter.put;"
        "w.WebDatasetWriter.put = lambda s, i, c: os._exit(9) if s.rows == 5 else put(s, i, c);"
        f"export(Path({str(dataset)!r}), 'hand', w.WebDataset(Path({str(out)!r})))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not out.exists()
    assert [e.written for e in exports_of(dataset)] == [""]
    assert export(dataset, "hand", WebDataset(out)).rows == 12
    assert [bool(e.written) for e in exports_of(dataset)] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "out", "pictures"]


def texts_beside(dataset: Path) -> list[str | None]:
    paths = [Path(image.path).with_suffix(".txt") for image in Catalog.open(dataset)]
    return [p.read_bytes().decode() if p.exists() else None for p in paths]


def test_sidecars_lie_beside_the_images_and_follow_the_layer(dataset: Path) -> None:
    rows = hostile(dataset)
    write_layer(dataset, "other", given(dataset)[:6])
    assert export(dataset, "odd", Sidecar(dataset)).rows == 12
    assert texts_beside(dataset) == [readable(caption.text) for caption in rows]
    report = export(dataset, "other", Sidecar(dataset))
    assert (report.rows, report.without_caption, report.left_out) == (6, 6, {})
    assert texts_beside(dataset)[:7] == [c.text for c in given(dataset)[:6]] + [readable(rows[6].text)]


def test_a_text_that_somebody_else_wrote_is_never_overwritten(dataset: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    images = [Path(image.path) for image in Catalog.open(dataset)]
    images[2].with_suffix(".txt").write_text("my own words")
    images[4].with_suffix(".txt").symlink_to(images[2].with_suffix(".txt"))
    images[5].with_suffix(".txt").mkdir()
    report = export(dataset, "hand", Sidecar(dataset))
    assert (report.rows, report.left_out) == (9, {"foreign_txt": 3})
    assert images[2].with_suffix(".txt").read_text() == "my own words"
    images[7].with_suffix(".txt").write_text("edited since")
    assert export(dataset, "hand", Sidecar(dataset)).left_out == {"foreign_txt": 4}
    assert not list(images[0].parent.glob("*.partial"))


@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_two_images_of_one_name_do_not_share_a_text(tmp_path: Path, gone: list[int]) -> None:
    (tmp_path / "p").mkdir()
    for suffix, color in (("png", "red"), ("bmp", "blue")):
        Picture.new("RGB", (8, 8), color).save(tmp_path / "p" / f"a.{suffix}")
    add([tmp_path / "p"], tmp_path / "dataset")
    write_layer(tmp_path / "dataset", "hand", given(tmp_path / "dataset"))
    report = export(tmp_path / "dataset", "hand", Sidecar(tmp_path / "dataset"))
    assert (report.rows, report.left_out) == (1, {"same_name": 1})
    text = (tmp_path / "p" / "a.txt").read_text()
    ids = [image.id for image in Catalog.open(tmp_path / "dataset")]
    assert drop(tmp_path / "dataset", [ids[i] for i in gone], "asked").problems == []
    left = [caption.text for caption in read_layer(tmp_path / "dataset", "hand")]
    assert (tmp_path / "p" / "a.txt").exists() == (text in left)


def test_what_is_no_plain_file_is_not_replaced(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no plain file"):
        export(dataset, "hand", Llava(tmp_path / "pipe"))
    assert (tmp_path / "pipe").is_fifo()


def test_images_inside_a_tar_go_into_shards_but_not_into_lists_or_sidecars(
    dataset: Path, tmp_path: Path
) -> None:
    write_layer(dataset, "hand", given(dataset))
    export(dataset, "hand", WebDataset(tmp_path / "wds"))
    again = tmp_path / "again"
    add([tmp_path / "wds" / "shard-000000.tar"], again)
    write_layer(again, "hand", given(again))
    for target in (Llava(tmp_path / "o.json"), Sidecar(again)):
        report = export(again, "hand", target)
        assert (report.rows, report.left_out) == (0, {"inside_archive": 12})
    assert json.loads((tmp_path / "o.json").read_text()) == []
    for form in (HuggingFace, WebDataset):
        assert export(again, "hand", form(tmp_path / f"again-{form.form}")).rows == 12


def test_every_export_can_be_added_again_and_says_the_same(dataset: Path, tmp_path: Path) -> None:
    rows = [replace(c, text=f"Two lines,\n“quoted” <b>{n}</b> 😀.") for n, c in enumerate(given(dataset))]
    write_layer(dataset, "hand", rows)
    said = {row.image_id: row.text for row in rows}
    export(dataset, "hand", Llava(tmp_path / "rows.json", image_root=tmp_path))
    export(dataset, "hand", HuggingFace(tmp_path / "hf"))
    export(dataset, "hand", WebDataset(tmp_path / "wds"))
    export(dataset, "hand", Sidecar(dataset))
    for source in (tmp_path / "hf", tmp_path / "wds", tmp_path / "pictures"):
        again = tmp_path / f"{source.name}.dataset"
        assert add([source], again).added == 12
        assert {image.id: image.alt_text for image in Catalog.open(again)} == said


def test_a_llava_list_with_missing_images_comes_in_and_goes_out_with_a_precise_account(
    dataset: Path, tmp_path: Path, typed: Typed
) -> None:
    rows = given(dataset)
    write_layer(dataset, "hand", rows)
    export(dataset, "hand", Llava(tmp_path / "rows.json", image_root=tmp_path))
    images = [Path(image.path) for image in Catalog.open(dataset)]
    gone = {images[3], images[8]}
    for path in gone:
        path.unlink()
    again = tmp_path / "again"
    code, _, _ = typed("add", tmp_path / "rows.json", "--to", again, "--layer", "came")
    assert code == 0
    failures = [json.loads(line) for line in (again / "failures.jsonl").read_text().splitlines()]
    assert {(f["path"], f["reason"]) for f in failures} == {(str(path), "missing") for path in gone}
    kept = {
        row.image_id: row.text for row in rows if row.image_id not in (rows[3].image_id, rows[8].image_id)
    }
    assert {c.image_id: c.text for c in read_layer(again, "came")} == kept
    assert export(again, "came", Llava(tmp_path / "out.json", image_root=tmp_path)).rows == 10
    whole = {row["id"]: row for row in exported(tmp_path / "rows.json")}
    assert exported(tmp_path / "out.json") == [whole[row] for row in whole if row in kept]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "csv"], "choose one of llava, hf, webdataset, sidecar"),
        (["--format", "hf"], "needs --out"),
        (["--format", "sidecar", "--out", "x"], "--out means nothing"),
        (["--format", "hf", "--out", "x", "--seed", "1"], "--seed means nothing"),
        (["--format", "llava", "--out", "x.json", "--shard-mb", "1"], "--shard-mb means nothing"),
        (["--format", "llava", "--out", "x.json", "--instructions", "none.txt"], "cannot read the instruct"),
    ],
)
def test_settings_that_a_format_lacks_are_wrong_usage(
    dataset: Path, typed: Typed, words: list[str], says: str
) -> None:
    write_layer(dataset, "hand", given(dataset))
    code, out, err = typed("export", dataset, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_instructions_come_from_a_file_one_a_line(dataset: Path, typed: Typed, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    (tmp_path / "ask.txt").write_text("What is this photo about?\n\n")
    words = ["--out", tmp_path / "o.json", "--instructions", tmp_path / "ask.txt"]
    assert typed("export", dataset, *words)[0] == 0
    turns = {row["conversations"][0]["value"] for row in exported(tmp_path / "o.json")}  # type: ignore[index]
    assert turns == {"<image>\nWhat is this photo about?"}
