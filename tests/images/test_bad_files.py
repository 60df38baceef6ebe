"""A folder of bad files: each is a named failure, or comes out right where it should. None is lost."""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image, ImageCms

from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.check import check
from sharecap.images.decode import decode_rgb
from sharecap.images.failures import failures_of
from sharecap.images.place import read_bytes

from .test_decode import bomb, encoded, picture

BIG = picture(300, 200)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, end: bool = True) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows))
    return body + (chunk(b"IEND", b"") if end else b"")


def swapped(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def jpeg_sized(width: int, height: int, progressive: bool = False) -> bytes:
    """A JPEG whose header lies about its size."""
    data = encoded("JPEG", BIG, progressive=progressive)
    start = b"\xff\xc2" if progressive else b"\xff\xc0"
    return swapped(data, data.index(start) + 5, struct.pack(">HH", height, width))


def interlaced(width: int, height: int, missing: int = 0) -> bytes:
    """A black PNG in seven passes, without its last `missing` rows."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = [
        bytes(1 + len(range(left, width, across)))
        for left, top, across, down in passes
        for _ in range(top, height, down)
    ]
    whole = png(width, height, b"".join(rows[: len(rows) - missing]))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    return whole[:8] + head + whole[8 + len(head) :]


JPEG, PNG, GIF, WEBP, TIFF, BMP = (encoded(f, BIG) for f in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"))

BAD: dict[str, tuple[bytes, set[str]]] = {
    "empty.jpg": (b"", {"empty"}),
    "one_byte.jpg": (b"\xff", {"not_an_image"}),
    "only_magic.jpg": (b"\xff\xd8\xff", {"not_an_image", "truncated", "damaged"}),
    "only_magic.png": (b"\x89PNG\r\n\x1a\n", {"not_an_image", "truncated", "damaged"}),
    "only_magic.gif": (b"GIF89a", {"not_an_image", "truncated", "damaged"}),
    "only_magic.webp": (b"RIFF\x10\0\0\0WEBP", {"not_an_image", "truncated", "damaged"}),
    "zeros.jpg": (bytes(10_000), {"not_an_image"}),
    "ones.png": (b"\xff" * 10_000, {"not_an_image"}),
    "words.jpg": (b"404 Not Found", {"not_an_image"}),
    "page.jpg": (b"<!doctype html><html><body>gone</body></html>", {"not_an_image"}),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>', {"not_an_image"}),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {"not_an_image"}),
    "document.png": (b"%PDF-1.7\n1 0 obj\n", {"not_an_image"}),
    "archive.png": (b"PK\x03\x04" + bytes(100), {"not_an_image"}),
    "program.jpg": (b"\x7fELF" + bytes(1000), {"not_an_image"}),
    "half.jpg": (JPEG[: len(JPEG) // 2], {"truncated"}),
    "head.jpg": (JPEG[:300], {"truncated", "damaged", "not_an_image"}),
    "tail.jpg": (JPEG[:-200], {"truncated"}),
    "half.png": (PNG[: len(PNG) // 2], {"truncated", "damaged"}),
    "half.gif": (GIF[: len(GIF) // 2], {"truncated", "damaged"}),
    "half.webp": (WEBP[: len(WEBP) // 2], {"truncated", "damaged", "not_an_image"}),
    "half.tif": (TIFF[: len(TIFF) // 2], {"truncated", "damaged", "not_an_image"}),
    "half.bmp": (BMP[: len(BMP) // 2], {"truncated"}),
    "tail_first.jpg": (JPEG[len(JPEG) // 2 :], {"not_an_image"}),
    "doubled_head.png": (PNG[:60] + PNG, {"damaged", "truncated"}),
    "checksum.png": (swapped(PNG, 20, b"\x55"), {"damaged", "not_an_image"}),
    "no_data.png": (PNG[:33] + chunk(b"IEND", b""), {"truncated", "damaged"}),
    "no_rows.png": (png(100, 100, b""), {"truncated", "damaged"}),
    "bad_filter.png": (png(10, 10, b"\x09" * 110), {"damaged"}),
    "short_rows.png": (png(100, 100, bytes(101 * 50)), {"truncated"}),
    "short_palette.png": (png(100, 100, bytes(14 * 99), depth=1), {"truncated"}),
    "short_interlaced.png": (interlaced(63, 41, missing=1), {"truncated"}),
    "liar_small.jpg": (jpeg_sized(3000, 3000), {"truncated"}),
    "liar_progressive.jpg": (jpeg_sized(3000, 3000, progressive=True), {"truncated"}),
    "no_size.png": (png(0, 0, b""), {"damaged", "not_an_image"}),
    "bad_colour.png": (png(10, 10, bytes(110), colour=5), {"damaged", "not_an_image"}),
    "bomb.png": (bomb(40_000), {"too_large"}),
    "wide.png": (png(2**31 - 1, 1, b""), {"too_large"}),
    "liar.jpg": (jpeg_sized(60_000, 60_000), {"too_large"}),
    "liar.bmp": (swapped(BMP, 18, struct.pack("<ii", 2**30, 2**30)), {"too_large", "damaged"}),
    "negative.bmp": (
        swapped(BMP, 18, struct.pack("<i", -5)),
        {"damaged", "too_large", "not_an_image", "truncated"},
    ),
    "liar.gif": (swapped(GIF, 6, struct.pack("<HH", 65535, 65535)), {"too_large"}),
    "huge.ppm": (b"P6 99999999 99999999 255\n", {"too_large"}),
    "words.ppm": (b"P6 twelve 3 255\n", {"damaged", "not_an_image"}),
    "endless.ppm": (b"P6 " + b"9" * 5000, {"damaged", "not_an_image", "too_large"}),
    "far.tif": (b"II*\0\xff\xff\xff\x7f", {"damaged", "not_an_image", "truncated"}),
    "round.tif": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", {"damaged", "not_an_image", "truncated"}),
    "chunk_size.webp": (swapped(WEBP, 16, b"\xff\xff\xff\x7f"), {"damaged", "truncated", "not_an_image"}),
    "empty.avif": (b"\0\0\0\x1cftypavif" + bytes(16), {"damaged", "not_an_image"}),
    "cut.jp2": (encoded("JPEG2000", BIG)[:400], {"truncated", "damaged"}),
}
"""Name -> bytes and the reasons that fit; Pillow's versions differ in which they notice first."""


def grey16() -> bytes:
    return encoded("PNG", Image.fromarray(np.full((20, 30), 0x8000, np.uint16)))


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue", "green")]
    return encoded(form, frames[0], save_all=True, append_images=frames[1:], duration=50, lossless=True)


def transparent_palette() -> bytes:
    image = Image.new("P", (30, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return encoded("PNG", image, transparency=1)


def close(colour: tuple[int, int, int]) -> Callable[[Image.Image], bool]:
    """Most of the picture has about this colour."""

    def holds(image: Image.Image) -> bool:
        return bool(np.abs(np.median(np.asarray(image, np.int16), (0, 1)) - colour).max() <= 6)

    return holds


def plain(form: str, mode: str, colour: object, **options: object) -> bytes:
    return encoded(form, Image.new(mode, (30, 20), colour), **options)  # type: ignore[arg-type]


RED, GREY, WHITE = close((255, 0, 0)), close((128, 128, 128)), close((255, 255, 255))
RIGHT: dict[str, tuple[bytes, tuple[int, int], Callable[[Image.Image], bool]]] = {
    "cmyk.jpg": (plain("JPEG", "CMYK", (0, 255, 255, 0), quality=95), (30, 20), RED),
    "cmyk.tif": (plain("TIFF", "CMYK", (0, 255, 255, 0)), (30, 20), RED),
    "lab.tif": (plain("TIFF", "LAB", (137, 208, 195)), (30, 20), lambda image: image.mode == "RGB"),
    "grey16.png": (grey16(), (30, 20), GREY),
    "grey16.tif": (encoded("TIFF", Image.fromarray(np.full((20, 30), 0x8000, np.uint16))), (30, 20), GREY),
    "float.tif": (plain("TIFF", "F", 1.0), (30, 20), WHITE),
    "bits.png": (plain("PNG", "1", 1), (30, 20), WHITE),
    "palette.gif": (encoded("GIF", Image.new("RGB", (30, 20), "red").quantize(4)), (30, 20), RED),
    "palette_clear.png": (transparent_palette(), (30, 20), WHITE),
    "clear.png": (plain("PNG", "RGBA", (0, 0, 0, 0)), (30, 20), WHITE),
    "grey_clear.png": (plain("PNG", "LA", (0, 0)), (30, 20), WHITE),
    "clear.webp": (plain("WEBP", "RGBA", (0, 0, 0, 0), lossless=True), (30, 20), WHITE),
    "moving.gif": (animation("GIF"), (30, 20), RED),
    "moving.webp": (animation("WEBP"), (30, 20), RED),
    "moving.png": (animation("PNG"), (30, 20), RED),
    "turned.jpg": (plain("JPEG", "RGB", "red", exif=exif(6)), (20, 30), RED),
    "turned.png": (plain("PNG", "RGB", "red", exif=exif(8)), (20, 30), RED),
    "turned.webp": (plain("WEBP", "RGB", "red", exif=exif(5), lossless=True), (20, 30), RED),
    "mirrored.jpg": (plain("JPEG", "RGB", "red", exif=exif(2)), (30, 20), RED),
    "turned_by_nonsense.jpg": (plain("JPEG", "RGB", "red", exif=exif(77)), (30, 20), RED),
    "bad_exif.jpg": (plain("JPEG", "RGB", "red", exif=b"Exif\0\0" + b"\xff" * 40), (30, 20), RED),
    "progressive.jpg": (plain("JPEG", "RGB", "red", progressive=True), (30, 20), RED),
    "profile.jpg": (
        plain(
            "JPEG",
            "RGB",
            "red",
            icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ),
        (30, 20),
        RED,
    ),
    "bad_profile.jpg": (plain("JPEG", "RGB", "red", icc_profile=b"no profile"), (30, 20), RED),
    "rubbish_behind.jpg": (plain("JPEG", "RGB", "red") + b"rubbish" * 99, (30, 20), RED),
    "really_a_png.jpg": (plain("PNG", "RGB", "red"), (30, 20), RED),
    "black.png": (plain("PNG", "RGB", "black"), (30, 20), close((0, 0, 0))),
    "black_interlaced.png": (interlaced(63, 41), (63, 41), close((0, 0, 0))),
    "one_pixel.png": (encoded("PNG", Image.new("RGB", (1, 1), "red")), (1, 1), RED),
    "thin.png": (encoded("PNG", Image.new("RGB", (5000, 1), "red")), (5000, 1), RED),
}
"""Name -> bytes, upright size and what the picture must look like."""

PADDED = {"middle_cut_out.jpg": JPEG[: len(JPEG) // 2] + b"\xff\xd9"}
"""A proper end, and so much before it that only decoding could tell: it is filled up, and taken."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, (data, _) in BAD.items():
        (folder / name).write_bytes(data)
    for name, data in {**PADDED, **{name: data for name, (data, _, _) in RIGHT.items()}}.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to("not_there.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "secrets.png").symlink_to("/etc/passwd")
    (folder / "folder.png").symlink_to("/etc")
    return folder


PLACES = {
    "pipe.png": {"not_a_file"},
    "nowhere.png": {"missing"},
    "circle.png": {"missing"},
    "secrets.png": {"outside"},
    "folder.png": {"outside"},
}


def test_a_folder_of_bad_files_is_named_one_by_one_and_the_good_ones_come_out_right(
    corpus: Path, tmp_path: Path
) -> None:
    assert len(BAD) + len(PLACES) >= 40
    report = add([corpus], tmp_path / "d")
    expected = PLACES | {name: reasons for name, (_, reasons) in BAD.items()}
    found = {Path(f.path).name: f.reason for f in failures_of(tmp_path / "d")}
    assert found.keys() == expected.keys()
    assert {name: reason for name, reason in found.items() if reason not in expected[name]} == {}
    taken = {Path(image.path).name: image for image in Catalog.open(tmp_path / "d")}
    assert taken.keys() == RIGHT.keys() | PADDED.keys()
    assert report.added == len(taken)
    for name, (_, size, looks) in RIGHT.items():
        image = taken[name]
        decoded = decode_rgb(read_bytes(image), image.path)
        assert (image.width, image.height) == decoded.size == size, image.path
        assert decoded.mode == "RGB"
        assert looks(decoded), image.path
    assert all(f.what and "\n" not in f.what for f in failures_of(tmp_path / "d"))
    assert sum(check(tmp_path / "d").failed.values()) == len(expected)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_bad_images_are_the_same_inside_a_shard_or_a_table(tmp_path: Path, form: str) -> None:
    files = {name: data for name, (data, _) in BAD.items()} | {
        name: data for name, (data, _, _) in RIGHT.items()
    }
    source = tmp_path / f"x.{form}"
    if form == "tar":
        with tarfile.open(source, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        pq.write_table(pa.table({"image": list(files.values())}), source, row_group_size=10)
    report = add([source], tmp_path / "d")
    assert (report.added, sum(report.failed.values())) == (len(RIGHT), len(BAD))
    members = {name if form == "tar" else f"image[{i}]": name for i, name in enumerate(files)}
    for failure in failures_of(tmp_path / "d"):
        name = members[failure.path.partition("::")[2]]
        assert failure.reason in BAD[name][1], name
