"""Captions that come in any order are put into the catalog's, on disk: memory grows with neither of them.

They lie in a temporary database of SQLite's own, which is gone with the process, whatever ends it.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sharecap import artifact
from sharecap.captions.storable import storable
from sharecap.errors import SharecapError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption, Image, Usage

# Indexes are made when the rows are there: sorted once, instead of every row finding its place.
_SETUP = """
PRAGMA temp_store = FILE;
PRAGMA journal_mode = OFF;
CREATE TABLE images (at INTEGER PRIMARY KEY, id TEXT NOT NULL, path TEXT);
CREATE TABLE captions (at INTEGER PRIMARY KEY, digest TEXT NOT NULL, caption TEXT NOT NULL);
"""
_INDEXES = "CREATE INDEX by_id ON images (id); CREATE INDEX by_path ON images (path)"


class InOrder:
    """The images of a catalog, by id and by path, and captions of them. Use as a context manager."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def __enter__(self) -> "InOrder":
        self._db = sqlite3.connect("", isolation_level=None)  # an empty name: temporary, and on disk
        with _room():
            self._db.executescript(_SETUP)
            places = ((at, i.id, None if i.member else i.path) for at, i in enumerate(self.catalog))
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO images VALUES (?, ?, ?)", places)
            self._db.execute("COMMIT")
            self._db.executescript(_INDEXES)
            self._db.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def id_at(self, path: str) -> str | None:
        """The id of the image that is the file at `path`."""
        found = self._db.execute("SELECT id FROM images WHERE path = ?", (path,)).fetchone()
        return found[0] if found else None

    def has(self, image_id: str) -> bool:
        """Whether the catalog has the image."""
        return self._at(image_id) is not None

    def put(self, caption: Caption) -> bool:
        """Take the caption in; False if its image has one. `SharecapError` if it can't stand in a layer."""
        if not caption.text.strip():
            raise SharecapError("empty caption", where=caption.image_id)
        if (at := self._at(caption.image_id)) is None:
            what = "caption of an image that the catalog lacks"
            raise SharecapError(what, where=caption.image_id, todo="add its image first")
        row = (at, artifact.key_of("caption", caption, {}), json.dumps(asdict(caption)))
        with _room():
            return self._db.execute("INSERT OR IGNORE INTO captions VALUES (?, ?, ?)", row).rowcount == 1

    def __len__(self) -> int:
        found: int = self._db.execute("SELECT count(*) FROM captions").fetchone()[0]
        return found

    def digest(self) -> str:
        """`artifact.key_of` the sorted digests of all captions, without holding them."""
        total, before = hashlib.sha256(b'["captions", ['), ""
        with _room():
            for (digest,) in self._db.execute("SELECT digest FROM captions ORDER BY digest"):
                total.update(f'{before}"{digest}"'.encode())
                before = ", "
        total.update(b"], {}]")
        return total.hexdigest()

    def text_of(self, image_id: str) -> str | None:
        """The words of the image's caption."""
        statement = "SELECT caption FROM captions JOIN images USING (at) WHERE id = ?"
        found = self._db.execute(statement, (image_id,)).fetchone()
        return _caption(found[0]).text if found else None

    def __iter__(self) -> Iterator[tuple[Image, Caption | None]]:
        """Every image of the catalog, with its caption."""
        rows = self._db.execute("SELECT at, caption FROM captions ORDER BY at")
        head = next(rows, None)
        for at, image in enumerate(self.catalog):
            if head is not None and head[0] == at:
                yield image, _caption(head[1])
                head = next(rows, None)
            else:
                yield image, None

    def _at(self, image_id: str) -> int | None:
        found = self._db.execute("SELECT at FROM images WHERE id = ?", (storable(image_id),)).fetchone()
        return found[0] if found else None


def _caption(text: str) -> Caption:
    fields = json.loads(text)
    return Caption(**{**fields, "usage": Usage(**fields["usage"]), "flags": tuple(fields["flags"])})


@contextmanager
def _room() -> Iterator[None]:
    """A full disk as one line."""
    try:
        yield
    except sqlite3.Error as error:
        todo = "free some space there, or name another directory in the environment variable TMPDIR"
        what = f"cannot sort the captions ({error})"
        raise SharecapError(what, where="the directory for temporary files", todo=todo) from None
