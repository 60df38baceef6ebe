"""From an image file to the bytes that an endpoint gets. The rule's name is part of the request key.

Small upright pictures in a format that every endpoint takes go out byte for byte; they are never shrunk.
"""

import asyncio
import base64
import contextlib
import io
import os
import threading
from queue import Empty, SimpleQueue

from PIL import Image as Picture

from sharecap.images.decode import broken, decode_rgb, open_header
from sharecap.images.place import place_of, verified
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


GATHERED = 8
"""Images that a thread hands over in one go, at most."""


class Preparer:
    """Threads that make data URLs, off the event loop: reading and base64 take milliseconds per picture.

    What waits when a thread becomes free goes to it in one go, and comes back in one call into the loop.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Image, asyncio.Future[bytes]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def data_url(self, image: Image) -> bytes:
        """As the function of that name."""
        if not self._threads:
            others = max(1, (os.cpu_count() or 1) - 1)  # the event loop needs a core for itself
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(others)]
            for thread in self._threads:
                thread.start()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.put((image, future))
        return await future

    def close(self) -> None:
        """Let the threads end; what waits is still made."""
        for _ in self._threads:
            self._waiting.put(None)
        self._threads = []

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken = [first]
            for _ in range(min(GATHERED - 1, self._waiting.qsize() // len(self._threads or "."))):
                with contextlib.suppress(Empty):
                    if (another := self._waiting.get_nowait()) is None:
                        self._waiting.put(None)  # the end, after this
                        break
                    taken.append(another)
            _hand_over([(future, _outcome(image)) for image, future in taken])


def _outcome(image: Image) -> bytes | BaseException:
    try:
        return data_url(image)
    except BaseException as error:  # noqa: BLE001 - raised where the picture is awaited
        return error


def _hand_over(made: "list[tuple[asyncio.Future[bytes], bytes | BaseException]]") -> None:
    def tell() -> None:
        for future, outcome in made:
            if future.done():  # nobody waits any more
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the loop was closed
        made[0][0].get_loop().call_soon_threadsafe(tell)


def data_url(image: Image) -> bytes:
    """The image as a data URL; `ImageError` if it can't be read or its bytes are not those of its id.

    Bytes, of ASCII: at their size every copy and every look at each character counts.
    """
    media_type, data = prepare(verified(image), place_of(image))
    return b"".join((b"data:", media_type.encode(), b";base64,", base64.b64encode(data)))


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
