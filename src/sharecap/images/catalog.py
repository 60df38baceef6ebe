"""The catalog: what images a dataset has, in a fixed order. Pixels are never copied; it names where they lie.

`add` is idempotent: the same bytes are the same image, once. Killed at any moment it leaves a whole catalog.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.artifact import write_atomically
from sharecap.errors import Interrupted, SharecapError, UsageError
from sharecap.images.candidate import Candidate, Failure, Known, Options
from sharecap.images.crew import LIMIT_S, Crew, Result
from sharecap.images.dataset import DOWNLOADS, FAILURES, INDEX, disk_errors, held
from sharecap.images.decode import MAX_PIXELS
from sharecap.images.left_out import KINDS, LEFT_OUT, counted, left_out
from sharecap.images.listed import Absent, absent
from sharecap.images.place import place_of, presence
from sharecap.images.progress import Progress
from sharecap.images.sources import candidates, must_exist
from sharecap.images.takedown import taken_down
from sharecap.images.url_list import is_url_list
from sharecap.records import Image

if TYPE_CHECKING:
    from sharecap.images.download import Downloads

SCHEMA = pa.schema([(f.name, pa.int64() if f.type is int else pa.string()) for f in fields(Image)])
_NEEDED = sum(f.default is MISSING for f in fields(Image))
"""Columns, the first ones, that every catalog has."""

ROWS = 10_000
"""Images per row group: what is held in memory at a time."""

HARVEST = 20_000
"""Files after which the catalog is published anew, so that a crash doesn't cost hours of decoding."""

_REPAIR = "restore it from a copy"

EXAMPLES = 20
"""Missing and changed images that `check` names for people; `--json` names all."""


@dataclass(frozen=True)
class AddReport:
    """What one `add` did. `added + known + failed` is the number of image files looked at."""

    dataset: str
    added: int
    known: int  # same bytes as an image of the catalog or of this run
    ignored: int  # files that aren't named like images
    failed: dict[str, int] = field(default_factory=dict)  # reason -> files, in this run
    images: int = 0  # in the catalog now
    absent: list[Absent] = field(default_factory=list)  # listed images that aren't there, by set
    downloads: "list[Downloads]" = field(default_factory=list)  # what became of lists of addresses


@dataclass(frozen=True)
class CheckReport:
    """What a look at the dataset found; `missing` and `changed` are images whose place is not as it was."""

    dataset: str
    images: int
    sources: dict[str, int]
    failed: dict[str, int]  # reason -> files that could not be taken
    missing: list[str]
    changed: list[str]
    unlicensed: dict[str, int] = field(default_factory=dict)  # source -> images of unknown licence
    absent: list[Absent] = field(default_factory=list)  # listed images that were never there, by set
    left_out: dict[str, int] = field(default_factory=dict)  # duplicate, overlap -> images dropped


