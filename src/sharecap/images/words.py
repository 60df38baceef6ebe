"""DATASET/words.sqlite: the words in each picture, read once and kept, for prompts (`--context ocr`).

A prompt must be the same to the byte in a preview, a run and the run that goes on after a kill, and reading
takes about a second a picture. So nothing is read twice, and nothing here changes words that are kept.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import local
from urllib.parse import quote

from sharecap.errors import Interrupted, SharecapError, UsageError
from sharecap.images.candidate import clean
from sharecap.images.catalog import Catalog
from sharecap.images.crew import cores
from sharecap.images.dataset import WORDS, disk_errors, held
from sharecap.images.decode import ImageError, decode_rgb
from sharecap.images.place import place_of, verified
from sharecap.images.progress import Progress
from sharecap.images.reader import Reader
from sharecap.records import Image

MOST_KEPT = 20_000
"""Characters kept of one picture's words; a page has about 3,000."""

PIECE = 500
"""Images that are looked up at a time."""

VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS words (
  image TEXT PRIMARY KEY,
  text TEXT NOT NULL,
  problem TEXT NOT NULL,
  what TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reader (name TEXT NOT NULL);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True)
class Reading:
    """What the dataset has of its pictures' words. `worded + wordless + failed` is the number of images."""

    images: int
    read: int  # in this run
    worded: int  # pictures in which words were found
    wordless: int
    failed: dict[str, int] = field(default_factory=dict)  # reason -> pictures; prompts go without words


@dataclass(frozen=True)
class Words:
    """The words that are kept, all of them read."""

    path: Path
    reader: str  # by which the first of them were read

    @classmethod
    def open(cls, catalog: Catalog) -> "Words":
        """The words of the catalog's pictures; `UsageError` while some are still to be read."""
        path, todo = (
            catalog.dataset / WORDS,
            "sharecap caption --context ocr reads them, as `read_words` does in Python",
        )
        what = "the words in the pictures are not read yet"
        if not path.exists():
            raise UsageError(what, where=catalog.dataset, todo=todo)
        with _opened(path) as db:
            images = iter(catalog)
            while piece := list(islice(images, PIECE)):
                if len(_known(db, piece)) < len(piece):
                    raise UsageError(what, where=catalog.dataset, todo=todo)
            name = db.execute("SELECT name FROM reader").fetchone()
        return cls(path, name[0] if name else "")

    def of(self, images: Sequence[Image]) -> dict[str, str]:
        """The words of these images, by id; those without any are left out."""
        with _opened(self.path) as db:
            return {image: text for image, (text, _) in _known(db, images).items() if text}


def read_words(dataset: Path, *, progress: Progress | None = None, at_once: int | None = None) -> Reading:
    """Read the words of every picture that has none kept, on all cores; `Interrupted` on Ctrl-C, the same
    call goes on. A picture that can't be read has no words and is tried again by the next call.

    `UsageError` if something is to be read and no reader is installed.
    """
    catalog, path, read = Catalog.open(dataset), dataset / WORDS, 0
    found = _count(path, catalog)
    if found.todo:
        reader = Reader()  # where there is none, nothing is written
        with disk_errors(dataset), held(dataset), _opened(path, write=True) as db:
            with db:
                db.executescript(_SCHEMA)
                named = "INSERT INTO reader SELECT ? WHERE NOT EXISTS (SELECT * FROM reader)"
                db.execute(named, (reader.name,))
            progress = progress or Progress("read", quiet=True)
            progress.total, progress.done = len(catalog), len(catalog) - found.todo
            read = _read_all(db, catalog, at_once or cores(), progress)
        found = _count(path, catalog)
    return Reading(len(catalog), read, found.worded, found.wordless, dict(sorted(found.failed.items())))


@dataclass
class _Count:
    worded: int = 0
    wordless: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    todo: int = 0  # never read, or not read for a reason that may have passed


