"""What a person does to captions on the page: sentences edited, captions flagged and dropped, all undoable.

Every step is a row of `DATASET/review.sqlite`, kept beside the layers and never over one; undoing marks the
step as undone and removes nothing. `write` seals them as a layer of edits. It must outlive the cache.
"""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap.artifact import Artifact
from sharecap.captions.edits import Edit, applied
from sharecap.captions.edits import edit as seal_edits
from sharecap.captions.ledger import read_only
from sharecap.captions.page_files import REVIEW
from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.records import Caption

MAX_TEXT = 20_000
"""Characters of one sentence that a person may write."""

_SETUP = """
CREATE TABLE IF NOT EXISTS steps (
    n INTEGER PRIMARY KEY, layer TEXT NOT NULL, image_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('edit', 'flag', 'drop')),
    sentence INTEGER NOT NULL,          -- 1 is the first; 0: the whole caption
    was TEXT NOT NULL,                  -- the sentence as it stands in the layer
    text TEXT NOT NULL,                 -- what takes its place, or the flag
    made REAL NOT NULL, undone REAL     -- seconds since 1970
);
CREATE INDEX IF NOT EXISTS steps_image ON steps (layer, image_id);
"""


@dataclass(frozen=True)
class Marks:
    """What was done to one caption and is not undone."""

    edits: dict[int, Edit] = field(default_factory=dict)  # by sentence, the last one counts
    flags: tuple[str, ...] = ()
    dropped: bool = False
    last: int = 0  # number of the step that was made last

    def __bool__(self) -> bool:
        return bool(self.edits or self.flags or self.dropped)