@dataclass(frozen=True)
class Stretch:
    """A row group of the catalog: some thousand images. Only the columns that are asked for are read.

    To be used before the next one is taken.
    """

    at: int  # place of its first image in the catalog
    length: int
    _table: pq.ParquetFile
    _group: int
    _path: Path

    def __len__(self) -> int:
        return self.length

    def column(self, name: str) -> list[str]:
        """One text of each image."""
        values: list[str] = self._read([name]).column(0).to_pylist()
        return values

    def images(self, at: Sequence[int] | None = None) -> Iterator[Image]:
        """The images, or those at some places of the stretch."""
        there = len(self._table.schema_arrow.names)  # older catalogs have fewer columns
        table = self._read(SCHEMA.names[: max(_NEEDED, there)])
        columns = [column.to_pylist() for column in table.columns]
        if at is not None:  # `Table.take` would cost 40 MB of memory
            columns = [[column[n] for n in at] for column in columns]
        return map(Image, *columns)

    def _read(self, columns: list[str]) -> pa.Table:
        try:
            # Reading passes over columns that aren't there; selecting raises.
            return self._table.read_row_group(self._group, columns=columns).select(columns)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise SharecapError(f"damaged catalog ({error})", where=self._path, todo=_REPAIR) from None


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
        for stretch in self.stretches():
            yield from stretch.images()

    def chosen(self, flags: bytes | bytearray) -> Iterator[Image]:
        """The images whose byte in `flags` isn't 0, in order; stretches without one are not read."""
        for stretch in self.stretches(flags):
            here = flags[stretch.at : stretch.at + len(stretch)]
            yield from stretch.images([n for n, flag in enumerate(here) if flag])

    def stretches(self, flags: bytes | bytearray | None = None) -> Iterator[Stretch]:
        """The table in pieces, in order; if `flags` are given, those with an image whose byte isn't 0."""
        at = 0
        try:
            # Buffered ahead, all that was read would stay in memory to the end.
            with pq.ParquetFile(self.table, pre_buffer=False) as table:
                for group in range(table.num_row_groups):
                    length = table.metadata.row_group(group).num_rows
                    if flags is None or any(flags[at : at + length]):
                        yield Stretch(at, length, table, group, self.table)
                    at += length
        except (pa.ArrowException, KeyError) as error:
            raise SharecapError(f"damaged catalog ({error})", where=self.table, todo=_REPAIR) from None

    def ids(self) -> set[str]:
        """The ids of all images."""
        try:
            with pq.ParquetFile(self.table) as table:
                batches = table.iter_batches(ROWS, columns=["id"])
                return {value for batch in batches for value in batch.column(0).to_pylist()}
        except (pa.ArrowException, OSError) as error:
            raise SharecapError(f"damaged catalog ({error})", where=self.table, todo=_REPAIR) from None


def add(
    sources: Sequence[Path],
    dataset: Path,
    options: Options | str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    limit_s: float = LIMIT_S,
    progress: Progress | None = None,
) -> AddReport:
    """Take the images of files, folders, shards, tables and lists into the dataset, which is made if need be.

    `options` says how they are read; a text is the source's name. `limit_s` is how long one image may take to
    be read and decoded. What can't be taken is counted by reason and named in `failures.jsonl`; only a
    missing source or a dataset that can't be written is an error.
    """
    options = options if isinstance(options, Options) else Options(source=options)
    options.check()
    for root in sources:
        must_exist(root)
    with disk_errors(dataset):
        _claim(dataset)
        lists = _downloaded([root for root in sources if is_url_list(root)], dataset, options, progress)
        with held(dataset):
            crew = Crew(max_pixels=max_pixels, limit_s=limit_s)
            progress = progress or Progress("looked at", quiet=True)
            report = _add(sources, dataset, options, crew, lists=lists, progress=progress)
    return replace(report, downloads=list(lists.values()))


def _downloaded(
    lists: Sequence[Path], dataset: Path, options: Options, progress: Progress | None
) -> "dict[Path, Downloads]":
    """What the lists of addresses name, fetched."""
    if not lists:
        return {}
    from sharecap.images.download import download  # an HTTP client takes a while to load

    quiet = progress is None
    return {
        path: download(path, dataset, options, progress=Progress("downloaded", quiet=quiet)) for path in lists
    }


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
    return name in (".lock", FAILURES, DOWNLOADS) or name.endswith(".partial") or name.startswith("catalog-")


@dataclass
class _Harvest:
    """What a stretch of files came to, before it is published."""

    looked_at: int = 0
    known: int = 0
    new: int = 0
    failures: list[Failure] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # places that are images, whose earlier failures are past
    moved: dict[str, Known] = field(default_factory=dict)  # id -> where a known image lies too
    interrupted: bool = False


