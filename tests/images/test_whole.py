"""Whole pictures are never taken for cut ones, however little there is in them."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharecap.images.whole import lacking

SIDES = st.integers(1, 70)
COLOURS = st.sampled_from(["black", "white", "#808080", "#010203"])


def refused(data: bytes) -> str:
    image = Image.open(io.BytesIO(data))
    image.load()
    return lacking(data, image)


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


JPEG = st.fixed_dictionaries(
    {
        "optimize": st.booleans(),
        "progressive": st.booleans(),
        "quality": st.integers(1, 100),
        "subsampling": st.sampled_from([0, 1, 2]),
    },
    optional={"restart_marker_blocks": st.integers(1, 3)},
)


@given(SIDES, SIDES, COLOURS, st.sampled_from(["RGB", "L", "CMYK"]), JPEG)
def test_no_whole_jpeg_is_refused(
    width: int, height: int, colour: str, mode: str, options: dict[str, object]
) -> None:
    picture = Image.new("RGB", (width, height), colour).convert(mode)
    assert refused(saved(picture, "JPEG", **options)) == ""


@given(SIDES, SIDES, COLOURS, st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
def test_no_whole_png_is_refused(width: int, height: int, colour: str, mode: str) -> None:
    picture = Image.new("RGB", (width, height), colour)
    picture = Image.new(mode, picture.size) if mode == "I;16" else picture.convert(mode)
    assert refused(saved(picture, "PNG")) == ""


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_a_large_picture_of_one_colour_takes_as_little_as_can_be_and_is_whole(
    options: dict[str, bool],
) -> None:
    assert refused(saved(Image.new("RGB", (4_000, 3_000), "grey"), "JPEG", **options)) == ""


@given(st.binary(max_size=40), st.integers(0, 3))
def test_a_scan_that_ends_before_its_blocks_could_is_refused_whatever_fills_it(
    scan: bytes, fillers: int
) -> None:
    whole = saved(Image.new("RGB", (256, 256), "grey"), "JPEG")
    start = whole.index(b"\xff\xda")
    start += 2 + int.from_bytes(whole[start + 2 : start + 4])
    few = scan.replace(b"\xff", b"\xff\x00").replace(b"\xff\x00\x00", b"\xff\xd0\x00")
    image = Image.open(io.BytesIO(whole))
    image.load()
    said = lacking(whole[:start] + few + fillers * b"\xff" + b"\xff\xd9" + bytes(9_000), image)
    assert said.startswith(f"{8 * len(few):,} bits for blocks")
    assert lacking(whole[:start] + few, image) == said  # and so is one without an end
