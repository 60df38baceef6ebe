"""What the page looks things up in: one SQLite file with the catalog, the layers and their words.

It is a cache below `DATASET/view/`: made from the catalog and the sealed layers in one walk, and made again
if they change. Every piece of the walk is committed: the page shows a dataset from its first rows on, and a
builder that was killed goes on where it was. Nothing that a person made may lie here (`review.py`).

Texts lie apart from the facts that filters look at: a filter over a million images reads 30 MB, no gigabyte.
"""

import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap import artifact
from sharecap.captions.layer import Missing, layers, open_layer, read_layer, read_missing
from sharecap.captions.page_files import SCORES, VIEW
from sharecap.errors import SharecapError
from sharecap.images import duplicates, overlap
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors, held
from sharecap.quality.scores import read_scores, scores_path
from sharecap.records import Caption, Image, Usage

ALT_TEXT = "alt-text"
"""Name under which the captions that the images came with are shown, as a layer among the others."""

PIECE = 2_000
"""Images per commit while the index is made."""

DUPLICATE, OVERLAP = 1, 2
"""Bits of the column `near`."""

_SETUP = """
CREATE TABLE IF NOT EXISTS images (at INTEGER PRIMARY KEY, id BLOB NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS words (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, word TEXT NOT NULL,
    UNIQUE (kind, word));               -- names of sources, failures and sets of flags
CREATE TABLE IF NOT EXISTS layers (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,
    captioner TEXT NOT NULL, upto INTEGER NOT NULL, sorted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS near (at INTEGER NOT NULL, kind INTEGER NOT NULL, other TEXT NOT NULL,
    distance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (layer TEXT NOT NULL, at INTEGER NOT NULL, sentences TEXT NOT NULL,
    PRIMARY KEY (layer, at));
CREATE TABLE IF NOT EXISTS done (what TEXT PRIMARY KEY, digest TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS images_id ON images (id);
CREATE INDEX IF NOT EXISTS near_at ON near (at);
"""
_LAYER = """
CREATE TABLE facts_{n} (at INTEGER PRIMARY KEY, source INTEGER NOT NULL, words INTEGER, flags INTEGER,
    failure INTEGER, score REAL, near INTEGER NOT NULL DEFAULT 0);
CREATE TABLE texts_{n} (at INTEGER PRIMARY KEY, text TEXT, fields TEXT NOT NULL);
CREATE VIRTUAL TABLE search_{n} USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2');
"""


@dataclass(frozen=True)
class LayerRow:
    """One layer as the index knows it."""

    n: int  # number of its tables
    name: str
    captioner: str
    upto: int  # images taken in
    sorted: bool  # its facts can be sorted: it is whole


@dataclass(frozen=True)
class State:
    """How far the index is."""

    images: int  # of the catalog
    taken: int  # images that are in, of the layer that is furthest behind
    whole: bool