def _add(
    sources: Sequence[Path],
    dataset: Path,
    options: Options,
    crew: Crew,
    *,
    lists: "Mapping[Path, Downloads]",
    progress: Progress,
) -> AddReport:
    catalog = Catalog.open(dataset) if (dataset / INDEX).exists() else None
    seen = catalog.ids() if catalog else set()
    before, ignored, known = len(seen), 0, 0
    failed: Counter[str] = Counter()
    missing: list[Failure] = []

    def of(root: Path) -> Iterator[Candidate | None]:
        if root not in lists:
            return candidates(root, options)
        from sharecap.images.download import candidates_of

        return candidates_of(lists[root])

    def wanted() -> Iterator[Candidate]:
        nonlocal ignored
        for candidate in (c for root in sources for c in of(root)):
            if candidate is None:
                ignored += 1
            else:
                yield candidate

    fresh, crew.known = dataset / "fresh.partial", _digests(dataset / "known.partial", seen)
    results, refused = crew.results(wanted()), _refused(dataset)
    try:
        with progress.shown():
            while True:
                # A crash costs one harvest. They grow with the catalog, so that publishing stays cheap.
                size = max(HARVEST, len(seen) // 4)
                harvest = _harvest(_allowed(islice(results, size), refused), fresh, seen, progress)
                catalog = _publish(dataset, catalog, fresh, harvest)
                known += harvest.known
                failed.update(failure.reason for failure in harvest.failures)
                missing.extend(f for f in harvest.failures if f.reason == "missing")
                if harvest.interrupted or harvest.looked_at < size:
                    break
    finally:
        results.close()  # before the files that its workers read are removed
        crew.known.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
    if harvest.interrupted:
        todo = "run the same command again to take in the rest"
        raise Interrupted(f"interrupted; {len(catalog):,} images are in", where=dataset, todo=todo)
    added = len(seen) - before
    failures = dict(sorted(failed.items()))
    return AddReport(str(dataset), added, known, ignored, failures, len(catalog), absent(missing))


def _digests(path: Path, ids: Iterable[str]) -> Path:
    """Write the raw digests in order, where workers look them up."""
    with open(path, "wb") as file:
        file.writelines(map(bytes.fromhex, sorted(ids)))
    return path


def _refused(dataset: Path) -> dict[str, tuple[str, str]]:
    """Images that may not come in, by digest: a reason in one word, and in many."""
    out = {i: ("left_out", f"{why.kind}: like {why.like}") for i, why in left_out(dataset).items()}
    down = {
        i: ("taken_down", f"taken down on {date}: it may not come back")
        for i, date in taken_down(dataset).items()
    }
    return out | down


def _allowed(results: Iterable[Result], refused: Mapping[str, tuple[str, str]]) -> Iterator[Result]:
    """`results`, with images that are refused as failures."""
    for result in results:
        if isinstance(result, Failure) or result.id not in refused:
            yield result
        else:
            yield Failure(place_of(result), *refused[result.id])


def _harvest(results: Iterable[Result], fresh: Path, seen: set[str], progress: Progress) -> _Harvest:
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
                    found.taken.add(place_of(result))
                    if isinstance(result, Image) and result.url:
                        found.taken.add(result.url)  # under which a failed download is named
                    if isinstance(result, Known) or result.id in seen:
                        found.known += 1
                        here = Known(result.id, result.path, result.member, result.offset)
                        found.moved.setdefault(result.id, here)
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


def _table(rows: Sequence[Image]) -> pa.Table:
    # Column by column: `asdict` copies deeply, which took a tenth of the time of an `add`.
    return pa.table([[getattr(row, name) for row in rows] for name in SCHEMA.names], schema=SCHEMA)


def _publish(dataset: Path, old: Catalog | None, fresh: Path, harvest: _Harvest) -> Catalog:
    """Write old and fresh rows as one table, name it in the index, remove the table before it."""
    _record_failures(dataset, harvest)
    if old and not harvest.new and all(image == _at_home(image, harvest.moved) for image in old):
        return old
    with pq.ParquetFile(fresh) as table:
        added = (Image(**row) for batch in table.iter_batches(ROWS) for row in batch.to_pylist())
        kept = (_at_home(image, harvest.moved) for image in old or ())
        return publish(written(dataset, chain(kept, added)))


def written(dataset: Path, images: Iterable[Image]) -> Catalog:
    """`images` as a catalog's table that the dataset's index does not name yet. Streams."""
    total, count = hashlib.sha256(), 0
    unnamed = dataset / "catalog.partial"

    images = iter(images)
    with pq.ParquetWriter(unnamed, SCHEMA, compression="zstd") as writer:
        while rows := list(islice(images, ROWS)):
            count += len(rows)
            for row in rows:
                what = [row.id, row.source, row.alt_text, row.licence]
                total.update(json.dumps(what, ensure_ascii=False).encode())
            writer.write_table(_table(rows))
    digest = total.hexdigest()
    name = f"catalog-{digest[:12]}.parquet"
    with open(unnamed, "rb") as f:
        os.fsync(f.fileno())
    os.replace(unnamed, dataset / name)
    return Catalog(dataset, dataset / name, digest, count)


def publish(catalog: Catalog) -> Catalog:
    """Make a written table the dataset's catalog, and remove the table before it."""
    name = catalog.table.name
    index = {
        "kind": "dataset",
        "version": 1,
        "catalog": name,
        "digest": catalog.digest,
        "images": catalog.images,
    }
    write_atomically(catalog.dataset / INDEX, json.dumps(index, indent=1))
    for stale in catalog.dataset.glob("catalog-*.parquet"):
        if stale.name != name:
            stale.unlink()
    return catalog


def _at_home(image: Image, moved: dict[str, Known]) -> Image:
    """`image`, at its new place if it isn't at the old one any more."""
    new = moved.get(image.id)
    if new is None or (new.path, new.member, new.offset) == (image.path, image.member, image.offset):
        return image
    if presence(image) == "there":
        return image
    return replace(image, path=new.path, member=new.member, offset=new.offset)


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
    """Count the images per source, and name those that are missing or have another size at their place."""
    catalog = Catalog.open(dataset)
    sources, unlicensed = Counter[str](), Counter[str]()
    found: dict[str, list[str]] = {"missing": [], "changed": []}
    for image in catalog:
        sources[image.source] += 1
        unlicensed[image.source] += not image.licence
        state = presence(image)
        if state != "there":
            found[state].append(place_of(image))
    failures = failures_of(dataset)
    failed = Counter(f.reason for f in failures)
    return CheckReport(
        str(dataset),
        len(catalog),
        dict(sorted(sources.items())),
        dict(sorted(failed.items())),
        **found,
        unlicensed={name: count for name, count in sorted(unlicensed.items()) if count},
        absent=absent(failures),
        left_out=counted(dataset),
    )


def added_lines(report: AddReport) -> list[str]:
    """For people."""
    lines = [
        f"{report.dataset}: {report.images:,} images ({report.added:,} new, {report.known:,} known before)"
    ]
    lines += [_counted("could not be taken", report.failed, report.dataset)] if report.failed else []
    if report.ignored:
        lines.append(f"ignored {report.ignored:,} files or rows that are no images")
    if report.downloads:
        from sharecap.images.download import downloads_lines

        lines += [line for one in report.downloads for line in downloads_lines(one)]
    return lines + _absent_lines(report.absent)


def checked_lines(report: CheckReport) -> list[str]:
    """For people."""
    lines = [f"{report.dataset}: {report.images:,} images"]
    lines += [f"  {name:<16} {count:>9,}" for name, count in report.sources.items()]
    lines += [_counted("could not be taken", report.failed, report.dataset)] if report.failed else []
    for what, paths in (("missing", report.missing), ("changed", report.changed)):
        if paths:
            lines.append(f"{what}: {len(paths):,} images")
            lines += [f"  {path}" for path in paths[:EXAMPLES]]
            if len(paths) > EXAMPLES:
                lines.append(f"  and {len(paths) - EXAMPLES:,} more (all with --json)")
    if report.missing or report.changed:
        lines.append("  put the files back, or add the folder that has them now: they are found by content")
    if report.unlicensed:
        counts = ", ".join(f"{count:,} of {name}" for name, count in report.unlicensed.items())
        lines.append(f"licence unknown: {counts}")
    if report.left_out:
        counts = ", ".join(f"{count:,} {KINDS.get(kind, kind)}" for kind, count in report.left_out.items())
        lines.append(f"left out: {counts} (named in {Path(report.dataset) / LEFT_OUT})")
    return lines + _absent_lines(report.absent)


def _absent_lines(sets: Sequence[Absent]) -> list[str]:
    if not sets:
        return []
    lines = ["listed, but not there (each is named in " + FAILURES + "):"]
    for one in sets:
        lines.append(f"  {one.folder + '/':<16} {one.images:>9,}, such as {one.example}")
        if one.hint:
            lines.append(f"      {one.hint}")
    return [*lines, "  put them there and add the list again: only they are taken in then"]


def _counted(what: str, counts: dict[str, int], dataset: str) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    return f"{what}: {kinds} (named in {Path(dataset) / FAILURES})"