def _count(path: Path, catalog: Catalog) -> _Count:
    if not path.exists():
        return _Count(todo=len(catalog))
    count, images = _Count(), iter(catalog)
    with _opened(path) as db:
        while piece := list(islice(images, PIECE)):
            known = _known(db, piece)
            count.todo += len(piece) - len(known)
            for text, problem in known.values():
                count.todo += bool(problem)
                count.failed.update([problem] if problem else [])
                count.worded += bool(text)
                count.wordless += not (text or problem)
    return count


def _read_all(db: sqlite3.Connection, catalog: Catalog, at_once: int, progress: Progress) -> int:
    """Read what is not read; how many pictures it was. Each one's words are kept as they come."""
    mine = local()

    def work(image: Image) -> tuple[str, str, str]:
        if not hasattr(mine, "reader"):
            mine.reader = Reader()
        try:
            lines = mine.reader.read(decode_rgb(verified(image), place_of(image)), place_of(image))
        except ImageError as error:
            return "", error.reason, error.what
        return clean("\n".join(lines))[:MOST_KEPT], "", ""

    read = 0
    todo, out = _unread(db, catalog), dict[Future[tuple[str, str, str]], str]()
    with progress.shown(), ThreadPoolExecutor(at_once, "reader") as threads:
        try:
            while True:
                for image in islice(todo, 2 * at_once - len(out)):
                    out[threads.submit(work, image)] = image.id
                if not out:
                    return read
                for future in wait(out, return_when=FIRST_COMPLETED).done:
                    text, problem, what = future.result()
                    with db:
                        row = (out.pop(future), text, problem, what)
                        db.execute("INSERT OR REPLACE INTO words VALUES (?, ?, ?, ?)", row)
                    read += 1
                    progress.done += 1
                    progress.failed += bool(problem)
                    progress.tick()
        except KeyboardInterrupt:
            what = "interrupted; the words read so far are kept"
            raise Interrupted(what, todo="run the same command again to go on") from None
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _unread(db: sqlite3.Connection, catalog: Catalog) -> Iterator[Image]:
    images = iter(catalog)
    while piece := list(islice(images, PIECE)):
        known = _known(db, piece)
        yield from (image for image in piece if known.get(image.id, ("", "unread"))[1])


def forget(dataset: Path, ids: Collection[str]) -> int:
    """Wipe what was read in these images; how many it was. The caller holds the dataset."""
    path = dataset / WORDS
    if not path.exists():
        return 0
    with _opened(path, write=True) as db:
        db.execute("PRAGMA secure_delete = ON")
        with db:
            return sum(db.execute("DELETE FROM words WHERE image = ?", (image,)).rowcount for image in ids)


def _known(db: sqlite3.Connection, images: Sequence[Image]) -> dict[str, tuple[str, str]]:
    """Image -> (its words, why there are none), of those that the file has."""
    if not db.execute("PRAGMA user_version").fetchone()[0]:  # nothing was ever read
        return {}
    marks = ",".join("?" * len(images))
    query = f"SELECT image, text, problem FROM words WHERE image IN ({marks})"
    return {image: (text, why) for image, text, why in db.execute(query, [image.id for image in images])}


@contextmanager
def _opened(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    try:
        name = f"file:{quote(str(path.resolve()))}?mode={'rwc' if write else 'ro'}"
        with closing(sqlite3.connect(name, uri=True, timeout=30)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                what = f"the kept words have version {version}, this sharecap knows {VERSION}"
                raise SharecapError(what, where=path, todo="use the sharecap that made them")
            yield db
    except sqlite3.Error as error:
        todo = "make room on the disk; if the file is damaged, remove it: the pictures are read anew then"
        raise SharecapError(f"cannot keep the pictures' words ({error})", where=path, todo=todo) from None


def reading_lines(reading: Reading) -> list[str]:
    """For people."""
    counts = f"{reading.worded:,} with words, {reading.wordless:,} without"
    lines = [f"read in the pictures: {counts} ({reading.read:,} read now)"]
    if reading.failed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in reading.failed.items())
        lines.append(f"  not read: {kinds}; their prompts hold no words")
    return lines