class Review:
    """The steps of a dataset. One writer at a time, any thread. Where nothing can be written, they are shown.

    What makes a step may say how many the maker had `seen` (`Marks.last`): if somebody else made or undid one
    since, it is a `UsageError` and nothing is changed.
    """

    def __init__(self, dataset: Path) -> None:
        self.dataset, self.path, self._lock = dataset, dataset / REVIEW, threading.Lock()
        self.writable = os.access(self.path if self.path.exists() else dataset, os.W_OK)
        with self._errors():
            if not self.writable:
                self._db = read_only(self.path) or sqlite3.connect(":memory:", check_same_thread=False)
                if not self.path.exists():
                    self._db.executescript(_SETUP)
                return
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SETUP)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SharecapError(f"cannot keep edits ({error})", where=self.path) from None

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._lock, self._errors():
            return self._db.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def edit(self, caption: Caption, sentence: int, was: str, text: str, seen: int | None = None) -> None:
        """Put `text` for a sentence of a layer's caption; "" drops it. `UsageError` if it isn't there."""
        there = sentences(caption.text)
        if not 1 <= sentence <= len(there) or there[sentence - 1] != was.strip():
            todo = "load the page again"
            raise UsageError("that sentence is not in the caption", where=caption.image_id, todo=todo)
        if len(text) > MAX_TEXT:
            raise UsageError(f"more than {MAX_TEXT:,} characters", where=caption.image_id)
        row = (sentence, there[sentence - 1], " ".join(text.split()))
        self._step(caption, "edit", *row, seen=seen)

    def flag(self, caption: Caption, flag: str, seen: int | None = None) -> None:
        """Add a flag, or take it back if it is there."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_:-]{0,39}", flag):
            todo = "use up to 40 letters, digits, '_', ':' and '-'"
            raise UsageError("not a flag", where=repr(flag[:60]), todo=todo)
        self._step(caption, "flag", text=flag, seen=seen)

    def drop(self, caption: Caption, seen: int | None = None) -> None:
        """Leave the caption out, or take it in again."""
        self._step(caption, "drop", seen=seen)

    def undo(self) -> tuple[str, str] | None:
        """Take the last step back; (layer, image id) of it, None if there is none."""
        self._must_be_writable()
        found = self._rows(
            "UPDATE steps SET undone = ? WHERE n = (SELECT max(n) FROM steps WHERE undone IS NULL) "
            "RETURNING layer, image_id",
            time.time(),
        )
        return (found[0][0], found[0][1]) if found else None

    def marks(self, layer: str, image_id: str) -> Marks:
        """What holds for one caption."""
        where = "layer = ? AND image_id = ? AND undone IS NULL"
        rows = self._rows(f"SELECT {_STEP} FROM steps WHERE {where} ORDER BY n", layer, image_id)
        return _marks(rows).get(image_id, Marks())

    def all(self, layer: str) -> dict[str, Marks]:
        """What holds for the captions of a layer, by image id."""
        where = "layer = ? AND undone IS NULL"
        return _marks(self._rows(f"SELECT {_STEP} FROM steps WHERE {where} ORDER BY n", layer))

    def images(self, layer: str) -> list[str]:
        """Images that have a step which is not undone."""
        statement = "SELECT DISTINCT image_id FROM steps WHERE layer = ? AND undone IS NULL"
        return [row[0] for row in self._rows(statement, layer)]

    def write(self, layer: str, to: str) -> Artifact:
        """Seal what holds as layer `to`; `UsageError` if nothing does."""
        marks = {image: m for image, m in self.all(layer).items() if m}
        if not marks:
            raise UsageError("nothing was edited, flagged or dropped", where=layer)
        edits = [e for m in marks.values() if not m.dropped for e in m.edits.values()]
        flags = {image: m.flags for image, m in marks.items() if m.flags and not m.dropped}
        drops = {image for image, m in marks.items() if m.dropped}
        return seal_edits(self.dataset, layer, edits, to, flags=flags, drops=drops)

    def _must_be_writable(self) -> None:
        if not self.writable:
            todo = "copy the dataset to where it can be written"
            raise UsageError("nothing can be edited in a read-only dataset", where=self.dataset, todo=todo)

    def _step(
        self,
        caption: Caption,
        kind: str,
        sentence: int = 0,
        was: str = "",
        text: str = "",
        *,
        seen: int | None,
    ) -> None:
        self._must_be_writable()
        last = "(SELECT coalesce(max(n), 0) FROM steps WHERE layer = ?1 AND image_id = ?2 AND undone IS NULL)"
        made = self._rows(
            "INSERT INTO steps (layer, image_id, kind, sentence, was, text, made) "
            f"SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE ?8 IS NULL OR ?8 = {last} RETURNING n",
            *(caption.layer, caption.image_id, kind, sentence, was, text, time.time(), seen),
        )
        if not made:
            todo = "load the page again to see what is there now"
            raise UsageError("somebody changed this caption meanwhile", where=caption.image_id, todo=todo)


def shown(caption: Caption, marks: Marks) -> str:
    """The caption's words as they are with the edits."""
    return applied(caption.text, marks.edits, caption.image_id) if marks.edits else caption.text


_STEP = "n, image_id, kind, sentence, was, text"


def _marks(rows: list[tuple[int, str, str, int, str, str]]) -> dict[str, Marks]:
    edits: dict[str, dict[int, Edit]] = {}
    flags: dict[str, dict[str, None]] = {}
    dropped: dict[str, bool] = {}
    last: dict[str, int] = {}
    for n, image, kind, sentence, was, text in rows:
        last[image] = n
        if kind == "edit":
            if text == was:  # put back by hand
                edits.setdefault(image, {}).pop(sentence, None)
            else:
                edits.setdefault(image, {})[sentence] = Edit(image, sentence, was, text)
        elif kind == "drop":
            dropped[image] = not dropped.get(image, False)
        elif text in flags.setdefault(image, {}):
            del flags[image][text]
        else:
            flags[image][text] = None
    return {
        i: Marks(edits.get(i, {}), tuple(flags.get(i, ())), dropped.get(i, False), n) for i, n in last.items()
    }
