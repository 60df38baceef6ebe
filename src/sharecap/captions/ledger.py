"""The ledger: every request, its state and what it cost, in SQLite. Nothing paid for is lost (invariant 1).

One thread writes; all changes that gather while it commits go into its next commit. A change's future is
done only when the change is on disk. States: `sent` (on disk before the request leaves), `done`, `failed`.
It must never hold an API key, nor pixels.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

from sharecap.errors import SharecapError
from sharecap.records import Usage

VERSION = 1
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
    text TEXT,
    changed_at REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS requests_key ON requests (key);
PRAGMA user_version = {VERSION};
"""

_UNUSED = Usage()
_COLUMNS = (
    "key, state, attempts, doubtful, doubtful_usd, reserved_usd, cost_usd, prompt_tokens, completion_tokens, "
    "error_kind, error, finish_reason, text"
)


@dataclass(frozen=True, slots=True)
class Entry:
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
    text: str | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that were out when an earlier run was killed: they may be sent and charged a second time."""

    requests: int = 0
    usd: float | None = None  # what they can have cost; None: no price was known


Change = tuple[str, tuple[Any, ...]]


class Ledger:
    """Use as a context manager; one at a time per dataset (the caller holds the dataset)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.in_flight = InFlight()
        self._queue: SimpleQueue[tuple[Change, Callable[[BaseException | None], None]] | None] = SimpleQueue()
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
                "SELECT count(*), sum(reserved_usd), count(reserved_usd) FROM requests WHERE state = 'sent'"
            ).fetchone()
            if count:
                db.execute(
                    "UPDATE requests SET state = 'failed', error_kind = 'in_flight', "
                    "error = 'the run was killed while the request was out', doubtful = doubtful + 1, "
                    "doubtful_usd = doubtful_usd + coalesce(reserved_usd, 0), reserved_usd = NULL "
                    "WHERE state = 'sent'"
                )
        return InFlight(count, usd if priced else None)

    async def sent(
        self, key: bytes, image_id: str, model: str, prompt_id: str, worst_usd: float | None
    ) -> None:
        """Book an attempt. When this returns, the attempt is on disk and the request may leave."""
        await self._book(
            "INSERT INTO requests "
            "(key, image_id, model, prompt_id, state, attempts, reserved_usd, changed_at) "
            "VALUES (?, ?, ?, ?, 'sent', 1, ?, ?) ON CONFLICT (key) DO UPDATE SET state = 'sent', "
            "attempts = attempts + 1, reserved_usd = excluded.reserved_usd, changed_at = excluded.changed_at",
            (key, image_id, model, prompt_id, worst_usd, time.time()),
        )

    async def done(
        self, key: bytes, text: str, finish_reason: str, usage: Usage, cost_usd: float | None
    ) -> None:
        """Book a caption. When this returns, it is on disk."""
        await self._book(
            "UPDATE requests SET state = 'done', text = ?, finish_reason = ?, error_kind = NULL, "
            "error = NULL, reserved_usd = NULL, "
            "prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, "
            "cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE coalesce(cost_usd, 0) + ? END, changed_at = ? "
            "WHERE key = ?",
            (
                text,
                finish_reason,
                usage.prompt_tokens,
                usage.completion_tokens,
                cost_usd,
                cost_usd,
                time.time(),
                key,
            ),
        )

    async def failed(
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
    ) -> None:
        """Book an attempt that brought no caption: `doubtful` if it may be billed all the same."""
        await self._book(
            "UPDATE requests SET state = 'failed', error_kind = ?, error = ?, reserved_usd = NULL, "
            "prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, "
            "cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE coalesce(cost_usd, 0) + ? END, "
            "doubtful = doubtful + ?, doubtful_usd = doubtful_usd + ?, text = ?, finish_reason = ?, "
            "changed_at = ? WHERE key = ?",
            (
                kind,
                error[:500],
                usage.prompt_tokens,
                usage.completion_tokens,
                cost_usd,
                cost_usd,
                int(doubtful),
                doubtful_usd or 0.0,
                text,
                finish_reason,
                time.time(),
                key,
            ),
        )

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries that exist, by key. At most some hundreds of keys at a time."""
        return look_up(self._reader, keys, self.path)

    async def _book(self, statement: str, values: tuple[Any, ...]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve(error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        # A worker cancelled in the meantime never asks; what failed is raised by the one that wasn't.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._queue.put(((statement, values), lambda error: _call(loop, resolve, error)))
        await asyncio.shield(future)  # the change is made even if nobody waits for it any more

    def _write(self) -> None:
        """The writer thread: one commit for all changes that have gathered."""
        broken: SharecapError | None = None
        while True:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            batch = [item for item in items if item is not None]
            if batch:
                broken = broken or self._commit([change for change, _ in batch])
            for _, resolve in batch:
                resolve(broken)
            if len(batch) < len(items):  # the ledger is being closed
                return

    def _commit(self, changes: Iterable[Change]) -> SharecapError | None:
        try:
            with self._writer as db:
                for statement, values in changes:
                    db.execute(statement, values)
        except sqlite3.Error as error:
            return ledger_error(error, self.path)
        return None


def _call(
    loop: asyncio.AbstractEventLoop,
    resolve: Callable[[BaseException | None], None],
    error: BaseException | None,
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed, perhaps just now: nobody waits any more
        loop.call_soon_threadsafe(resolve, error)


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
    """Open the ledger for reading; None if there is none yet."""
    if not path.exists():
        return None
    try:
        return sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error


def look_up(db: sqlite3.Connection, keys: Sequence[bytes], path: Path) -> dict[bytes, Entry]:
    """The entries that exist, by key."""
    if not keys:
        return {}
    marks = ",".join("?" * len(keys))
    try:
        rows = db.execute(f"SELECT {_COLUMNS} FROM requests WHERE key IN ({marks})", list(keys))
        return {row[0]: Entry(*row) for row in rows}
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error


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
