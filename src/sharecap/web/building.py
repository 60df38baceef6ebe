"""Filling the index: one walk over the catalog and the sealed layers, in a process of its own.

Every piece of the walk is committed, and a builder that was killed goes on where it was. What can't be read
(a damaged layer, a bad line of scores) must never keep the rest from the page: it is told as a trouble.

Texts lie apart from the facts that filters look at: a filter over a million images reads 30 MB, no gigabyte.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import ValidationError

from sharecap.captions.layer import Missing, open_layer, read_layer, read_missing
from sharecap.captions.page_files import SCORES
from sharecap.errors import SharecapError
from sharecap.images import duplicates, overlap
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import HeldError, disk_errors, held
from sharecap.quality.scores import Scored
from sharecap.records import Caption, Image
from sharecap.web.index import (
    ALT_TEXT,
    DUPLICATE,
    OVERLAP,
    SETUP,
    index_path,
    near_digests,
    opened_cache,
    wanted_layers,
)

PIECE = 2_000
"""Images per commit while the index is made."""

_LAYER = """
CREATE TABLE facts_{n} (at INTEGER PRIMARY KEY, source INTEGER NOT NULL, words INTEGER, flags INTEGER,
    failure INTEGER, score REAL, near INTEGER NOT NULL DEFAULT 0);
