"""Downloads the images of a list of addresses into a dataset, so that they can be added like any files.

DATASET/downloads/
  files/ab/<sha256>.jpg     whole images, named by their digest and never by their address
  addresses.sqlite          what became of every address; written after its file is in place
  <list>-<digest>.parquet   the list's rows with their files, or why there is none

Killed at any moment, the next run fetches again what was under way, and nothing else. It must never leave
half a file under a whole one's name.
"""

import asyncio
import hashlib
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.artifact import file_digest, partial_of
from sharecap.errors import Interrupted, SharecapError, UsageError
from sharecap.images.candidate import Candidate, Options
from sharecap.images.dataset import DOWNLOADS, disk_errors, held
from sharecap.images.decode import ImageError, open_header, read_bytes
from sharecap.images.fetch import AGAIN, Fetched, Fetcher, FetchError, Limits
from sharecap.images.host_queue import HostQueue
from sharecap.images.progress import Progress
from sharecap.images.url_list import Listed, private_host, read_list

FILES, INCOMING, STATE = "files", "incoming", "addresses.sqlite"
PIECE = 500
"""Rows of a list that are looked up at a time."""

GIVE_UP = 5
"""Failures to reach a host in a row after which it is left to the next run."""

DEFAULT_LIMITS, DEFAULT_OPTIONS = Limits(), Options()

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("url", "source", "alt_text", "licence", "path", "sha256")),
        ("bytes", pa.int64()),
        *((name, pa.string()) for name in ("problem", "what")),
    ]
)


@dataclass(frozen=True)
class Downloads:
    """What became of a list. `there + repeated + failed` is the number of its rows."""

    table: str  # Parquet: url, source, alt_text, licence, path, sha256, bytes, problem, what
    rows: int
    there: int  # images on disk
    fetched: int  # of them, in this run
    repeated: int  # rows whose address stood in the list before
    requests: int  # addresses asked in this run, counting each attempt; hosts' robots.txt don't count
    bytes: int  # of the images on disk, counting equal ones twice
    failed: dict[str, int] = field(default_factory=dict)  # kind -> rows
    again: int = 0  # of the failed, those that the next run tries again


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of an address."""

    sha256: str = ""
    name: str = ""  # of the file, below `files`
    bytes: int = 0
    kind: str = ""  # "" for an image
    what: str = ""


def download(
    path: Path,
    dataset: Path,
    options: Options = DEFAULT_OPTIONS,
    *,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Downloads:
    """Fetch every address of the list `path` that isn't there yet; failures are counted and named.

    What failed on the way (`AGAIN`) is tried again by the next call, the rest with `options.retry_failed`.
    `Interrupted` on Ctrl-C; the same call goes on. `candidates_of` gives the images to `add`.
    """
    if not path.is_file():
        raise UsageError("no such list", where=path, todo="give a .txt, .csv, .tsv or .parquet file")
    home = dataset / DOWNLOADS
    progress = progress or Progress("downloaded", quiet=True)
    with disk_errors(dataset):
        home.mkdir(parents=True, exist_ok=True)
        with held(home), _State(home / STATE) as state:
            shutil.rmtree(home / INCOMING, ignore_errors=True)  # what a kill left
            (home / INCOMING).mkdir()
            progress.total, private = _survey(path, options)
            wanted = _Wanted(path, options, home, state, progress)
            try:
                with progress.shown():
                    queue = HostQueue(wanted.rows(), limits.per_host)
                    run = _Run(home, state, limits, frozenset(private), queue, progress)
                    asyncio.run(run.drive())
            except KeyboardInterrupt:
                todo = "run the same command again to go on"
                raise Interrupted("interrupted; what was downloaded is kept", todo=todo) from None
            finally:
                shutil.rmtree(home / INCOMING, ignore_errors=True)
            return _conclude(path, options, home, state, run)


def candidates_of(downloads: Downloads) -> Iterator[Candidate]:
    """The images of the list for `add`, and the addresses without one as named failures."""
    with pq.ParquetFile(downloads.table) as table:
        for batch in table.iter_batches(PIECE):
            for row in batch.to_pylist():
                problem = (row["problem"], row["what"]) if row["problem"] else None
                yield Candidate(
                    path=row["url"] if problem else row["path"],
                    source=row["source"],
                    problem=problem,
                    alt_text=row["alt_text"],
                    licence=row["licence"],
                    url=row["url"],
                    name=row["url"],
                )


def _survey(path: Path, options: Options) -> tuple[int, set[str]]:
    """How many rows the list has, and which private hosts it names."""
    rows, private = 0, set[str]()
    for row in read_list(path, options):
        rows += 1
        if host := private_host(row.url):
            private.add(host)
    return rows, private


class _State:
    """What became of every address, over all runs. One row is one transaction: a kill loses none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS addresses (key BLOB PRIMARY KEY, url TEXT NOT NULL,"
                " sha256 TEXT, name TEXT, bytes INTEGER, kind TEXT, what TEXT)"
            )
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def __enter__(self) -> "_State":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _damaged(self, error: sqlite3.Error) -> SharecapError:
        todo = "make room on the disk; if the file is damaged, remove it and run again"
        return SharecapError(f"cannot keep the list of downloads ({error})", where=self._path, todo=todo)

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, _Outcome]:
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, sha256, name, bytes, kind, what FROM addresses WHERE key IN ({marks})"
        try:
            rows = self._db.execute(query, keys).fetchall()
        except sqlite3.Error as error:
            raise self._damaged(error) from None
        return {key: _Outcome(*outcome) for key, *outcome in rows}

    def put(self, url: str, got: _Outcome) -> None:
        row = (_key(url), url, got.sha256, got.name, got.bytes, got.kind, got.what)
        try:
            self._db.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._damaged(error) from None


