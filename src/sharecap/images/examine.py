"""What an image is: its digest, size, format and perceptual hash, from one reading of its bytes.

It decodes every byte, so that nothing damaged enters a catalog, and holds one image in memory.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ImageOps
from PIL.Image import Image as Picture
from PIL.Image import Resampling

from sharecap.images.candidate import MAX_ALT_TEXT, Candidate, Failure, Known
from sharecap.images.decode import (
    MAX_PIXELS,
    ImageError,
    as_rgb,
    broken,
    open_header,
    read_bytes,
    read_span,
    refuse_filled_up,
)
from sharecap.records import Image

Knows = Callable[[bytes], bool]
"""Says of a raw sha256 whether the catalog has that image already."""


def examine(candidate: Candidate, knows: Knows, max_pixels: int = MAX_PIXELS) -> Image | Known | Failure:
    """Read once: the digest and, unless that is known, the whole picture."""
    if candidate.problem:
        return Failure.of(candidate, *candidate.problem)
    try:
        data = _bytes_of(candidate)
        digest = hashlib.sha256(data)
        if knows(digest.digest()):
            return Known(digest.hexdigest(), candidate.path, candidate.member, candidate.offset)
        width, height, form, phash = look(data, candidate.place, max_pixels)
    except ImageError as error:
        return Failure.of(candidate, error.reason, error.what)
    alone = not candidate.member and not candidate.alt_text
    return Image(
        id=digest.hexdigest(),
        source=candidate.source,
        path=candidate.path,
        width=width,
        height=height,
        format=form,
        bytes=len(data),
        phash=phash,
        alt_text=sidecar_text(candidate.path) if alone else candidate.alt_text,
        licence=candidate.licence,
        member=candidate.member,
        offset=candidate.offset,
        url=candidate.url,
    )


def _bytes_of(candidate: Candidate) -> bytes:
    if candidate.data is not None:
        return candidate.data
    if candidate.member:
        return read_span(Path(candidate.path), candidate.offset, candidate.size)
    return read_bytes(Path(candidate.path))


def look(data: bytes, where: object, max_pixels: int = MAX_PIXELS) -> tuple[int, int, str, str]:
    """Upright width and height, format, perceptual hash. Decodes every byte, JPEGs at reduced scale."""
    image = open_header(data, where, max_pixels)
    width, height, form = image.width, image.height, image.format or ""
    try:
        orientation = image.getexif().get(0x0112, 1)
        image.draft("L", (128, 128))
        image.load()
        refuse_filled_up(data, image, where)
        upright = image if orientation == 1 else ImageOps.exif_transpose(image)
        # Pillow's own way to grey clips 16 bits, and takes what is transparent for what lies behind it.
        phash = perceptual_hash(upright if upright.mode in ("L", "RGB") else as_rgb(upright))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too_large", "not enough memory to decode", where) from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises on hostile bytes, the file is counted
        raise broken(error, where) from None
    turned = orientation in (5, 6, 7, 8)
    return (height, width, form, phash) if turned else (width, height, form, phash)


_COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
"""The eight lowest rows of a discrete cosine transform over 32 pixels."""


def perceptual_hash(picture: Picture) -> str:
    """64 bits: which of the 8 x 8 lowest frequencies of the grey 32 x 32 picture are above their median.

    The bits are those of `imagehash.phash`, without scipy's start-up and with no noise where frequencies are
    equal: a flat or symmetric picture has one hash.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Resampling.LANCZOS), np.float64)
    low = (_COSINES @ grey @ _COSINES.T).round(6)
    ordered = np.sort(low, axis=None)
    return np.packbits(low > (ordered[31] + ordered[32]) / 2).tobytes().hex()


def sidecar_text(path: str) -> str:
    """The text of the sidecar `x.txt` beside `x.png`; "" where there is none that can be read."""
    try:
        with open(os.path.splitext(path)[0] + ".txt", encoding="utf-8", errors="replace") as f:
            return f.read(MAX_ALT_TEXT).replace("\0", "").strip()
    except (OSError, ValueError):
        return ""
