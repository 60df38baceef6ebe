"""From an image file to the bytes that an endpoint gets. The rule's name is part of the request key.

Small upright pictures in a format that every endpoint takes go out byte for byte; they are never shrunk.
"""

import base64
import hashlib
import io

from PIL import Image as Picture

from sharecap.images.decode import ImageError, broken, decode_rgb, open_header
from sharecap.images.place import place_of, read_bytes
from sharecap.records import Image

MAX_BYTES = 10_000_000
"""Larger files are encoded anew; endpoints bound the request's size."""

MAX_SIDE = 2048
"""Pixels of the longer side of a picture that is encoded anew; what endpoints shrink it to themselves."""

RULE = f"1:original if upright JPEG/PNG/WebP/GIF of <={MAX_BYTES} bytes, else JPEG 95 of <={MAX_SIDE} px"

_SENT_AS = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


def data_url(image: Image) -> bytes:
    """The image as a data URL; `ImageError` if it can't be read or its bytes are not those of its id.

    Bytes, of ASCII: at their size every copy and every look at each character counts.
    """
    media_type, data = prepare(verified(image), place_of(image))
    return b"".join((b"data:", media_type.encode(), b";base64,", base64.b64encode(data)))


def verified(image: Image) -> bytes:
    """The image's bytes, if they are those that were catalogued under its id."""
    data = read_bytes(image)
    if hashlib.sha256(data).hexdigest() != image.id:
        todo = "put the old file back, or add it again"
        raise ImageError("changed", "not the bytes that were catalogued", place_of(image), todo)
    return data


def prepare(data: bytes, where: object) -> tuple[str, bytes]:
    """(media type, bytes) to send, by `RULE`."""
    image = open_header(data, where)
    media_type = _SENT_AS.get(image.format or "")
    try:
        upright = image.getexif().get(0x0112, 1) in (0, 1)
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise broken(error, where) from None
    if media_type and upright and len(data) <= MAX_BYTES:
        return media_type, data
    picture = decode_rgb(data, where)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Picture.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return "image/jpeg", buffer.getvalue()
