"""The ledger: every request, its state and what it cost, in SQLite. Nothing paid for is lost (invariant 1).

One thread writes; all changes that gather while it commits go into its next commit. A change's future is
done only when the change is on disk. States: `sent` (on disk before the request leaves), `done`, `failed`.
Texts lie in a table of their own, so that a million requests are counted without reading a gigabyte of them.
It must never hold an API key, nor pixels.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import quote

from sharecap.captions.storable import storable
from sharecap.errors import SharecapError
from sharecap.records import Usage

VERSION = 2
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,              -- see keys.py; indexed apart, so that texts stay out of the key's tree
    image_id TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    reserved_usd REAL,              -- worst case of the attempt that is out
    doubtful INTEGER NOT NULL DEFAULT 0,        -- attempts that may have been billed without an answer seen
    doubtful_usd REAL NOT NULL DEFAULT 0,       -- their worst case
    cost_usd REAL,                  -- of all answered attempts; NULL: no price known
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    error_kind TEXT,
    error TEXT,
    finish_reason TEXT,
    changed_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS texts (
    id INTEGER PRIMARY KEY REFERENCES requests,
    text TEXT NOT NULL              -- the last answer's words, also of one that is no caption
);
CREATE TABLE IF NOT EXISTS remedies (   -- requests whose first answer was no caption
    id INTEGER PRIMARY KEY REFERENCES requests,
    captioner TEXT NOT NULL,        -- who gave the last answer
    prompt_id TEXT NOT NULL,        -- what that was an answer to
    steps TEXT NOT NULL             -- "KIND:REMEDY", with spaces between (remedy.py)
);
CREATE TABLE IF NOT EXISTS probes (     -- outcomes of the canary (canary.py)
    id INTEGER PRIMARY KEY,
    layer TEXT NOT NULL,
    alike REAL NOT NULL,
    apart REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS requests_key ON requests (key);
PRAGMA user_version = {VERSION};
"""

GATHER_S = 0.002
"""For so long the writer lets changes gather: an answer and its worker's next request share a commit then."""

IN_BATCH = "in_batch"
"""`error_kind` of a request in state `sent` whose answer comes with a batch, be it after a restart."""

_UNUSED = Usage()
_COLUMNS = (
    "key, state, attempts, doubtful, doubtful_usd, reserved_usd, cost_usd, prompt_tokens, completion_tokens, "
    "error_kind, error, finish_reason"
)
_REMEDIED = (
    "INSERT OR REPLACE INTO remedies (id, captioner, prompt_id, steps) SELECT id, ?, ?, ? FROM requests "
    "WHERE key = ?"
)
# An answer without a price makes all of its request unpriced; one with a price prices what came before it.
_COST = (
    "cost_usd = CASE WHEN ? IS NULL THEN CASE WHEN ? THEN NULL ELSE cost_usd END ELSE "
    "coalesce(cost_usd, (prompt_tokens * ? + completion_tokens * ?) / 1e6) + ? END"
)
_SAY = "INSERT OR REPLACE INTO texts (id, text) SELECT id, ? FROM requests WHERE key = ?"


class Entry(NamedTuple):
    """One request as the ledger knows it."""

    key: bytes
    state: str
    attempts: int
    doubtful: int
    doubtful_usd: float
    reserved_usd: float | None
    cost_usd: float | None
    prompt_tokens: int
    completion_tokens: int
    error_kind: str | None
    error: str | None
    finish_reason: str | None
    text: str | None  # None also where it wasn't asked for, as the three that follow
    answered_by: str | None = None  # who gave the last answer, where a remedy was tried
    asked_as: str | None = None  # the id of the prompt that it answers
    steps: str | None = None  # the remedies


