"""Safe decoding of image files: every way in which a file can be no image gets a name.

What the catalog, the teachers and the trainer see of a picture goes through here. It must never hand out
pixels of a damaged file, never decode a picture whose header promises more pixels than allowed, and never
start a decoder that runs other programs (EPS, PDF).
"""

import functools
import importlib
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sharecap.errors import SharecapError
from sharecap.images.whole import lacking

MAX_PIXELS = 120_000_000
"""Default bound on width x height; a decoded picture at the bound takes 360 MB."""

MAX_BYTES = 256 * 1024 * 1024
"""Bound on the size of a file; larger ones are no photographs."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Raster formats that Pillow decodes by itself, in its own spelling."""

_JPEG = b"\xff\xd8\xff"
"""How every JPEG begins, and nothing else."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on hostile bytes; a fuzz test holds this list honest."""


class ImageError(SharecapError):
    """A file that can't be taken as an image. `reason` is one word from a fixed list, for counting:

    missing, unreadable, not_a_file, empty, too_large, not_an_image, truncated, damaged; sources add outside
    (a path or link that leaves its folder) and malformed (a row that isn't understood), the catalog's workers
    timeout and crashed (the decoder hung or died), captioning changed (not the bytes that were catalogued),
    and the reader of words unread (it gave up).
    """

    def __init__(self, reason: str, what: str, where: object, todo: str | None = None) -> None:
        super().__init__(what, where=where, todo=todo)
        self.reason = reason


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The file's bytes; `ImageError` missing, unreadable, not_a_file, empty or too_large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever, a device never end
            raise ImageError("not_a_file", "not a regular file", path)
        if status.st_size > max_bytes:
            raise ImageError("too_large", f"file of {status.st_size:,} bytes, bound {max_bytes:,}", path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing", "no such file", path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError("unreadable", f"cannot read ({_reason(error)})", path) from None
    if not data:
        raise ImageError("empty", "file of zero bytes", path)
    return data


def read_span(path: Path, offset: int, size: int, max_bytes: int = MAX_BYTES) -> bytes:
    """`size` bytes from `offset` on, which is where a tar holds an image; `ImageError` like `read_bytes`."""
    if size > max_bytes:
        raise ImageError("too_large", f"{size:,} bytes, bound {max_bytes:,}", path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageError("missing", "no such file", path) from None
    except OSError as error:
        raise ImageError("unreadable", f"cannot read ({_reason(error)})", path) from None
    if len(data) < size:
        raise ImageError("truncated", f"{path.name} ends before the image does", path)
    if not data:
        raise ImageError("empty", "image of zero bytes", path)
    return data


def open_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture at `path`: mode RGB, upright by its EXIF orientation, transparency on white.

    `ImageError` if the file is no whole, readable image of at most `max_pixels`.
    """
    return decode_rgb(read_bytes(path), path, max_pixels)


def decode_rgb(data: bytes, where: object, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Like `open_rgb`, for bytes already read; `where` names them in errors."""
    image = open_header(data, where, max_pixels)
    try:
        image.load()
        refuse_filled_up(data, image, where)
        return as_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise ImageError("too_large", "not enough memory to decode", where) from None
    except _DECODER_ERRORS as error:
        raise broken(error, where) from None


def refuse_filled_up(data: bytes, image: Image.Image, where: object) -> None:
    """`ImageError` truncated if the decoder made up part of the picture."""
    if what := lacking(data, image):
        raise ImageError("truncated", f"too little in it ({what})", where)


def open_header(data: bytes, where: object, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture with only its header read, so that its size is known before any pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bound below is ours; Pillow warns at another one
            image = Image.open(io.BytesIO(data), formats=_formats(jpeg=data.startswith(_JPEG)))
    except Image.DecompressionBombError:
        raise ImageError("too_large", "header promises too many pixels", where) from None
    except UnidentifiedImageError:
        raise ImageError("not_an_image", "not an image in a known format", where) from None
    except _DECODER_ERRORS as error:
        raise broken(error, where) from None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise ImageError("too_large", f"{size} pixels, bound {max_pixels:,}", where)
    return image


@functools.cache
def _formats(*, jpeg: bool) -> tuple[str, ...]:
    """The formats that this Pillow has (AVIF and WEBP may not be compiled in); for a JPEG, that one alone."""
    if jpeg:  # most pictures are, and need not wait for the others
        importlib.import_module("PIL.JpegImagePlugin")
        return ("JPEG",)
    for name in ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Tiff", "WebP"):
        importlib.import_module(f"PIL.{name}ImagePlugin")  # all the others would cost 0.1 s and serve nothing
    return tuple(name for name in FORMATS if name in Image.OPEN)


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB: 16 bits scaled, not clipped; transparency on white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow clips these at 255 instead of scaling; 16-bit pictures would come out white.
        levels = np.asarray(image).astype(np.float64)
        scale = 65535.0 if image.mode != "F" else max(1.0, float(levels.max(initial=0.0)))
        return Image.fromarray((levels.clip(0, scale) / scale * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        paper = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        paper.alpha_composite(picture)
        return paper.convert("RGB")
    return image.convert("RGB")


def broken(error: BaseException, where: object) -> ImageError:
    """What a decoder raised, as `truncated` or `damaged`."""
    why = _reason(error)
    cut = isinstance(error, EOFError) or "truncated" in why.lower() or "end of file" in why.lower()
    return ImageError("truncated" if cut else "damaged", f"cannot decode ({why})", where)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__)[:200]