class Index:
    """Reads the index of a dataset, from any thread; `refresh` has it made by a process of its own."""

    def __init__(self, dataset: Path, start: Callable[[Path], None]) -> None:
        self.dataset, self.catalog = dataset, Catalog.open(dataset)
        self.path = index_path(self.catalog)
        self._start, self._local = start, threading.local()
        with disk_errors(dataset):
            opened_cache(self.path, _SETUP).close()

    def refresh(self) -> None:
        """Have what is missing taken in; cheap where nothing is. `SharecapError` if images have changed."""
        if Catalog.open(self.dataset).digest != self.catalog.digest:
            todo = "start `sharecap view` again"
            raise SharecapError(
                "images came or left since this page was started", where=self.dataset, todo=todo
            )
        if not self.state().whole:
            self._start(self.dataset)

    def state(self) -> State:
        """How much of the catalog and its layers is in."""
        known = {row[0]: row for row in self.rows("SELECT name, digest, upto, sorted FROM layers")}
        wanted = wanted_layers(self.catalog)
        upto = min(
            (known[n][2] if known.get(n, ("", ""))[1] == d else 0 for n, d in wanted.items()), default=0
        )
        whole = all(n in known and known[n][1] == d and known[n][3] for n, d in wanted.items())
        near = dict(self.rows("SELECT what, digest FROM done"))
        return State(len(self.catalog), upto, whole and near == near_digests(self.catalog))

    def layers(self) -> dict[str, LayerRow]:
        """The layers that are at least partly in, the dataset's own first."""
        rows = self.rows("SELECT n, name, captioner, upto, sorted FROM layers ORDER BY name = ?, n", ALT_TEXT)
        return {row[1]: LayerRow(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows}

    def words(self, kind: str) -> dict[int, str]:
        """Names of a kind (source, failure, flags), by number."""
        return dict(self.rows("SELECT n, word FROM words WHERE kind = ? ORDER BY word", kind))

    def image(self, at: int) -> Image | None:
        """The image at a place of the catalog."""
        found = self.rows("SELECT id, fields FROM images WHERE at = ?", at)
        return _image(*found[0]) if found else None

    def images(self, places: Sequence[int]) -> dict[int, Image]:
        """The images at these places."""
        marks = ", ".join("?" * len(places))
        rows = self.rows(f"SELECT at, id, fields FROM images WHERE at IN ({marks})", *places)
        return {at: _image(raw, fields) for at, raw, fields in rows}

    def captions(self, layer: LayerRow, images: Mapping[int, Image]) -> dict[int, Caption | Missing]:
        """What a layer says of these images, by their places."""
        marks = ", ".join("?" * len(images))
        rows = self.rows(f"SELECT at, text, fields FROM texts_{layer.n} WHERE at IN ({marks})", *images)
        return {at: caption_of((text, fields), images[at].id, layer.name) for at, text, fields in rows}

    def at_of(self, image_id: str) -> int | None:
        """The place of an image in the catalog."""
        try:
            raw = bytes.fromhex(image_id)
        except ValueError:
            return None
        found = self.rows("SELECT at FROM images WHERE id = ?", raw)
        return int(found[0][0]) if found else None

    def caption(self, layer: LayerRow, at: int, image_id: str) -> Caption | Missing | None:
        """What a layer says of an image; None where it says nothing."""
        found = self.rows(f"SELECT text, fields FROM texts_{layer.n} WHERE at = ?", at)
        return caption_of(found[0], image_id, layer.name) if found else None

    def score(self, layer: str, image_id: str) -> float | None:
        """The score of a caption, where somebody or something gave one."""
        row, at = self.layers().get(layer), self.at_of(image_id)
        found = (
            self.rows(f"SELECT score FROM facts_{row.n} WHERE at = ?", at) if row and at is not None else []
        )
        return found[0][0] if found else None

    def verdicts(self, layer: LayerRow, at: int) -> list[str]:
        """ "right", "wrong" or "" for each sentence of a caption, where somebody judged them."""
        statement = "SELECT sentences FROM verdicts WHERE layer = ? AND at = ?"
        found = self.rows(statement, layer.name, at)
        return [str(one) for one in json.loads(found[0][0])] if found else []

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement that only reads."""
        db = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            return db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            todo = f"remove {self.path.parent}: it is a cache and made again"
            raise SharecapError(f"the page's index failed ({error})", where=self.path, todo=todo) from None


def caption_of(row: tuple[str | None, str], image_id: str, layer: str) -> Caption | Missing:
    """A row of a table of texts."""
    text, fields = row[0], json.loads(row[1])
    if text is None:
        return Missing(image_id, fields["kind"], fields["error"])
    usage = Usage(*fields.pop("usage"))
    return Caption(image_id, layer, text, **{**fields, "flags": tuple(fields["flags"])}, usage=usage)


def _image(raw: bytes, fields: str) -> Image:
    return Image(raw.hex(), *json.loads(fields))


def index_path(catalog: Catalog) -> Path:
    """Where the index of just this catalog lies."""
    return (catalog.dataset / VIEW / f"index-{catalog.digest[:16]}.sqlite").resolve()


def wanted_layers(catalog: Catalog) -> dict[str, str]:
    """What the index is to hold: layers and their digests."""
    names = layers(catalog.dataset)
    return {ALT_TEXT: catalog.digest, **{n: open_layer(catalog.dataset, n).digest for n in names}}


def near_digests(catalog: Catalog) -> dict[str, str]:
    """What earlier searches for copies found of just this catalog."""
    found = {}
    for folder in (duplicates.FOLDER, overlap.FOLDER):
        if (catalog.dataset / folder / artifact.MANIFEST).exists():
            done = artifact.read(catalog.dataset / folder)
            if done.inputs.get("catalog") == catalog.digest:
                found[folder] = done.digest
    for path in sorted((catalog.dataset / SCORES).glob("*.jsonl")):
        status = path.stat()
        found[f"{SCORES}/{path.stem}"] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def opened_cache(path: Path, setup: str) -> sqlite3.Connection:
    """A database that may be made again at any time, ready for reading and writing from any thread.

    One that is damaged is thrown away; `SharecapError` if there can be none.
    """
    path.parent.mkdir(exist_ok=True)
    for last in (False, True):
        try:
            db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(setup)
            return db
        except sqlite3.DatabaseError as error:
            if last or isinstance(error, sqlite3.OperationalError):
                todo = f"make {path.parent} a directory that can be written to"
                raise SharecapError(
                    f"cannot write the page's files ({error})", where=path, todo=todo
                ) from None
            for file in path.parent.glob(path.name + "*"):
                file.unlink()
    raise AssertionError


def build(dataset: Path, tell: Callable[[int], None] = lambda _: None) -> None:
    """Take in what the index lacks. One builder at a time; another one that is at work is left to it."""
    catalog = Catalog.open(dataset)
    path = index_path(catalog)
    with disk_errors(dataset):
        path.parent.mkdir(exist_ok=True)
        for old in path.parent.glob("index-*.sqlite*"):
            if not old.name.startswith(path.name):
                old.unlink()
        with held(path.parent):
            db = opened_cache(path, _SETUP)
            try:
                _Builder(db, catalog).run(tell)
            finally:
                db.close()


class _Builder:
    """Fills the tables; owns the one connection that writes."""

    def __init__(self, db: sqlite3.Connection, catalog: Catalog) -> None:
        self.db, self.catalog = db, catalog
        self.numbers: dict[tuple[str, str], int] = {
            (kind, word): n for n, kind, word in db.execute("SELECT n, kind, word FROM words")
        }

    def run(self, tell: Callable[[int], None]) -> None:
        """Everything that is missing."""
        wanted = wanted_layers(self.catalog)
        for n, name, digest in self.db.execute("SELECT n, name, digest FROM layers").fetchall():
            if wanted.get(name) != digest:
                for table in ("facts", "texts", "search"):
                    self.db.execute(f"DROP TABLE {table}_{n}")
                self.db.execute("DELETE FROM layers WHERE n = ?", (n,))
        for name, digest in wanted.items():
            self._add(name, digest)
        self._walk(tell)
        self._near()
        for n, name in self.db.execute("SELECT n, name FROM layers WHERE NOT sorted").fetchall():
            self.db.execute(f"CREATE INDEX IF NOT EXISTS words_{n} ON facts_{n} (words, at)")
            self.db.execute(f"CREATE INDEX IF NOT EXISTS score_{n} ON facts_{n} (score, at)")
            for column in ("failure", "flags"):
                rare = f"ON facts_{n} ({column}, at) WHERE {column} IS NOT NULL"
                self.db.execute(f"CREATE INDEX IF NOT EXISTS {column}_{n} {rare}")
            self.db.execute("UPDATE layers SET sorted = 1 WHERE name = ?", (name,))

    def _add(self, name: str, digest: str) -> None:
        if self.db.execute("SELECT 1 FROM layers WHERE name = ?", (name,)).fetchone():
            return
        captioner = "" if name == ALT_TEXT else open_layer(self.catalog.dataset, name).config.get("captioner")
        row = (name, digest, str(captioner or "given"))
        self.db.execute("BEGIN")
        cursor = self.db.execute(
            "INSERT INTO layers (name, digest, captioner, upto, sorted) VALUES (?, ?, ?, 0, 0)", row
        )
        for statement in _LAYER.format(n=cursor.lastrowid).split(";"):
            if statement.strip():
                self.db.execute(statement)
        self.db.execute("COMMIT")

    def _walk(self, tell: Callable[[int], None]) -> None:
        """One walk over the catalog and the layers that aren't whole; what is in is passed over."""
        todo = self.db.execute(
            "SELECT n, name, upto FROM layers WHERE upto < ?", (len(self.catalog),)
        ).fetchall()
        if not todo:
            return
        streams = [self._stream(name) for _, name, _ in todo]
        (have,) = self.db.execute("SELECT coalesce(max(at) + 1, 0) FROM images").fetchone()
        images = enumerate(self.catalog)
        while piece := list(islice(images, PIECE)):
            self.db.execute("BEGIN")
            new = [(at, bytes.fromhex(i.id), _fields(i)) for at, i in piece if at >= have]
            self.db.executemany("INSERT INTO images VALUES (?, ?, ?)", new)
            for (n, _, upto), stream in zip(todo, streams, strict=True):
                says = [(at, image, stream(image)) for at, image in piece]
                self._take(n, [one for one in says if one[0] >= upto])
                self.db.execute("UPDATE layers SET upto = max(upto, ?) WHERE n = ?", (piece[-1][0] + 1, n))
            self.db.execute("COMMIT")
            tell(piece[-1][0] + 1)

    def _stream(self, name: str) -> Callable[[Image], Caption | Missing | None]:
        """What the layer says of each image of the catalog, which are asked for in order."""
        if name == ALT_TEXT:
            return lambda i: Caption(i.id, name, i.alt_text, "", "", "") if i.alt_text.strip() else None
        captions = read_layer(self.catalog.dataset, name)
        missing = read_missing(self.catalog.dataset, name)
        streams: list[Iterator[Caption | Missing]] = [captions, missing]
        heads: list[Caption | Missing | None] = [next(captions, None), next(missing, None)]

        def next_of(image: Image) -> Caption | Missing | None:
            for number, stream in enumerate(streams):
                head = heads[number]
                if head is not None and head.image_id == image.id:
                    heads[number] = next(stream, None)
                    return head
            return None

        return next_of

    def _take(self, n: int, rows: Sequence[tuple[int, Image, Caption | Missing | None]]) -> None:
        facts: list[tuple[int | None, ...]] = []
        texts: list[tuple[int, str | None, str]] = []
        words: list[tuple[int, str]] = []
        for at, image, said in rows:
            source = self._number("source", image.source)
            if isinstance(said, Caption):
                flags = self._number("flags", " ".join(said.flags)) if said.flags else None
                facts.append((at, source, len(said.text.split()), flags, None))
                texts.append((at, said.text, _said(said)))
                words.append((at, said.text))
            else:
                kind = self._number("failure", said.kind) if said else None
                facts.append((at, source, None, None, kind))
                if said:
                    texts.append((at, None, json.dumps({"kind": said.kind, "error": said.error})))
        insert = "INSERT INTO {} VALUES (?, ?, ?, ?, ?{})"
        self.db.executemany(insert.format(f"facts_{n}", ", NULL, 0"), facts)
        self.db.executemany(f"INSERT INTO texts_{n} VALUES (?, ?, ?)", texts)
        self.db.executemany(f"INSERT INTO search_{n} (rowid, text) VALUES (?, ?)", words)

    def _number(self, kind: str, word: str) -> int:
        found = self.numbers.get((kind, word))
        if found is None:
            self.db.execute("INSERT INTO words (kind, word) VALUES (?, ?)", (kind, word))
            (found,) = self.db.execute("SELECT last_insert_rowid()").fetchone()
            self.numbers[kind, word] = found
        return found

    def _near(self) -> None:
        """Near-duplicates and overlap with benchmarks, where they were looked for."""
        wanted = near_digests(self.catalog)
        done = dict(self.db.execute("SELECT what, digest FROM done"))
        fresh = self.db.execute("SELECT 1 FROM layers WHERE NOT sorted").fetchone()
        if done == wanted and not fresh:
            return
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM near")
        self.db.execute("DELETE FROM done")
        self.db.execute("DELETE FROM verdicts")
        for folder, digest in wanted.items():
            self.db.execute("INSERT INTO done VALUES (?, ?)", (folder, digest))
            if folder.startswith(SCORES):
                self._scores(folder.partition("/")[2])
                continue
            bit, rows = _NEAR[folder](self.catalog.dataset)
            placed = ((bytes.fromhex(i), bit, other, bits) for i, other, bits in rows)
            statement = "INSERT INTO near SELECT at, ?2, ?3, ?4 FROM images WHERE id = ?1"
            self.db.executemany(statement, placed)
        for (n,) in self.db.execute("SELECT n FROM layers").fetchall():
            self.db.execute(f"UPDATE facts_{n} SET near = 0 WHERE near")
            for bit in (DUPLICATE, OVERLAP):
                where = "at IN (SELECT at FROM near WHERE kind = ?)"
                self.db.execute(f"UPDATE facts_{n} SET near = near | ? WHERE {where}", (bit, bit))
        self.db.execute("COMMIT")

    def _scores(self, name: str) -> None:
        """Scores of a layer's captions, and verdicts on their sentences."""
        found = self.db.execute("SELECT n FROM layers WHERE name = ?", (name,)).fetchone()
        if found is None:
            return
        self.db.execute(f"UPDATE facts_{found[0]} SET score = NULL WHERE score IS NOT NULL")
        for one in read_scores(scores_path(self.catalog.dataset, name)):
            place = self.db.execute(
                "SELECT at FROM images WHERE id = ?", (bytes.fromhex(one.image_id),)
            ).fetchone()
            if place is None:
                continue
            if one.score is not None:
                self.db.execute(f"UPDATE facts_{found[0]} SET score = ? WHERE at = ?", (one.score, place[0]))
            if one.sentences:
                row = (name, place[0], json.dumps(one.sentences))
                self.db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)


