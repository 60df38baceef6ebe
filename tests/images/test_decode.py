"""Decoding: what is no whole, bounded image gets a name; what is one comes out upright and in RGB."""

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import imagehash  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharecap.images.decode import ImageError, decode_rgb, open_rgb
from sharecap.images.examine import look, perceptual_hash


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth noise, so that every codec has work."""
    levels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, form, **options)
    return buffer.getvalue()


def reason(path: Path, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(ImageError) as caught:
        open_rgb(path, max_pixels)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats_decode_to_rgb(tmp_path: Path, form: str) -> None:
    (tmp_path / "x").write_bytes(encoded(form))
    image = open_rgb(tmp_path / "x")
    assert (image.mode, image.size) == ("RGB", (48, 32))


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert reason(tmp_path / "nothing.jpg") == "missing"


def test_a_zero_byte_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    assert reason(tmp_path / "x.jpg") == "empty"


def test_a_directory_named_like_an_image_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    assert reason(tmp_path / "x.jpg") == "not_a_file"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    assert reason(tmp_path / "x.jpg") == "not_a_file"


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG"))
    path.chmod(0)
    if os.geteuid() != 0:
        assert reason(path) == "unreadable"
        return
    os.seteuid(65534)  # root may read everything, so be nobody for a moment
    try:
        assert reason(path) == "unreadable"
    finally:
        os.seteuid(0)


def test_words_are_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("<html>404 Not Found</html>")
    assert reason(tmp_path / "x.jpg") == "not_an_image"


def test_postscript_is_never_interpreted(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded("EPS"))
    assert reason(tmp_path / "x.jpg") == "not_an_image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_file_cut_in_half_is_no_image(tmp_path: Path, form: str) -> None:
    data = encoded(form, picture(400, 300))
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    assert reason(tmp_path / "x") in ("truncated", "damaged")
    with pytest.raises(ImageError):
        look(data[: len(data) // 2], "x")


def test_a_truncated_jpeg_is_called_truncated(tmp_path: Path) -> None:
    data = encoded("JPEG", picture(400, 300))
    (tmp_path / "x.jpg").write_bytes(data[: len(data) * 2 // 3])
    assert reason(tmp_path / "x.jpg") == "truncated"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "x.png").write_bytes(bomb(side))
    assert reason(tmp_path / "x.png") == "too_large"


def test_the_pixel_bound_is_inclusive(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded("PNG", picture(40, 30)))
    assert open_rgb(tmp_path / "x.png", max_pixels=1200).size == (40, 30)
    assert reason(tmp_path / "x.png", max_pixels=1199) == "too_large"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_out_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.png").write_bytes(encoded("PNG", picture(40, 30), exif=exif.tobytes()))
    turned = orientation >= 5
    image = open_rgb(tmp_path / "x.png")
    assert image.size == ((30, 40) if turned else (40, 30))
    assert look((tmp_path / "x.png").read_bytes(), "x")[:2] == image.size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image = clear.convert("LA") if mode == "LA" else clear
    data = encoded("GIF", clear) if mode == "P" else encoded("PNG", image)
    (tmp_path / "x").write_bytes(data)
    assert open_rgb(tmp_path / "x").getpixel((4, 4)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "x.png")
    assert open_rgb(tmp_path / "x.png").getpixel((0, 0)) == (127, 127, 127)


SAMPLES = [encoded(form, picture(64, 48)) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SAMPLES) - 1), st.integers(0, 2**32))
def test_hostile_bytes_raise_nothing_but_image_errors(which: int, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(SAMPLES[which])
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    hostile = bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.3 else data)
    for decode in (lambda: decode_rgb(hostile, "x", 1_000_000), lambda: look(hostile, "x", 1_000_000)):
        with contextlib.suppress(ImageError):
            decode()


@pytest.mark.parametrize("seed", range(40))
def test_the_perceptual_hash_is_imagehashs(seed: int) -> None:
    image = picture(100 + 7 * seed, 90, seed)
    for mode in ("RGB", "L"):
        assert perceptual_hash(image.convert(mode)) == str(imagehash.phash(image.convert(mode)))


def test_pictures_in_which_frequencies_are_equal_have_one_hash() -> None:
    for size in ((64, 64), (301, 77)):
        hashes = {perceptual_hash(Image.new("L", size, level)) for level in (1, 77, 200, 255)}
        assert hashes == {"8000000000000000"}


def test_sixteen_bits_and_transparency_have_the_hash_of_what_is_seen() -> None:
    grey = picture(64, 64).convert("L")
    levels = np.asarray(grey).astype(np.uint16) * 257
    assert look(encoded("PNG", Image.fromarray(levels)), "x")[3] == perceptual_hash(grey)
    seen = Image.new("RGB", (64, 64), "white")
    seen.paste(picture(64, 32), (0, 0))
    hidden = picture(64, 64).convert("RGBA")
    hidden.paste(seen, (0, 0))
    hidden.putalpha(Image.fromarray(np.repeat(np.uint8([255, 0]), 32)[:, None].repeat(64, 1)))
    assert look(encoded("PNG", hidden), "x")[3] == perceptual_hash(seen)
