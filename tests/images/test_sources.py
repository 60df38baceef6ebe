"""Shards, tables and lists: images stay where they lie, words come along, whatever is wrong has a name."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import AddReport, add, added_lines
from sharecap.images.candidate import Options
from sharecap.images.catalog import Catalog
from sharecap.images.check import check, checked_lines
from sharecap.images.failures import failures_of
from sharecap.images.place import place_of, read_bytes
from sharecap.records import Image

from .test_decode import encoded, picture


def png(seed: int) -> bytes:
    return encoded("PNG", picture(40, 30, seed))


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def write_tar(
    path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def taken(dataset: Path) -> list[Image]:
    images = list(Catalog.open(dataset))
    assert [check(dataset).missing, check(dataset).changed] == [[], []]
    for image in images:
        assert len(read_bytes(image)) == image.bytes
    return images


def failures(dataset: Path) -> dict[str, str]:
    return {failure.path: failure.reason for failure in failures_of(dataset)}


def test_a_shards_images_stay_in_it_with_their_words(tmp_path: Path) -> None:
    about = json.dumps({"caption": "no", "url": "https://x/y.png", "license": "CC0", "kind": "art"})
    shard = write_tar(
        tmp_path / "laion" / "00000.tar",
        [
            member("000.json", about.encode()),
            member("000.txt", b" a red boat\n"),
            member("000.png", png(0)),
            member("sub", type=tarfile.DIRTYPE),
            member("sub/001.seg.png", png(1)),
            member("sub/001.json", b'{"TEXT": "a house", "bad": NaN}'),
            member("002.png", png(2)),
            member("002.json", b"[" * 100_000),
            member("notes.cls", b"7"),
        ],
    )
    report = add([shard], tmp_path / "d")
    assert (report.added, report.ignored, report.failed) == (3, 1, {})
    one, two, three = taken(tmp_path / "d")
    assert (one.alt_text, one.url, one.licence, one.source) == (
        "a red boat",
        "https://x/y.png",
        "CC0",
        "laion",
    )
    assert (two.member, two.alt_text, three.alt_text) == ("sub/001.seg.png", "a house", "")
    assert read_bytes(two) == png(1)
    assert sorted(p.name for p in shard.parent.iterdir()) == ["00000.tar"]
    add([shard], tmp_path / "e", Options(source_column="kind", alt_text_column="caption"))
    assert [image.source for image in taken(tmp_path / "e")] == ["art", "laion", "laion"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_any_tar_format(tmp_path: Path, form: int) -> None:
    long = "/".join(["d" * 50] * 2 + ["long" * 20 + ".png"])
    names = [long, "schön.png"]
    shard = write_tar(tmp_path / "x.tar", [member(name, png(i)) for i, name in enumerate(names)], form)
    add([shard], tmp_path / "d")
    assert [image.member for image in taken(tmp_path / "d")] == names


def test_what_leads_out_of_a_shard_is_refused_by_name(tmp_path: Path) -> None:
    wrong = {
        "../up.png": ("outside", {}),
        "a/../../up.png": ("outside", {}),
        "/etc/absolute.png": ("outside", {}),
        "..\\up.png": ("outside", {}),
        "link.png": ("not_a_file", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        "hard.png": ("not_a_file", {"type": tarfile.LNKTYPE, "linkname": "good.png"}),
        "device": ("not_a_file", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        "pipe.png": ("not_a_file", {"type": tarfile.FIFOTYPE}),
        "empty.png": ("empty", {}),
    }
    members = [
        member(name, b"" if fields or name == "empty.png" else png(1), **fields)
        for name, (_, fields) in wrong.items()
    ]
    shard = write_tar(tmp_path / "x.tar", [member("good.png", png(0)), *members])
    report = add([shard], tmp_path / "d")
    assert report.added == 1
    assert failures(tmp_path / "d") == {f"{shard}::{name}": reason for name, (reason, _) in wrong.items()}


def raw_pax(size: str) -> bytes:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": size}
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(10_240)


def test_a_damaged_shard_keeps_what_was_before_the_damage(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", [member(f"{i}.png", png(i)) for i in range(4)]).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        third = tar.getmembers()[2].offset
    hostile = {
        "cut": (whole[:5000], {"truncated"}),
        "head": (whole[:third] + b"\xff" * 512 + whole[third + 512 :], {"unreadable"}),
        "negative": (raw_pax("-2048"), {"unreadable"}),
        "endless": (raw_pax("99999999999999"), {"unreadable"}),
        "words": (b"no tar at all" * 100, {"unreadable"}),
        "packed": (gzip.compress(whole), {"unreadable"}),
        "nothing": (b"", {"unreadable"}),
    }
    for name, (data, reasons) in hostile.items():
        shard = tmp_path / name / "x.tar"
        shard.parent.mkdir()
        shard.write_bytes(data)
        report = add([shard], tmp_path / f"{name}_d")
        assert set(report.failed) & reasons, (name, report)
        assert (report.added > 0) == (name in ("cut", "head")), (name, report)
        assert all(read_bytes(image) for image in Catalog.open(tmp_path / f"{name}_d"))


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(UsageError, match="decompress it first"):
        add([tmp_path / "x.tar.gz"], tmp_path / "d")


def test_a_repacked_shard_is_changed_until_it_is_added_again(tmp_path: Path) -> None:
    images = [member(f"{i}.png", png(i)) for i in range(3)]
    shard = write_tar(tmp_path / "x.tar", images)
    add([shard], tmp_path / "d")
    write_tar(shard, [member("000.txt", b"x" * 700), *images])
    assert check(tmp_path / "d").changed
    assert add([shard], tmp_path / "d").added == 0
    assert [read_bytes(image) for image in taken(tmp_path / "d")] == [png(0), png(1), png(2)]


def features(name: str = "image") -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {name: {"_type": "Image"}}}})}


def image_structs(datas: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Array:
    return pa.array(
        [{"bytes": d, "path": p} for d, p in zip(datas, paths, strict=True)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


def test_a_table_of_bytes_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "cc3m").mkdir()
    columns = {
        "jpg": [png(0), png(1), None, b"words"],
        "caption": ["a boat", None, "gone", "bad"],
        "URL": ["https://x/0", "", "", ""],
        "set": ["coco", "sam", "", None],
        "license": ["CC0", None, "", ""],
    }
    pq.write_table(pa.table(columns), tmp_path / "cc3m" / "0.parquet")
    report = add([tmp_path / "cc3m"], tmp_path / "d", Options(source_column="set"))
    assert report.failed == {"empty": 1, "not_an_image": 1}
    one, two = taken(tmp_path / "d")
    assert (one.alt_text, one.url, one.source, one.licence) == ("a boat", "https://x/0", "coco", "CC0")
    assert (two.alt_text, two.source, two.member) == ("", "sam", "jpg[1]")
    assert set(failures(tmp_path / "d")) == {f"{tmp_path}/cc3m/0.parquet::jpg[{i}]" for i in (2, 3)}


def test_structs_of_bytes_or_paths_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "data" / "in.png").write_bytes(png(2))
    (tmp_path / "secret.png").write_bytes(png(3))
    (tmp_path / "hub" / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["a.png", "in.png", "../../secret.png", str(tmp_path / "secret.png"), "link.png", "no.png", None]
    column = image_structs([png(0), *[None] * 6], paths)
    table = pa.table({"pic": column}).replace_schema_metadata(features("pic"))
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000.parquet")
    report = add([tmp_path / "hub"], tmp_path / "d")
    assert report.failed == {"outside": 4, "missing": 1, "empty": 1}  # the link is met in the folder too
    places = [place_of(image).removeprefix(f"{tmp_path}/hub/data/") for image in taken(tmp_path / "d")]
    assert sorted(places) == ["in.png", "train-00000.parquet::pic[0]"]


def test_a_column_of_paths_below_the_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "0.png").write_bytes(png(0))
    pq.write_table(pa.table({"file_name": ["a/0.png", "a/1.png"], "n": [1, 2]}), tmp_path / "x.parquet")
    report = add([tmp_path / "x.parquet"], tmp_path / "d", Options(images=tmp_path / "photos"))
    assert (report.added, report.failed, report.absent[0].example) == (1, {"missing": 1}, "a/1.png")


def test_a_table_without_images_is_an_error_by_name_and_ignored_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "t" / "x.parquet")
    assert add([tmp_path / "t"], tmp_path / "d").ignored == 1
    with pytest.raises(UsageError, match="--image-column"):
        add([tmp_path / "t" / "x.parquet"], tmp_path / "d")
    for option in (Options(image_column="n"), Options(image_column="no")):
        with pytest.raises(UsageError, match="holds no images"):
            add([tmp_path / "t" / "x.parquet"], tmp_path / "d", option)


def test_a_data_set_that_hugging_face_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    column = image_structs([png(i) for i in range(40)], [None] * 40)
    table = pa.table({"image": column, "text": [f"n {i}" for i in range(40)]}).replace_schema_metadata(
        features()
    )
    for name in ("data-00000-of-00001.arrow", "cache-123.arrow"):
        with pa.OSFile(str(saved / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    (saved / "dataset_info.json").write_text("{}")
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    report = add([tmp_path / "saved"], tmp_path / "d")
    assert (report.added, report.known, report.failed) == (40, 0, {})
    images = taken(tmp_path / "d")
    assert [image.alt_text for image in images] == [f"n {i}" for i in range(40)]
    assert [read_bytes(image) for image in images] == [png(i) for i in range(40)]
    assert {image.source for image in images} == {"saved"}


def test_a_damaged_table_is_one_failure(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(i) for i in range(9)]}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    for name, data in {
        "cut.parquet": whole[:-100],
        "page.parquet": whole[:4] + b"\xff" * 60 + whole[64:],
        "words.parquet": b"no table",
        "words.arrow": b"no table" * 100,
        "length.arrow": struct.pack("<II", 0xFFFFFFFF, 0x7FFFFFFF) * 4,
    }.items():
        (tmp_path / name).write_bytes(data)
        report = add([tmp_path / name], tmp_path / f"{name}_d")
        assert (report.added, sum(report.failed.values())) == (0, 1), name


def llava(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def said(image: str | None, *turns: str) -> dict[str, Any]:
    who = ("human", "gpt")
    row: dict[str, Any] = {
        "id": "x",
        "conversations": [{"from": who[i % 2], "value": t} for i, t in enumerate(turns)],
    }
    return row if image is None else row | {"image": image}


def test_a_list_whose_images_are_partly_absent_says_which_and_where_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "data" / "coco").mkdir(parents=True)
    (tmp_path / "data" / "coco" / "1.png").write_bytes(png(1))
    names = ["coco/1.png", "coco/1.png", "sam/images/sa_1.jpg", "sam/images/sa_2.jpg", "wikiart/images/x.jpg"]
    rows = [*(said(name, "<image>\nWhat?", "A boat.") for name in names), said(None, "Hi", "Hello")]
    wrong = [said("../up.png", "a", "b"), said("/etc/passwd", "a", "b"), {"image": 7}, "words"]
    report = add(
        [llava(tmp_path / "x.json", [*rows, *wrong])], tmp_path / "d", Options(images=tmp_path / "data")
    )
    assert (report.added, report.ignored) == (1, 1)
    assert report.failed == {"malformed": 2, "missing": 3, "outside": 2}
    assert [(a.folder, a.images, a.example) for a in report.absent] == [
        ("sam", 2, "sam/images/sa_1.jpg"),
        ("wikiart", 1, "wikiart/images/x.jpg"),
    ]
    named = [f.name for f in failures_of(tmp_path / "d") if f.reason == "missing"]
    assert named == names[2:]
    text = "\n".join(added_lines(report))
    assert "SA-1B" in text
    assert "sa_1.jpg" in text
    told = text.splitlines()[text.splitlines().index("ignored 1 files or rows that are no images") + 1 :]
    assert told == checked_lines(check(tmp_path / "d"))[-len(told) :]
    assert [image.source for image in taken(tmp_path / "d")] == ["coco"]


def test_a_list_in_lines_and_with_fields(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    row = said("0.png", "a", "b") | {"set": "art", "license": "CC0", "url": "https://x/0.png", "title": "Sea"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps(row))
    add([tmp_path / "x.jsonl"], tmp_path / "d", Options(source_column="set"))
    (image,) = taken(tmp_path / "d")
    assert (image.source, image.licence, image.url, image.alt_text) == (
        "art",
        "CC0",
        "https://x/0.png",
        "Sea",
    )


@pytest.mark.parametrize(
    "text", ["", "[", "[1,]", '[{"image": "0.png"}', "{}", "[] []", '{"a": 1}', "\xff\xfe", "[" * 99999, "7"]
)
def test_a_list_that_is_no_list_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(SharecapError) as caught:
        add([tmp_path / "x.json"], tmp_path / "d")
    assert str(tmp_path / "x.json") in str(caught.value)


def test_coco_annotations_are_alt_texts_with_licences(tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "1.png").write_bytes(png(1))
    found = {
        "info": {"year": 2017},
        "annotations": [
            {"image_id": 1, "caption": " A boat."},
            {"image_id": 1, "caption": "A red boat. "},
            {"image_id": 1, "segmentation": []},
        ],
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://x"}],
        "images": [
            {"id": 1, "file_name": "1.png", "license": 4, "coco_url": "http://x/1.png"},
            {"id": 2, "file_name": "2.png", "license": 9},
            {"id": 3},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(found))
    report = add([tmp_path / "captions.json"], tmp_path / "d", Options("coco", images=tmp_path / "train2017"))
    assert report.failed == {"malformed": 1, "missing": 1}
    (image,) = taken(tmp_path / "d")
    assert (image.alt_text, image.licence) == ("A boat.\nA red boat.", "Attribution License")
    assert (image.url, image.source) == ("http://x/1.png", "coco")


def test_check_counts_what_has_no_licence(tmp_path: Path) -> None:
    columns = {"image": [png(0), png(1)], "licence": ["CC0", ""]}
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "t" / "x.parquet")
    add([tmp_path / "t"], tmp_path / "d")
    assert check(tmp_path / "d").unlicensed == {"t": 1}
    assert "licence unknown: 1 of t" in checked_lines(check(tmp_path / "d"))


@pytest.mark.parametrize("options", [Options(" "), Options("a", "b"), Options(images=Path("/no/where"))])
def test_options_that_make_no_sense_make_no_dataset(tmp_path: Path, options: Options) -> None:
    with pytest.raises(UsageError):
        add([tmp_path], tmp_path / "d", options)
    assert not (tmp_path / "d").exists()


def test_one_dataset_takes_all_kinds_of_sources(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a" / "x.tar", [member("0.png", png(0)), member("1.png", png(1))])
    pq.write_table(pa.table({"image": [png(1), png(2)]}), tmp_path / "a" / "x.parquet")
    (tmp_path / "a" / "3.png").write_bytes(png(3))
    expected = AddReport(str(tmp_path / "d"), 4, 1, 0, {}, 4)
    assert add([tmp_path / "a"], tmp_path / "d") == expected
    assert add([shard, tmp_path / "a"], tmp_path / "d").images == 4
    assert [Path(i.path).name for i in taken(tmp_path / "d")] == ["3.png", "x.parquet", "x.parquet", "x.tar"]