def _copies(dataset: Path) -> tuple[int, Iterator[tuple[str, str, int]]]:
    """Images that another one stands for: image, the one that stays, bits between them."""

    def rows() -> Iterator[tuple[str, str, int]]:
        with pq.ParquetFile(dataset / duplicates.FOLDER / duplicates.TABLE) as table:
            for batch in table.iter_batches(PIECE, columns=["image_id", "kept", "distance"]):
                yield from ((r["image_id"], r["kept"], r["distance"]) for r in batch.to_pylist())

    return DUPLICATE, (row for row in rows() if row[0] != row[1])


def _overlaps(dataset: Path) -> tuple[int, Iterator[tuple[str, str, int]]]:
    """Images like one of a benchmark: image, benchmark and item, bits between them."""

    def rows() -> Iterator[tuple[str, str, int]]:
        with pq.ParquetFile(dataset / overlap.FOLDER / overlap.TABLE) as table:
            for batch in table.iter_batches(PIECE):
                for r in batch.to_pylist():
                    yield r["image_id"], f"{r['benchmark']}::{r['item']}", r["distance"] or 0

    return OVERLAP, rows()


_NEAR: Mapping[str, Callable[[Path], tuple[int, Iterator[tuple[str, str, int]]]]] = {
    duplicates.FOLDER: _copies,
    overlap.FOLDER: _overlaps,
}


def _fields(image: Image) -> str:
    """All of an image but its id, as one text: what a page shows of it is read whole."""
    i = image
    fields = (i.source, i.path, i.width, i.height, i.format, i.bytes, i.phash, i.alt_text, i.licence)
    return json.dumps([*fields, i.member, i.offset, i.url], ensure_ascii=False)


def _said(caption: Caption) -> str:
    c = caption
    fields = {"captioner": c.captioner, "prompt_id": c.prompt_id, "finish_reason": c.finish_reason}
    usage = [c.usage.prompt_tokens, c.usage.completion_tokens]
    more = {"usage": usage, "cost_usd": c.cost_usd, "flags": c.flags, "origin": c.origin}
    return json.dumps(fields | more, ensure_ascii=False)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]))
    except SharecapError as error:
        sys.exit(f"{error}")