def _key(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()[:16]


@dataclass
class _Wanted:
    """The addresses of a list that are still to be asked."""

    path: Path
    options: Options
    home: Path
    state: _State
    progress: Progress

    def rows(self) -> Iterator[str]:
        """Each address once, in the list's order."""
        for url, outcome in _outcomes(self.path, self.options, self.state):
            if isinstance(outcome, _Outcome) and self._settled(outcome):
                self.progress.done += 1
                self.progress.failed += bool(outcome.kind)
            elif outcome == "repeated":
                self.progress.done += 1
            else:
                yield url.url

    def _settled(self, outcome: _Outcome) -> bool:
        if outcome.kind:
            return outcome.kind not in AGAIN and not self.options.retry_failed
        return _is_whole(self.home, outcome)


def _outcomes(path: Path, options: Options, state: _State) -> Iterator[tuple[Listed, _Outcome | str]]:
    """Every row of the list with what became of it: an outcome, "new", or "repeated"."""
    seen, rows = set[int](), read_list(path, options)
    while piece := list(islice(rows, PIECE)):
        keys = [_key(row.url) for row in piece]
        known = state.look_up(keys)
        for key, row in zip(keys, piece, strict=True):
            mark = int.from_bytes(key[:8], "big")  # a set of numbers is half as large as one of keys
            if mark in seen:
                yield row, "repeated"
            else:
                seen.add(mark)
                yield row, known.get(key, "new")


def _is_whole(home: Path, outcome: _Outcome) -> bool:
    try:
        return os.stat(home / FILES / outcome.name).st_size == outcome.bytes
    except OSError:
        return False


@dataclass
class _Run:
    """One pass over what is wanted."""

    home: Path
    state: _State
    limits: Limits
    private: frozenset[str]  # private hosts that the list names
    queue: HostQueue
    progress: Progress
    closed: dict[str, FetchError] = field(default_factory=dict)  # hosts that are asked no more, and why
    unreached: Counter[str] = field(default_factory=Counter)  # failures in a row to get an answer
    requests: int = 0
    fetched: int = 0

    async def drive(self) -> None:
        """Ask until nothing is wanted; raises what the disk raises."""
        limits, queue = self.limits, self.queue
        # Looking up names blocks a thread each; dead hosts must not hold up the others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limits.concurrency))
        out: set[asyncio.Task[None]] = set()
        async with Fetcher(limits, self.private) as fetcher:
            try:
                while queue or out:
                    while len(out) < limits.concurrency and (job := queue.take(time.monotonic())):
                        out.add(asyncio.create_task(self._one(fetcher, *job)))
                    if not out:
                        await asyncio.sleep(queue.wait_s(time.monotonic()))
                        continue
                    wait_s = queue.wait_s(time.monotonic()) if len(out) < limits.concurrency else None
                    done, out = await asyncio.wait(out, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    self.progress.tick()
            finally:
                for task in out:
                    task.cancel()
                await asyncio.gather(*out, return_exceptions=True)

    async def _one(self, fetcher: Fetcher, host: str, url: str, attempts: int) -> None:
        try:
            got = await self._image(fetcher, host, url)
        except FetchError as error:
            if self._retry(host, url, attempts + 1, error):
                return
            self._settle(url, _Outcome(kind=error.kind, what=error.what))
        else:
            self.unreached.pop(host, None)
            self.fetched += 1
            self._settle(url, got)
        finally:
            self.queue.back(host)

    async def _image(self, fetcher: Fetcher, host: str, url: str) -> _Outcome:
        if host in self.closed:
            raise self.closed[host]
        self.requests += 1
        partial = self.home / INCOMING / f"{self.requests}"
        try:
            fetched = await fetcher.fetch(url, partial)
            name = await asyncio.to_thread(_keep, self.home, partial, fetched, url)
        finally:
            partial.unlink(missing_ok=True)
        return _Outcome(fetched.sha256, name, fetched.bytes)

    def _settle(self, url: str, outcome: _Outcome) -> None:
        self.state.put(url, outcome)
        self.queue.settled()
        self.progress.done += 1
        self.progress.failed += bool(outcome.kind)

    def _retry(self, host: str, url: str, attempts: int, error: FetchError) -> bool:
        """Put the address back, if another attempt in this run makes sense."""
        limits, now = self.limits, time.monotonic()
        if host in self.closed:
            return False
        if not error.elsewhere:
            self._note(host, error)
        wait_s = error.retry_after_s or 0.0
        if error.kind not in AGAIN or host in self.closed or wait_s > limits.longest_wait_s:
            return False
        at = now + max(wait_s, limits.pause_s * 2 ** (attempts - 1) * random.uniform(0.8, 1.2))
        if not error.elsewhere and (error.kind == "rate_limited" or wait_s):
            self.queue.rest(host, at)
        if attempts < limits.attempts:
            self.queue.again(at, host, url, attempts)
        return attempts < limits.attempts

    def _note(self, host: str, error: FetchError) -> None:
        """Close the host for this run if it can't be reached, or wants to be left alone for long."""
        why = ""
        if error.kind in ("unreachable", "timeout", "no_such_host", "robots_unreachable"):
            self.unreached[host] += 1
            if error.kind == "no_such_host" or self.unreached[host] >= GIVE_UP:
                why = "the host was asked no more"
        else:
            self.unreached.pop(host, None)
            if error.retry_after_s is not None and error.retry_after_s > self.limits.longest_wait_s:
                why = f"the host asks for a pause of {error.retry_after_s:.0f} s"
        if why:
            self.closed[host] = FetchError(error.kind, f"{error.what}; {why}")


_ENDINGS: Mapping[str, str] = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


def _keep(home: Path, partial: Path, fetched: Fetched, url: str) -> str:
    """Give a body that is an image its place and name; `FetchError` if it is none. Pixels stay undecoded."""
    try:
        form = open_header(read_bytes(partial), url).format or "image"
    except ImageError as error:
        raise FetchError(error.reason, error.what) from None
    name = f"{fetched.sha256[:2]}/{fetched.sha256}.{_ENDINGS.get(form, form.lower())}"
    place = home / FILES / name
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, place)
    return name


def _conclude(path: Path, options: Options, home: Path, state: _State, run: _Run) -> Downloads:
    """Write the list's table and count."""
    table = home / f"{path.stem[:60]}-{file_digest(path)[:12]}.parquet"
    files = (home / FILES).resolve()
    kinds, rows, there, repeated, size = Counter[str](), 0, 0, 0, 0
    pending: list[dict[str, object]] = []
    partial = partial_of(table)
    try:
        with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
            for row, got in _outcomes(path, options, state):
                rows += 1
                if got == "repeated":
                    repeated += 1
                    continue
                assert isinstance(got, _Outcome), "every address was settled"
                kinds[got.kind] += 1
                there, size = there + (not got.kind), size + got.bytes
                columns = {"url": row.url, "source": row.source, "alt_text": row.alt_text}
                columns |= {"licence": row.licence, "sha256": got.sha256, "problem": got.kind}
                where = "" if got.kind else str(files / got.name)
                pending.append({**columns, "what": got.what, "path": where, "bytes": got.bytes})
                if len(pending) >= PIECE:
                    writer.write_table(pa.Table.from_pylist(pending, schema=SCHEMA))
                    pending.clear()
            writer.write_table(pa.Table.from_pylist(pending, schema=SCHEMA))
        os.replace(partial, table)
    finally:
        partial.unlink(missing_ok=True)
    del kinds[""]
    return Downloads(
        table=str(table),
        rows=rows,
        there=there,
        fetched=run.fetched,
        repeated=repeated,
        requests=run.requests,
        bytes=size,
        failed=dict(sorted(kinds.items())),
        again=sum(count for kind, count in kinds.items() if kind in AGAIN),
    )


def downloads_lines(found: Downloads) -> list[str]:
    """For people."""
    lines = [
        f"downloads: {found.there:,} of {found.rows:,} images are there ({found.fetched:,} fetched now, "
        f"{found.bytes / 2**20:,.1f} MiB)"
    ]
    if found.repeated:
        lines.append(f"  {found.repeated:,} addresses stood in the list before")
    if found.failed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.failed.items())
        lines.append(f"  not downloaded: {kinds} (named in {found.table})")
    if found.again:
        lines.append(f"  {found.again:,} of them are tried again when the same command is run again")
    return lines