class How(NamedTuple):
    """How the last answer of a request came about whose first one was no caption."""

    captioner: str
    prompt_id: str
    steps: str


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that were out when an earlier run was killed: they may be sent and charged a second time."""

    requests: int = 0
    usd: float | None = None  # what they can have cost; None: no price was known


Plain = tuple[bytes, float | None, int, int]
"""Key, USD (None: no price was known), prompt tokens and completion tokens of a request without doubts."""

MOST_ROWS = 4
"""Rows of the ledger that are read in one go for each request that is sought among them."""

Statement = tuple[str, tuple[Any, ...]]
Change = tuple[tuple[Statement, ...], "asyncio.Future[None]"]


class Ledger:
    """Use as a context manager; one at a time per dataset (the caller holds the dataset)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.in_flight = InFlight()
        self._queue: SimpleQueue[Change | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)

    def __enter__(self) -> "Ledger":
        try:
            self._writer = connect(self.path)
            self._reader = sqlite3.connect(f"file:{_quoted(self.path)}?mode=ro", uri=True)
            self.in_flight = self._find_in_flight()
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _find_in_flight(self) -> InFlight:
        """Count what a killed run left open, and book it as perhaps paid."""
        with self._writer as db:
            count, usd, priced = db.execute(
                "SELECT count(*), sum(reserved_usd), count(reserved_usd) FROM requests "
                f"WHERE state = 'sent' AND error_kind IS NOT '{IN_BATCH}'"
            ).fetchone()
            if count:
                db.execute(
                    "UPDATE requests SET state = 'failed', error_kind = 'in_flight', "
                    "error = 'the run was killed while the request was out', doubtful = doubtful + 1, "
                    "doubtful_usd = doubtful_usd + coalesce(reserved_usd, 0), reserved_usd = NULL "
                    f"WHERE state = 'sent' AND error_kind IS NOT '{IN_BATCH}'"
                )
        return InFlight(count, usd if priced else None)

    async def sent(
        self,
        key: bytes,
        image_id: str,
        model: str,
        prompt_id: str,
        worst_usd: float | None,
        *,
        in_batch: bool = False,
    ) -> None:
        """Book an attempt. When this returns, the attempt is on disk and the request may leave.

        `in_batch`: its answer outlives this run, so no later run takes it for lost.
        """
        statement = (
            "INSERT INTO requests "
            "(key, image_id, model, prompt_id, state, attempts, reserved_usd, error_kind, changed_at) "
            "VALUES (?, ?, ?, ?, 'sent', 1, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET state = 'sent', "
            "attempts = attempts + 1, reserved_usd = excluded.reserved_usd, "
            "error_kind = excluded.error_kind, changed_at = excluded.changed_at"
        )
        kind = IN_BATCH if in_batch else None
        await self._book((statement, (key, image_id, model, prompt_id, worst_usd, kind, time.time())))

    def done(
        self,
        key: bytes,
        text: str,
        finish_reason: str,
        usage: Usage,
        cost_usd: float | None,
        *,
        price: tuple[float, float] = (0.0, 0.0),
        how: How | None = None,
    ) -> "asyncio.Future[None]":
        """Book a caption, which is on disk when the future is done, and before all that is booked later.

        `price` is for what was unpriced before.
        """
        statement = (
            "UPDATE requests SET state = 'done', finish_reason = ?, error_kind = NULL, "
            "error = NULL, reserved_usd = NULL, "
            f"prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, {_COST}, "
            "changed_at = ? WHERE key = ?"
        )
        used = (usage.prompt_tokens, usage.completion_tokens, cost_usd, usage != _UNUSED, *price, cost_usd)
        remedied = ((_REMEDIED, (*how, key)),) if how else ()
        return self._book(
            (statement, (finish_reason, *used, time.time(), key)), (_SAY, (text, key)), *remedied
        )

    def failed(
        self,
        key: bytes,
        kind: str,
        error: str,
        *,
        usage: Usage = _UNUSED,
        cost_usd: float | None = None,
        doubtful_usd: float | None = None,
        doubtful: bool = False,
        text: str | None = None,
        finish_reason: str | None = None,
        price: tuple[float, float] = (0.0, 0.0),
        how: How | None = None,
    ) -> "asyncio.Future[None]":
        """Book, as `done` does, an attempt without a caption: `doubtful` if it may be billed all the same."""
        statement = (
            "UPDATE requests SET state = 'failed', error_kind = ?, error = ?, reserved_usd = NULL, "
            f"prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, {_COST}, "
            "doubtful = doubtful + ?, doubtful_usd = doubtful_usd + ?, finish_reason = ?, "
            "changed_at = ? WHERE key = ?"
        )
        used = (usage.prompt_tokens, usage.completion_tokens, cost_usd, usage != _UNUSED, *price, cost_usd)
        doubt = (int(doubtful), doubtful_usd or 0.0)
        values = (kind, error[:500], *used, *doubt, finish_reason, time.time(), key)
        said = ((_SAY, (text, key)),) if text is not None else ()
        remedied = ((_REMEDIED, (*how, key)),) if how else ()
        return self._book((statement, values), *said, *remedied)

    def remedied(self, key: bytes) -> tuple[str | None, list[str]]:
        """(kind of its last failure, steps taken) of a request."""
        statement = "SELECT error_kind, steps FROM requests LEFT JOIN remedies USING (id) WHERE key = ?"
        try:
            kind, steps = self._reader.execute(statement, (key,)).fetchone() or (None, None)
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error
        return kind, (steps or "").split()

    async def condemn(self, keys: Sequence[bytes], kind: str, error: str) -> None:
        """Book captions as failures after all. Their words stay, and can be reinstated."""
        statement = (
            "UPDATE requests SET state = 'failed', error_kind = ?, error = ? WHERE key = ? AND state = 'done'"
        )
        await self._book(*((statement, (kind, error, key)) for key in keys))

    async def reinstate(self, kind: str) -> None:
        """Take back what `condemn` did."""
        statement = "UPDATE requests SET state = 'done', error_kind = NULL, error = NULL WHERE error_kind = ?"
        await self._book((statement, (kind,)))

    async def probed(self, layer: str, alike: float, apart: float) -> None:
        """Book an outcome of the canary."""
        await self._book(("INSERT INTO probes (layer, alike, apart) VALUES (?, ?, ?)", (layer, alike, apart)))

    def probes(self, layer: str, newest: int) -> list[tuple[float, float]]:
        """The newest outcomes of a layer's canary, (alike, apart), oldest first."""
        statement = "SELECT alike, apart FROM probes WHERE layer = ? ORDER BY id DESC LIMIT ?"
        try:
            return self._reader.execute(statement, (layer, newest)).fetchall()[::-1]
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error

    def spent_on(self, prompt_id: str) -> tuple[float, int]:
        """(USD, requests) of all requests under this prompt id, at worst case where it isn't known."""
        return spent_on(self._reader, prompt_id, self.path)

    def look_up(self, keys: Sequence[bytes], *, texts: bool = True) -> dict[bytes, Entry]:
        """The entries that exist, by key. At most some hundreds of keys at a time."""
        return look_up(self._reader, keys, self.path, texts=texts)

    def plainly_done(self, keys: Sequence[bytes]) -> list[Plain | None]:
        """Most of those that are done without doubts, quickly; `look_up` knows of the others, here None."""
        return plainly_done(self._reader, keys, self.path)

    def _book(self, *statements: Statement) -> "asyncio.Future[None]":
        """Have the statements made in one commit; the change is made even if nobody waits for it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fit = tuple((statement, tuple(map(_fit, values))) for statement, values in statements)
        self._queue.put((fit, future))
        return future

    def _write(self) -> None:
        """The writer thread: one commit for all changes that have gathered."""
        broken: Exception | None = None
        while True:
            items = [self._queue.get()]
            time.sleep(GATHER_S)
            while not self._queue.empty():
                items.append(self._queue.get())
            batch = [item for item in items if item is not None]
            if batch:
                broken = broken or self._commit(statements for statements, _ in batch)
                _settle([future for _, future in batch], broken)
            if len(batch) < len(items):  # the ledger is being closed
                return

    def _commit(self, changes: Iterable[tuple[Statement, ...]]) -> Exception | None:
        try:
            with self._writer as db:
                for statements in changes:
                    for statement, values in statements:
                        db.execute(statement, values)
        except sqlite3.Error as error:
            return ledger_error(error, self.path)
        except Exception as error:  # noqa: BLE001 - who waits must hear of it, or waits for ever
            return error
        return None


def _fit(value: Any) -> Any:
    """`value` as SQLite takes it."""
    return storable(value) if isinstance(value, str) else value


def _settle(futures: Sequence["asyncio.Future[None]"], error: BaseException | None) -> None:
    """Tell those who wait that their changes are on disk, or why not: one call into the loop for them all."""

    def tell() -> None:
        for future in futures:
            if future.done():  # its worker was cancelled in the meantime
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # seen: not everybody waits, and what is booked next fails too

    with contextlib.suppress(RuntimeError):  # the loop was closed, perhaps just now: nobody waits any more
        futures[0].get_loop().call_soon_threadsafe(tell)


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing, making it if need be."""
    db = sqlite3.connect(path, check_same_thread=False, timeout=30)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, VERSION):
        db.close()
        todo = "use the sharecap that made it"
        raise SharecapError(
            f"the ledger has version {version}, this sharecap knows {VERSION}", where=path, todo=todo
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # an answer must outlive a power cut too
    db.executescript(_SCHEMA)
    return db


def read_only(path: Path) -> sqlite3.Connection | None:
    """Open the ledger, or another file of its kind, for reading from any thread; None if there is none yet.

    Beside it, SQLite puts a file for who shares it. Where none can be put, nobody writes, and it needs none.
    """
    if not path.exists():
        return None
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    address = f"file:{_quoted(path)}?" + ("immutable=1" if alone else "mode=ro")
    try:
        return sqlite3.connect(address, uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error


def look_up(
    db: sqlite3.Connection, keys: Sequence[bytes], path: Path, *, texts: bool = True
) -> dict[bytes, Entry]:
    """The entries that exist, by key; quicker where their `texts` are not needed."""
    if not keys:
        return {}
    marks = ",".join("?" * len(keys))
    text, joined = "NULL", ""
    if texts:
        text = "text, captioner, remedies.prompt_id, steps"
        joined = " LEFT JOIN texts USING (id) LEFT JOIN remedies USING (id)"
    try:
        rows = db.execute(f"SELECT {_COLUMNS}, {text} FROM requests{joined} WHERE key IN ({marks})", keys)
        return {row[0]: Entry(*row) for row in rows}
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error


def spent_on(db: sqlite3.Connection, prompt_id: str, path: Path) -> tuple[float, int]:
    """(USD, requests) of all requests under this prompt id."""
    statement = (
        "SELECT total(cost_usd) + total(doubtful_usd) + total(reserved_usd), count(*) FROM requests "
        "WHERE prompt_id = ?"
    )
    try:
        usd, requests = db.execute(statement, (prompt_id,)).fetchone()
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error
    return usd, requests


def plainly_done(db: sqlite3.Connection, keys: Sequence[bytes], path: Path) -> list[Plain | None]:
    """For each request: it, if it is done, had no doubtful attempt and lies where its neighbours do.

    `keys` are in the catalog's order. That is about the order in which requests were sent, and so the order
    of their rows, which are read in one go: a fraction of the time that looking up each key takes. What lies
    elsewhere, as after a pilot, is None here like all the others: `look_up` knows.
    """
    probes = [*keys[:: max(1, len(keys) // 8)], *keys[-1:]]
    marks = ",".join("?" * len(probes))
    try:
        found = db.execute(f"SELECT min(id), max(id) FROM requests WHERE key IN ({marks})", probes)
        first, last = found.fetchone()
        if first is None or last - first > MOST_ROWS * len(keys):
            return [None] * len(keys)
        margin = len(keys) // 50  # many at a time are sent in a slightly different order
        rows = db.execute(
            "SELECT key, cost_usd, prompt_tokens, completion_tokens FROM requests "
            "WHERE id BETWEEN ? AND ? AND state = 'done' AND doubtful = 0 AND doubtful_usd = 0",
            (first - margin, last + margin),
        )
        near: dict[bytes, Plain] = {row[0]: row for row in rows}
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error
    return list(map(near.get, keys))


def ledger_error(error: sqlite3.Error, path: Path) -> SharecapError:
    """What SQLite says, as one line that tells what to do."""
    text = str(error)
    if "full" in text or "disk I/O error" in text:
        todo = "free some space and run the same command again: it goes on from there"
        return SharecapError(f"cannot write the ledger ({text})", where=path, todo=todo)
    if "malformed" in text or "not a database" in text:
        todo = "restore it from a copy, or move it away to start anew (answers in it are then asked again)"
        return SharecapError(f"the ledger is damaged ({text})", where=path, todo=todo)
    return SharecapError(f"the ledger failed ({text})", where=path)


def _quoted(path: Path) -> str:
    return quote(str(path.resolve()))
