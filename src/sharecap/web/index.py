"""What the page looks things up in: one SQLite file with the catalog, the layers and their words.

It is a cache below `DATASET/view/`, made by `building.py` from the catalog and the sealed layers, and made
again if they change. Nothing that a person made may lie here (`review.py`).

Texts lie apart from the facts that filters look at: a filter over a million images reads 30 MB, no gigabyte.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.captions.layer import Missing, layers, open_layer
from sharecap.captions.page_files import SCORES, VIEW
from sharecap.errors import SharecapError
from sharecap.images import duplicates, overlap
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors
from sharecap.records import Caption, Image, Usage

ALT_TEXT = "alt-text"
"""Name under which the captions that the images came with are shown, as a layer among the others."""

DUPLICATE, OVERLAP = 1, 2
"""Bits of the column `near`."""

SETUP = """
CREATE TABLE IF NOT EXISTS images (at INTEGER PRIMARY KEY, id BLOB NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS words (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, word TEXT NOT NULL,
    UNIQUE (kind, word));               -- names of sources, failures and sets of flags
CREATE TABLE IF NOT EXISTS layers (n INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL, captioner TEXT NOT NULL, upto INTEGER NOT NULL, sorted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS near (at INTEGER NOT NULL, kind INTEGER NOT NULL, other TEXT NOT NULL,
    distance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (layer TEXT NOT NULL, at INTEGER NOT NULL, sentences TEXT NOT NULL,
    PRIMARY KEY (layer, at));
CREATE TABLE IF NOT EXISTS done (what TEXT PRIMARY KEY, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS troubles (what TEXT PRIMARY KEY, why TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS images_id ON images (id);
CREATE INDEX IF NOT EXISTS near_at ON near (at);
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
    content: int  # another number stands for another content


class Index:
    """Reads the index of a dataset, from any thread; `refresh` has it made by a process of its own."""

    def __init__(self, dataset: Path, start: Callable[[Path, Path], None]) -> None:
        self.dataset, self._start, self._local = dataset, start, threading.local()
        self._open(Catalog.open(dataset))

    def _open(self, catalog: Catalog) -> None:
        self.catalog, self.path = catalog, index_path(catalog)
        self._places: dict[str, int] = {}
        self._opened = object()  # connections to what was open before are let go
        with disk_errors(self.path):
            opened_cache(self.path, SETUP).close()

    def refresh(self) -> None:
        """Have what is missing taken in; cheap where nothing is. Images may have come or left."""
        catalog = Catalog.open(self.dataset)
        if catalog.digest != self.catalog.digest or not self.path.exists():
            self._open(catalog)
        if not self.state().whole:
            self._start(self.dataset, self.path.parent)

    def state(self) -> State:
        """How much of the catalog and its layers is in."""
        known = {row[0]: row for row in self.rows("SELECT name, digest, upto, sorted FROM layers")}
        wanted, _ = wanted_layers(self.catalog)
        upto = min(
            (known[n][2] if known.get(n, ("", ""))[1] == d else 0 for n, d in wanted.items()), default=0
        )
        whole = all(n in known and known[n][1] == d and known[n][3] for n, d in wanted.items())
        done = dict(self.rows("SELECT what, digest FROM done"))
        whole = whole and done == near_digests(self.catalog)[0]
        content = hash((self.path, *sorted(known.values()), *sorted(done.items())))
        return State(len(self.catalog), upto, whole, content)

    def troubles(self) -> list[str]:
        """What of the dataset can't be read, a line for each."""
        kept = self.rows("SELECT what, why FROM troubles ORDER BY what")
        more = [*wanted_layers(self.catalog)[1].items(), *near_digests(self.catalog)[1].items()]
        return [f"{what}: {why}" for what, why in [*kept, *more]]

    def names(self) -> list[str]:
        """Layers that can be looked at, those that are in first; the others will be in a moment later."""
        return list(dict.fromkeys([*self.layers(), *sorted(wanted_layers(self.catalog)[0], key=_last)]))

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

    def places(self, image_ids: Iterable[str]) -> list[int]:
        """The places of those images that are in."""
        for image_id in image_ids:
            if image_id not in self._places and (at := self.at_of(image_id)) is not None:
                self._places[image_id] = at
        return [self._places[i] for i in image_ids if i in self._places]

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
        opened, db = getattr(self._local, "db", (None, None))
        try:
            if db is None or opened is not self._opened:
                opened = self._opened
                db = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=30)
                self._local.db = opened, db
            return db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:  # a layer that is made anew has no tables for a moment
            todo = f"load the page again; if that does not help, remove {self.path.parent}, which is a cache"
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


def _last(name: str) -> tuple[bool, str]:
    return name == ALT_TEXT, name


def index_path(catalog: Catalog) -> Path:
    """Where the index of just this catalog lies: in the dataset; in the user's cache if that is read-only."""
    own = catalog.dataset.resolve() / VIEW
    if not os.access(own if own.is_dir() else catalog.dataset, os.W_OK):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        own = cache.resolve() / "sharecap" / hashlib.sha256(os.fsencode(own)).hexdigest()[:16]
    return own / f"index-{catalog.digest[:16]}.sqlite"


def wanted_layers(catalog: Catalog) -> tuple[dict[str, str], dict[str, str]]:
    """What the index is to hold: layers and their digests; and why others can't be in."""
    found, bad = {ALT_TEXT: catalog.digest}, {}
    for name in layers(catalog.dataset):
        try:
            found[name] = open_layer(catalog.dataset, name).digest
        except SharecapError as error:
            bad[f"layer {name}"] = str(error)
    return found, bad


def near_digests(catalog: Catalog) -> tuple[dict[str, str], dict[str, str]]:
    """What was found and said of just this catalog's images (copies, overlap, scores); what can't be read."""
    found, bad = {}, {}
    for folder in (duplicates.FOLDER, overlap.FOLDER):
        if (catalog.dataset / folder / artifact.MANIFEST).exists():
            try:
                done = artifact.read(catalog.dataset / folder)
            except SharecapError as error:
                bad[folder] = str(error)
                continue
            if done.inputs.get("catalog") == catalog.digest:
                found[folder] = done.digest
    there = layers(catalog.dataset)
    for path in sorted((catalog.dataset / SCORES).glob("*.jsonl")):
        beside = "." in path.stem and path.stem not in there  # LAYER.claims and the like are no scores
        if path.is_file() and not beside:
            status = path.stat()
            found[f"{SCORES}/{path.name}"] = f"{status.st_size} {status.st_mtime_ns}"
    return found, bad


def opened_cache(path: Path, setup: str) -> sqlite3.Connection:
    """A database that may be made again at any time, ready for reading and writing from any thread.

    One that is damaged is thrown away; `SharecapError` if there can be none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
