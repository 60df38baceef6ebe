"""Thumbnails, made when they are asked for and kept in one bounded file of the dataset's cache.

The picture goes through the safe decoder, and its bytes must still be those of its id. What can't be shown is
an `ImageError` with its reason; a picture that promises too many pixels is never decoded.
"""

import contextlib
import io
import sqlite3
import threading
import time
from pathlib import Path

from PIL import Image as Picture
from PIL import ImageOps

from sharecap.images.decode import MAX_PIXELS, ImageError, as_rgb, broken, open_header, refuse_filled_up
from sharecap.images.place import place_of, verified
from sharecap.records import Image
from sharecap.web.index import opened_cache

SIDES = {"small": 320, "large": 1600}
"""Pixels of the longer side. The large one is for a picture on its own page and is not kept."""

KEPT_BYTES = 2 * 2**30
"""What the kept thumbnails may take on disk; the oldest go first."""

_SETUP = """
CREATE TABLE IF NOT EXISTS thumbs (id BLOB PRIMARY KEY, jpeg BLOB NOT NULL, made REAL NOT NULL);
CREATE INDEX IF NOT EXISTS thumbs_made ON thumbs (made);
"""
LARGE_PIXELS, LARGE_BYTES = 20_000_000, 10 * 2**20
_AT_ONCE, _LARGE = threading.Semaphore(2), threading.Lock()
"""Decodes side by side; large ones one after the other, reading and all: one at the bound takes 360 MB."""


def shrunk(image: Image, side: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """A JPEG of at most `side` x `side` pixels; `ImageError` if the image can't be read, or isn't itself."""
    where = place_of(image)
    large = image.width * image.height > LARGE_PIXELS or image.bytes > LARGE_BYTES
    with _LARGE if large else _AT_ONCE:
        data = verified(image)
        picture = open_header(data, where, max_pixels)
        try:
            picture.draft("RGB", (side, side))  # a JPEG is decoded at a half, a quarter or an eighth
            picture.load()
            refuse_filled_up(data, picture, where)
            upright = as_rgb(ImageOps.exif_transpose(picture))
            upright.thumbnail((side, side), Picture.Resampling.BILINEAR)
            buffer = io.BytesIO()
            upright.save(buffer, "JPEG", quality=82)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError("too_large", "not enough memory to decode", where) from None
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises on hostile bytes has a name
            raise broken(error, where) from None
    return buffer.getvalue()


class Thumbs:
    """The kept thumbnails of one dataset, for all threads of the server."""

    def __init__(self, path: Path, kept_bytes: int = KEPT_BYTES) -> None:
        self._path, self._kept_bytes = path, kept_bytes
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._db = opened_cache(self._path, _SETUP)
        (self._bytes,) = self._db.execute("SELECT coalesce(sum(length(jpeg)), 0) FROM thumbs").fetchone()

    def refresh(self) -> None:
        """Begin a new file where the old one was removed."""
        with self._lock:
            if not self._path.exists():
                self._db.close()
                self._open()

    def kept(self, image_id: str) -> bytes | None:
        """The thumbnail, if it is there."""
        statement = "SELECT jpeg FROM thumbs WHERE id = ?"
        with self._lock, contextlib.suppress(sqlite3.Error):  # it can be made again
            found = self._db.execute(statement, (bytes.fromhex(image_id),)).fetchone()
            return found[0] if found else None
        return None

    def make(self, image: Image) -> bytes:
        """The thumbnail, made and kept; on a full disk, made."""
        jpeg = shrunk(image, SIDES["small"])
        with self._lock, contextlib.suppress(sqlite3.Error):
            row = (bytes.fromhex(image.id), jpeg, time.time())
            added = self._db.execute("INSERT OR IGNORE INTO thumbs VALUES (?, ?, ?)", row).rowcount
            self._bytes += added * len(jpeg)
            while self._bytes > self._kept_bytes:
                gone = self._db.execute(
                    "DELETE FROM thumbs WHERE id IN (SELECT id FROM thumbs ORDER BY made LIMIT 100) "
                    "RETURNING length(jpeg)"
                ).fetchall()
                self._bytes -= sum(size for (size,) in gone)
        return jpeg

    def close(self) -> None:
        """Close the file."""
        self._db.close()
