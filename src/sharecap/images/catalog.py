"""The catalog: what images a dataset has, in a fixed order. Pixels are never copied; it names where they lie.

`add` is idempotent: the same bytes are the same image, once. Killed at any moment it leaves a whole catalog.
"""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.artifact import write_atomically
from sharecap.errors import Interrupted, SharecapError, UsageError
from sharecap.images.dataset import FAILURES, INDEX, disk_errors, held
from sharecap.images.decode import MAX_PIXELS
from sharecap.images.folder import Candidate, Failure, Known, candidates, examine
from sharecap.images.progress import Progress
from sharecap.records import Image

SCHEMA = pa.schema([(f.name, pa.int64() if f.type is int else pa.string()) for f in fields(Image)])
ROWS = 10_000
"""Images per row group: what is held in memory at a time."""

HARVEST = 20_000
"""Files after which the catalog is published anew, so that a crash doesn't cost hours of decoding."""

MANY = 200
"""From so many files on, decoding uses all cores; below, one is enough."""


@dataclass(frozen=True)
class AddReport:
    """What one `add` did. `added + known + failed` is the number of image files looked at."""

    dataset: str
    added: int
    known: int  # same bytes as an image of the catalog or of this run
    ignored: int  # files that aren't named like images
    failed: dict[str, int] = field(default_factory=dict)  # reason -> files, in this run
    images: int = 0  # in the catalog now


@dataclass(frozen=True)
class CheckReport:
    """What a look at the dataset found; `missing` and `changed` are images whose file is not what it was."""

    dataset: str
    images: int
    sources: dict[str, int]
    failed: dict[str, int]  # reason -> files that could not be taken
    missing: list[str]
    changed: list[str]


@dataclass(frozen=True)
class Catalog:
    """The images of one dataset. Iterating reads the table in pieces and keeps its order."""

    dataset: Path
    table: Path
    digest: str  # over ids, sources, alt-texts and licences in order; not over paths, which may move
    images: int

    @classmethod
    def open(cls, dataset: Path) -> "Catalog":
        """The dataset's catalog; `SharecapError` if there is none."""
        try:
            index = json.loads((dataset / INDEX).read_text(encoding="utf-8"))
            catalog = cls(dataset, dataset / index["catalog"], index["digest"], index["images"])
        except (FileNotFoundError, NotADirectoryError):
            todo = f"make one: sharecap add FOLDER --to {dataset}"
            raise SharecapError("no dataset here", where=dataset, todo=todo) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SharecapError(f"damaged dataset ({error})", where=dataset / INDEX) from None
        if not catalog.table.is_file():
            raise SharecapError(
                "the catalog's table is gone", where=catalog.table, todo="add the images again"
            )
        return catalog

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[Image]:
        try:
            with pq.ParquetFile(self.table) as table:
                for batch in table.iter_batches(ROWS):
                    for row in batch.to_pylist():
                        yield Image(**row)
        except (pa.ArrowException, TypeError) as error:
            raise SharecapError(f"damaged catalog ({error})", where=self.table) from None

    def ids(self) -> set[str]:
        """The ids of all images."""
        with pq.ParquetFile(self.table) as table:
            batches = table.iter_batches(ROWS, columns=["id"])
            return {value for batch in batches for value in batch.column(0).to_pylist()}


