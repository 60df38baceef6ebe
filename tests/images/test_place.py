"""Where bytes lie: a file, a tar member at its offset, a row of a Parquet column; old catalogs still open."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.decode import ImageError
from sharecap.images.place import loose_file, place_of, presence, read_bytes
from sharecap.records import Image

from .test_decode import encoded, picture


def test_a_file_of_its_own_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    image = replace(loose_file(tmp_path / "x.png", "?"), bytes=len(encoded("PNG")))
    assert (read_bytes(image), presence(image)) == (encoded("PNG"), "there")
    assert place_of(image) == str(tmp_path / "x.png")


def in_tar(path: Path, datas: Sequence[bytes]) -> list[Image]:
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(datas):
            info = tarfile.TarInfo(f"{i}[0].png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        found = [(info.name, info.offset_data, info.size) for info in tar]
    return [
        replace(loose_file(path, "?"), member=name, offset=offset, bytes=size) for name, offset, size in found
    ]


def test_a_tar_member_is_read_at_its_offset(tmp_path: Path) -> None:
    datas = [encoded("PNG", picture(seed=i)) for i in range(5)]
    images = in_tar(tmp_path / "x.tar", datas)
    assert [read_bytes(image) for image in images] == datas
    assert {presence(image) for image in images} == {"there"}
    assert place_of(images[1]) == f"{tmp_path / 'x.tar'}::1[0].png"


def test_a_tar_that_is_cut_or_gone_is_a_named_failure(tmp_path: Path) -> None:
    images = in_tar(tmp_path / "x.tar", [encoded("PNG"), encoded("PNG")])
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[: images[1].offset + 7])
    assert (presence(images[0]), presence(images[1])) == ("there", "changed")
    for gone, reason in ((False, "truncated"), (True, "missing")):
        if gone:
            (tmp_path / "x.tar").unlink()
        with pytest.raises(ImageError) as caught:
            read_bytes(images[1])
        assert caught.value.reason == reason


def in_table(path: Path, column: pa.Array, row_group_size: int = 70) -> list[Image]:
    pq.write_table(
        pa.table({"n": list(range(len(column))), "image": column}), path, row_group_size=row_group_size
    )
    return [replace(loose_file(path, "?"), member=f"image[{i}]") for i in range(len(column))]


@pytest.mark.parametrize("form", ["binary", "struct"])
def test_a_tables_row_is_read_in_any_order(tmp_path: Path, form: str) -> None:
    datas = [f"row {i}".encode() * 100 for i in range(300)]
    column = pa.array(datas)
    if form == "struct":
        column = pa.StructArray.from_arrays([column, pa.array([None] * 300, pa.string())], ["bytes", "path"])
    images = in_table(tmp_path / "x.parquet", column)
    for i in [*range(300), *range(299, -1, -7), 69, 70, 71, 0]:
        assert read_bytes(images[i]) == datas[i]
    assert presence(images[299]) == "there"


def test_a_row_that_is_not_there_is_a_named_failure(tmp_path: Path) -> None:
    image = in_table(tmp_path / "x.parquet", pa.array([b"a", None]))[0]
    nothing = replace(image, path=str(tmp_path / "no.parquet"))
    for wrong, reason, seen in [
        (replace(image, member="image[2]"), "missing", "changed"),
        (replace(image, member="picture[0]"), "missing", "missing"),
        (replace(image, member="image"), "unreadable", "missing"),
        (replace(image, member="image[1]"), "empty", "there"),
        (nothing, "missing", "missing"),
    ]:
        with pytest.raises(ImageError) as caught:
            read_bytes(wrong)
        assert (caught.value.reason, presence(wrong)) == (reason, seen)


def test_a_catalog_from_before_members_still_opens(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(encoded("PNG"))
    add([tmp_path / "photos"], tmp_path / "d")
    (table,) = (tmp_path / "d").glob("catalog-*.parquet")
    pq.write_table(pq.read_table(table).drop_columns(["member", "offset", "url"]), table)
    (image,) = Catalog.open(tmp_path / "d")
    assert (image.member, image.offset, image.url) == ("", 0, "")
    (tmp_path / "photos" / "y.png").write_bytes(encoded("PNG", picture(seed=1)))
    assert add([tmp_path / "photos"], tmp_path / "d").images == 2
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["images"] == 2