CREATE TABLE texts_{n} (at INTEGER PRIMARY KEY, text TEXT, fields TEXT NOT NULL);
CREATE VIRTUAL TABLE search_{n} USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2');
"""


def build(dataset: Path, tell: Callable[[int], None] = lambda _: None) -> None:
    """Take in what the index lacks. One builder at a time; another one that is at work is left to it."""
    catalog = Catalog.open(dataset)
    path = index_path(catalog)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("index-*.sqlite*"):
            if not old.name.startswith(path.name):
                old.unlink()
        try:
            with held(path.parent), closing(opened_cache(path, SETUP)) as db:
                _Builder(db, catalog).run(tell)
        except HeldError:
            return
        except sqlite3.Error as error:
            raise SharecapError(f"cannot write the page's index ({error})", where=path) from None


class _Builder:
    """Fills the tables; owns the one connection that writes."""

    def __init__(self, db: sqlite3.Connection, catalog: Catalog) -> None:
        self.db, self.catalog = db, catalog
        self.numbers: dict[tuple[str, str], int] = {
            (kind, word): n for n, kind, word in db.execute("SELECT n, kind, word FROM words")
        }

    def run(self, tell: Callable[[int], None]) -> None:
        """Everything that is missing."""
        wanted, _ = wanted_layers(self.catalog)
        for n, name, digest in self.db.execute("SELECT n, name, digest FROM layers").fetchall():
            if wanted.get(name) != digest:
                for table in ("facts", "texts", "search"):
                    self.db.execute(f"DROP TABLE {table}_{n}")
                self.db.execute("DELETE FROM layers WHERE n = ?", (n,))
                self.db.execute("DELETE FROM troubles WHERE what = ?", (f"layer {name}",))
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
        for (_, name, _), stream in zip(todo, streams, strict=True):
            if (left := stream(None)) is not None:
                self._trouble(f"layer {name}", f"does not go with the catalog, from image {left.image_id} on")

    def _trouble(self, what: str, why: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO troubles VALUES (?, ?)", (what, why))

    def _stream(self, name: str) -> Callable[[Image | None], Caption | Missing | None]:
        """What the layer says of each image of the catalog, which are asked for in order.

        None asks for what is left at the end. A layer that is damaged says nothing from there on.
        """
        if name == ALT_TEXT:
            return lambda i: Caption(i.id, name, i.alt_text, "", "", "") if i and i.alt_text.strip() else None
        dataset = self.catalog.dataset
        streams = [
            self._as_far_as(name, rows) for rows in (read_layer(dataset, name), read_missing(dataset, name))
        ]
        heads = [next(stream, None) for stream in streams]

        def next_of(image: Image | None) -> Caption | Missing | None:
            for number, stream in enumerate(streams):
                head = heads[number]
                if head is not None and (image is None or head.image_id == image.id):
                    heads[number] = next(stream, None)
                    return head
            return None

        return next_of

    def _as_far_as(
        self, name: str, rows: Iterator[Caption] | Iterator[Missing]
    ) -> Iterator[Caption | Missing]:
        """The rows up to where they can't be read any more."""
        try:
            yield from rows
        except SharecapError as error:
            self._trouble(f"layer {name}", str(error))

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
        """Near-duplicates, overlap with benchmarks, and scores, where there are any."""
        wanted, _ = near_digests(self.catalog)
        done = dict(self.db.execute("SELECT what, digest FROM done"))
        fresh = self.db.execute("SELECT 1 FROM layers WHERE NOT sorted").fetchone()
        if done == wanted and not fresh:
            return
        self.db.execute("BEGIN")
        for table in ("near", "done", "verdicts", "troubles WHERE what NOT LIKE 'layer %'"):
            self.db.execute(f"DELETE FROM {table}")
        layers = dict(self.db.execute("SELECT name, n FROM layers").fetchall())
        for n in layers.values():
            self.db.execute(f"UPDATE facts_{n} SET score = NULL WHERE score IS NOT NULL")
        for what, digest in wanted.items():
            self.db.execute("INSERT INTO done VALUES (?, ?)", (what, digest))
            folder, _, file = what.partition("/")
            try:
                if folder == SCORES:
                    self._scores(self.catalog.dataset / SCORES / file, layers)
                else:
                    self._copies(folder)
            except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
                self._trouble(what, f"can't be read ({error})")
        for n in layers.values():
            self.db.execute(f"UPDATE facts_{n} SET near = 0 WHERE near")
            for bit in (DUPLICATE, OVERLAP):
                where = "at IN (SELECT at FROM near WHERE kind = ?)"
                self.db.execute(f"UPDATE facts_{n} SET near = near | ? WHERE {where}", (bit, bit))
        self.db.execute("COMMIT")

    def _copies(self, folder: str) -> None:
        """Images that another one stands for, or that are like a benchmark's."""
        bit, rows = _NEAR[folder](self.catalog.dataset)
        placed = ((bytes.fromhex(i), bit, other, bits) for i, other, bits in rows)
        statement = "INSERT INTO near SELECT at, ?2, ?3, ?4 FROM images WHERE id = ?1"
        self.db.executemany(statement, placed)

    def _scores(self, path: Path, layers: Mapping[str, int]) -> None:
        """Scores of a layer's captions, and verdicts on their sentences. Lines that are none are counted."""
        bad, why, foreign = 0, "", 0
        n = layers.get(path.stem)
        for number, one in enumerate(read_scores(path), 1):
            if isinstance(one, str):
                bad, why = bad + 1, why or f"line {number}: {one}"
                continue
            place = self.db.execute(
                "SELECT at FROM images WHERE id = ?", (bytes.fromhex(one.image_id),)
            ).fetchone()
            if n is None or place is None:
                foreign += 1
                continue
            if one.score is not None:
                self.db.execute(f"UPDATE facts_{n} SET score = ? WHERE at = ?", (one.score, place[0]))
            if one.sentences:
                row = (path.stem, place[0], json.dumps(one.sentences))
                self.db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)
        told = [f"{bad:,} bad lines, the first is {why}"] if bad else []
        if n is None:
            told.append("there is no such layer")
        elif foreign:
            told.append(f"{foreign:,} lines are about images that are not here")
        if told:
            self._trouble(f"{SCORES}/{path.name}", "; ".join(told))


def read_scores(path: Path) -> Iterator[Scored | str]:
    """The lines of a file of scores; for a bad one, what is wrong with it. `OSError` if it can't be read.

    The last line may be half there: who writes the file is at it, and it is read again when it has grown.
    """
    with open(path, "rb") as lines:
        for line in lines:
            try:
                yield Scored.model_validate_json(line)
            except ValidationError as error:
                if line.endswith(b"\n"):
                    yield str(error.errors()[0]["msg"])


def _twins(dataset: Path) -> tuple[int, Iterator[tuple[str, str, int]]]:
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
    duplicates.FOLDER: _twins,
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