def add(
    sources: Sequence[Path],
    dataset: Path,
    source: str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> AddReport:
    """Take the images of files and folders into the dataset, which is made if need be.

    Files that can't be taken are counted by reason and named in `failures.jsonl`; only a missing source or a
    dataset that can't be written is an error.
    """
    if source is not None and not source.strip():
        raise UsageError("the source's name is empty", todo="leave --source out or give it a name")
    for root in sources:
        if not root.exists():
            raise UsageError("no such file or folder", where=root, todo="give a folder of images")
    with disk_errors(dataset):
        _claim(dataset)
        with held(dataset):
            return _add(sources, dataset, source, max_pixels, progress or Progress("looked at", quiet=True))


def _claim(dataset: Path) -> None:
    try:
        str(dataset.resolve()).encode()
    except UnicodeEncodeError:  # no table can be opened there
        todo = "choose another name for the dataset"
        raise UsageError("the dataset's path is not UTF-8", where=ascii(str(dataset)), todo=todo) from None
    if dataset.exists() and not dataset.is_dir():
        raise UsageError("the dataset must be a directory", where=dataset)
    if dataset.is_dir() and not (dataset / INDEX).exists():
        foreign = [p.name for p in dataset.iterdir() if not _ours(p.name)]
        if foreign:
            todo = "choose an empty or new directory for the dataset"
            raise UsageError(f"directory holds other files ({sorted(foreign)[0]})", where=dataset, todo=todo)
    dataset.mkdir(parents=True, exist_ok=True)


def _ours(name: str) -> bool:
    return name in (".lock", FAILURES) or name.endswith(".partial") or name.startswith("catalog-")


@dataclass
class _Harvest:
    """What a stretch of files came to, before it is published."""

    looked_at: int = 0
    known: int = 0
    new: int = 0
    failures: list[Failure] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # paths that are images, whose earlier failures are past
    moved: dict[str, str] = field(default_factory=dict)  # id -> path, where a known image lies too
    interrupted: bool = False


def _add(
    sources: Sequence[Path], dataset: Path, source: str | None, max_pixels: int, progress: Progress
) -> AddReport:
    catalog = Catalog.open(dataset) if (dataset / INDEX).exists() else None
    seen = catalog.ids() if catalog else set()
    before, ignored, known = len(seen), 0, 0
    failed: Counter[str] = Counter()

    def wanted() -> Iterator[Candidate]:
        nonlocal ignored
        for candidate in (c for root in sources for c in candidates(root, source)):
            if candidate is None:
                ignored += 1
            else:
                yield candidate

    results = _examined(wanted(), frozenset(bytes.fromhex(i) for i in seen), max_pixels)
    fresh = dataset / "fresh.partial"
    try:
        with progress.shown():
            while True:
                # A crash costs one harvest. They grow with the catalog, so that publishing stays cheap.
                size = max(HARVEST, len(seen) // 4)
                harvest = _harvest(islice(results, size), fresh, seen, progress)
                catalog = _publish(dataset, catalog, fresh, harvest)
                known += harvest.known
                failed.update(failure.reason for failure in harvest.failures)
                if harvest.interrupted or harvest.looked_at < size:
                    break
    finally:
        fresh.unlink(missing_ok=True)
    if harvest.interrupted:
        todo = "run the same command again to take in the rest"
        raise Interrupted(f"interrupted; {len(catalog):,} images are in", where=dataset, todo=todo)
    added = len(seen) - before
    return AddReport(str(dataset), added, known, ignored, dict(sorted(failed.items())), len(catalog))


def _harvest(
    results: Iterable[Image | Known | Failure], fresh: Path, seen: set[str], progress: Progress
) -> _Harvest:
    """Sort `results`, writing new images to the table `fresh` and their ids into `seen`."""
    found, rows = _Harvest(), list[Image]()
    with pq.ParquetWriter(fresh, SCHEMA) as writer:
        try:
            for result in results:
                found.looked_at += 1
                if isinstance(result, Failure):
                    found.failures.append(result)
                    progress.failed += 1
                else:
                    found.taken.add(result.path)
                    if isinstance(result, Known) or result.id in seen:
                        found.known += 1
                        found.moved.setdefault(result.id, result.path)
                    else:
                        found.new += 1
                        seen.add(result.id)
                        rows.append(result)
                if len(rows) >= ROWS:
                    writer.write_table(_table(rows))
                    rows.clear()
                progress.done += 1
                progress.tick()
        except KeyboardInterrupt:
            found.interrupted = True
        if rows:
            writer.write_table(_table(rows))
    return found


def _examined(
    wanted: Iterable[Candidate], known: frozenset[bytes], max_pixels: int
) -> Iterator[Image | Known | Failure]:
    """Results in the order of `wanted`, from all cores if there are many."""
    wanted = iter(wanted)
    first = list(islice(wanted, MANY))
    cores = os.cpu_count() or 1
    if len(first) < MANY or cores == 1:
        yield from (examine(c, known, max_pixels) for c in chain(first, wanted))
        return
    # Threads, not processes: reading, hashing and decoding all let go of the interpreter.
    with ThreadPoolExecutor(cores) as pool:
        waiting: deque[Future[Image | Known | Failure]] = deque()
        try:
            for candidate in chain(first, wanted):
                waiting.append(pool.submit(examine, candidate, known, max_pixels))
                if len(waiting) > 4 * cores:  # bounded, so that millions of files never queue up
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _table(rows: Sequence[Image]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def _publish(dataset: Path, old: Catalog | None, fresh: Path, harvest: _Harvest) -> Catalog:
    """Write old and fresh rows as one table, name it in the index, remove the table before it."""
    _record_failures(dataset, harvest)
    if old and not harvest.new and all(image == _at_home(image, harvest.moved) for image in old):
        return old
    total, images = hashlib.sha256(), 0
    unnamed = dataset / "catalog.partial"

    def digested(rows: Sequence[Image]) -> pa.Table:
        nonlocal images
        images += len(rows)
        for row in rows:
            what = [row.id, row.source, row.alt_text, row.licence]
            total.update(json.dumps(what, ensure_ascii=False).encode())
        return _table(rows)

    with pq.ParquetWriter(unnamed, SCHEMA, compression="zstd") as writer:
        kept = iter(old or ())
        while rows := [_at_home(image, harvest.moved) for image in islice(kept, ROWS)]:
            writer.write_table(digested(rows))
        with pq.ParquetFile(fresh) as table:
            for batch in table.iter_batches(ROWS):
                writer.write_table(digested([Image(**row) for row in batch.to_pylist()]))
    digest = total.hexdigest()
    name = f"catalog-{digest[:12]}.parquet"
    with open(unnamed, "rb") as f:
        os.fsync(f.fileno())
    os.replace(unnamed, dataset / name)
    index = {"kind": "dataset", "version": 1, "catalog": name, "digest": digest, "images": images}
    write_atomically(dataset / INDEX, json.dumps(index, indent=1))
    for stale in dataset.glob("catalog-*.parquet"):
        if stale.name != name:
            stale.unlink()
    return Catalog(dataset, dataset / name, digest, images)


def _at_home(image: Image, moved: dict[str, str]) -> Image:
    """`image`, at its new place if the old one is gone."""
    elsewhere = moved.get(image.id)
    if elsewhere is None or elsewhere == image.path or Path(image.path).exists():
        return image
    return replace(image, path=elsewhere)


def _record_failures(dataset: Path, harvest: _Harvest) -> None:
    before = failures_of(dataset)
    if not before and not harvest.failures:
        return
    again = {f.path for f in harvest.failures} | harvest.taken
    kept = [f for f in before if f.path not in again]
    lines = [json.dumps(asdict(f), ensure_ascii=False) for f in [*kept, *harvest.failures]]
    write_atomically(dataset / FAILURES, "".join(line + "\n" for line in lines))


def failures_of(dataset: Path) -> list[Failure]:
    """The files that could not be taken, over all `add`s, as `failures.jsonl` names them."""
    path = dataset / FAILURES
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8") as lines:
            return [Failure(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise SharecapError(f"damaged list of failures ({error})", where=path) from None


def check(dataset: Path) -> CheckReport:
    """Count the images per source and name those whose file is missing or has another size."""
    catalog = Catalog.open(dataset)
    sources: Counter[str] = Counter()
    missing, changed = [], []
    for image in catalog:
        sources[image.source] += 1
        try:
            if os.stat(image.path).st_size != image.bytes:
                changed.append(image.path)
        except OSError:
            missing.append(image.path)
    failed = Counter(f.reason for f in failures_of(dataset))
    return CheckReport(
        str(dataset),
        len(catalog),
        dict(sorted(sources.items())),
        dict(sorted(failed.items())),
        missing,
        changed,
    )


def added_lines(report: AddReport) -> list[str]:
    """For people."""
    lines = [
        f"{report.dataset}: {report.images:,} images ({report.added:,} new, {report.known:,} known before)"
    ]
    lines += [_counted("could not be taken", report.failed, report.dataset)] if report.failed else []
    if report.ignored:
        lines.append(f"ignored {report.ignored:,} files that are not named like images")
    return lines


def checked_lines(report: CheckReport) -> list[str]:
    """For people."""
    lines = [f"{report.dataset}: {report.images:,} images"]
    lines += [f"  {name:<16} {count:>9,}" for name, count in report.sources.items()]
    lines += [_counted("could not be taken", report.failed, report.dataset)] if report.failed else []
    for what, paths in (("missing", report.missing), ("changed", report.changed)):
        if paths:
            lines.append(f"{what}: {len(paths):,} images, for example {paths[0]}")
    return lines


def _counted(what: str, counts: dict[str, int], dataset: str) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    return f"{what}: {kinds} (named in {Path(dataset) / FAILURES})"
