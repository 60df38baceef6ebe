"""What the formats share: the bytes of a row's image, text fit for plain files, files that know their digest.

A row whose image is not the one that was catalogued is left out under a name; it is never written.
"""

import contextlib
import hashlib
import io
import os
import re
from pathlib import Path
from typing import Protocol

from sharecap.captions.exports.register import File
from sharecap.images.decode import ImageError
from sharecap.images.place import place_of, presence, read_bytes
from sharecap.records import Caption, Image

EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "AVIF": "avif",
    "JPEG2000": "jp2",
}
"""What an image's file is called by its format; other names are lower-case format names."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LeftOut(Exception):  # noqa: N818  (an outcome, not a fault)
    """An image with a caption that gets no row. `reason` is one word, for counting."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason, self.what = reason, what


class Writer(Protocol):
    """One export being written. What it makes is in place when `finish` returns, and not before."""

    def put(self, image: Image, caption: Caption) -> None:
        """Write one row; `LeftOut` if it can't be one."""

    def finish(self) -> list[File]:
        """Put the whole in its place; the finished files."""

    def abandon(self) -> None:
        """Remove what was begun."""


def bytes_of(image: Image) -> bytes:
    """The image's bytes, which are those of its id; `LeftOut` otherwise."""
    try:
        data = read_bytes(image)
    except ImageError as error:
        raise LeftOut(error.reason, error.what) from None
    if hashlib.sha256(data).hexdigest() != image.id:
        raise LeftOut("changed", "not the bytes that were catalogued")
    return data


def own_file(image: Image) -> Path:
    """Where the image lies as a file of its own; `LeftOut` if it does not."""
    if image.member:
        raise LeftOut("inside_archive", f"the image lies inside {place_of(image)}")
    found = presence(image)
    if found != "there":
        raise LeftOut(found, "no such file" if found == "missing" else "the file has another size")
    return Path(image.path)


def extension(image: Image) -> str:
    """The ending of the image's name in an export, without its dot."""
    return EXTENSIONS.get(image.format, re.sub(r"[^a-z0-9]", "", image.format.lower()) or "img")


TEXTS = ("caption", "image_id", "source", "captioner", "prompt_id", "original_alt_text", "licence", "url")
"""Names of a row's texts, in the forms that have names."""


def texts_of(image: Image, caption: Caption) -> dict[str, str]:
    """What a row says besides its pixels, under the names that every form with names gives it (`TEXTS`)."""
    values = (caption.text, image.id, image.source, caption.captioner, caption.prompt_id)
    return dict(zip(TEXTS, (*values, image.alt_text, image.licence, image.url), strict=True))


def plain_text(text: str) -> str:
    """`text` for a plain text file: terminals and parsers get no control characters but tab and newline."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


class Sink(io.RawIOBase):
    """A new file that digests what is written to it, and is on disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._sha256 = path, 0, hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._file.write(view)
        self._sha256.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        if not self.closed:
            super().close()
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def abandon(self) -> None:
        """Close it, though what is still to be written finds no room: a full disk is no reason to stay."""
        with contextlib.suppress(OSError):
            self.close()

    def file(self, name: str, rows: int) -> File:
        """What the register says of the closed file."""
        assert self.closed
        return File(name, self.size, self._sha256.hexdigest(), rows)
