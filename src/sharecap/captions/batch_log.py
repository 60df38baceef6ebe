"""What is in batches: DATASET/batches.sqlite, written before a batch can exist at the server.

A batch goes from `filling` (its file is being written) over `recorded` (it may exist at the server) and
`created` (it does, under `batch_id`) to `settled` (every request of it has its outcome in the ledger) or
`dropped` (it never came to be). It must never hold a key, nor pixels.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sharecap.captions.ledger import ledger_error
from sharecap.captions.plan import PIECE, Job
from sharecap.captions.prompts import Prompt
from sharecap.errors import SharecapError
from sharecap.records import Image

NAME = "batches.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY,
    tag TEXT NOT NULL UNIQUE,       -- in the batch's metadata at the server, by which it is found again
    server TEXT NOT NULL,
    plan TEXT NOT NULL,             -- digest of captioner, pack and sampling
    state TEXT NOT NULL CHECK (state IN ('filling', 'recorded', 'created', 'settled', 'dropped')),
    file_id TEXT,
    batch_id TEXT,
    requests INTEGER NOT NULL DEFAULT 0,
    changed_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS prompts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    batch INTEGER NOT NULL REFERENCES batches,
    image TEXT NOT NULL,            -- as JSON
    prompt_id TEXT NOT NULL,
    prompt INTEGER NOT NULL REFERENCES prompts,
    max_tokens INTEGER NOT NULL,
    image_tokens INTEGER NOT NULL,
    worst_usd REAL,
    steps TEXT NOT NULL             -- the remedies that were taken before (remedy.py)
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_batch_key ON jobs (batch, key);
PRAGMA user_version = 1;
"""
_BATCH = "id, tag, server, plan, state, file_id, batch_id, requests"
_OUT = "state IN ('filling', 'recorded', 'created')"


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as the log knows it."""

    id: int
    tag: str
    server: str
    plan: str
    state: str
    file_id: str | None
    batch_id: str | None
    requests: int


@dataclass(frozen=True, slots=True)
class Booked:
    """A request in a batch, and the USD set aside for it."""

    job: Job
    worst_usd: float | None
    steps: tuple[str, ...] = ()  # the remedies that were taken before


def batches_out(dataset: Path) -> list[Batch]:
    """The batches whose answers are still to come in."""
    path = dataset / NAME
    if not path.exists():
        return []
    with BatchLog(path) as log:
        return log.out()


class BatchLog:
    """Use as a context manager; one at a time per dataset (the caller holds the dataset)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "BatchLog":
        try:
            self._db = sqlite3.connect(self.path, timeout=30)
            if self._db.execute("PRAGMA user_version").fetchone()[0] not in (0, 1):
                raise SharecapError("the batches' log is of a newer sharecap", where=self.path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def begin(self, tag: str, server: str, plan: str) -> Batch:
        """A new batch without requests."""
        self._write(
            "INSERT INTO batches (tag, server, plan, state, changed_at) VALUES (?, ?, ?, 'filling', ?)",
            (tag, server, plan, time.time()),
        )
        row = self._db.execute(f"SELECT {_BATCH} FROM batches WHERE tag = ?", (tag,)).fetchone()
        return Batch(*row)

    def add(self, batch: Batch, booked: Sequence[Booked]) -> None:
        """Put requests into a batch that is being filled. When this returns, they are on disk."""
        try:
            with self._db as db:
                for one in booked:
                    job = one.job
                    db.execute("INSERT OR IGNORE INTO prompts (text) VALUES (?)", (job.prompt.text,))
                    db.execute(
                        "INSERT INTO jobs (key, batch, image, prompt_id, prompt, max_tokens, image_tokens, "
                        "worst_usd, steps) SELECT ?, ?, ?, ?, id, ?, ?, ?, ? FROM prompts WHERE text = ?",
                        (
                            job.key,
                            batch.id,
                            json.dumps(asdict(job.image), ensure_ascii=False),
                            job.prompt.id,
                            job.max_tokens,
                            job.image_tokens,
                            one.worst_usd,
                            " ".join(one.steps),
                            job.prompt.text,
                        ),
                    )
                db.execute("UPDATE batches SET requests = requests + ? WHERE id = ?", (len(booked), batch.id))
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error

    def mark(
        self, batch: Batch, state: str, *, file_id: str | None = None, batch_id: str | None = None
    ) -> Batch:
        """Note a batch's new state; settled and dropped ones let go of their requests."""
        self._write(
            "UPDATE batches SET state = ?, file_id = coalesce(?, file_id), "
            "batch_id = coalesce(?, batch_id), changed_at = ? WHERE id = ?",
            (state, file_id, batch_id, time.time(), batch.id),
        )
        if state in ("settled", "dropped"):
            self._write("DELETE FROM jobs WHERE batch = ?", (batch.id,))
        return Batch(*self._db.execute(f"SELECT {_BATCH} FROM batches WHERE id = ?", (batch.id,)).fetchone())

    def out(self) -> list[Batch]:
        """The batches whose answers are still to come in, oldest first."""
        return [
            Batch(*row) for row in self._db.execute(f"SELECT {_BATCH} FROM batches WHERE {_OUT} ORDER BY id")
        ]

    def jobs(self, batch: Batch, keys: Sequence[bytes] | None = None) -> Iterator[list[Booked]]:
        """The requests of a batch, or those among them with these keys, some hundreds at a time."""
        where, values = "batch = ?", [batch.id]
        if keys is not None:
            where += f" AND key IN ({','.join('?' * len(keys))})"
        last = 0
        while True:
            rows = self._db.execute(
                "SELECT jobs.id, key, image, prompt_id, text, max_tokens, image_tokens, worst_usd, steps "
                f"FROM jobs JOIN prompts ON prompts.id = jobs.prompt WHERE {where} AND jobs.id > ? "
                f"ORDER BY jobs.id LIMIT {PIECE}",
                [*values, *(keys or ()), last],
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [
                Booked(
                    Job(Image(**json.loads(image)), Prompt(prompt_id, text), key, max_tokens, image_tokens),
                    worst,
                    tuple(steps.split()),
                )
                for _, key, image, prompt_id, text, max_tokens, image_tokens, worst, steps in rows
            ]

    def _write(self, statement: str, values: Sequence[object]) -> None:
        try:
            with self._db as db:
                db.execute(statement, values)
        except sqlite3.Error as error:
            raise ledger_error(error, self.path) from error
