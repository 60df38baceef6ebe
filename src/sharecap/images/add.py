"""Images into the catalog: from folders, shards, tables, lists and addresses.

Idempotent: the same bytes are the same image, once. Killed at any moment it leaves a whole catalog.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.errors import Interrupted, UsageError
from sharecap.images.candidate import Candidate, Failure, Known, Options
from sharecap.images.catalog import ROWS, SCHEMA, Catalog, publish, rows_table, written
from sharecap.images.crew import LIMIT_S, Crew, Result
from sharecap.images.dataset import DOWNLOADS, FAILURES, INDEX, disk_errors, held
from sharecap.images.decode import MAX_PIXELS
from sharecap.images.failures import failed_line, record_failures
from sharecap.images.left_out import left_out
from sharecap.images.listed import Absent, absent, absent_lines
from sharecap.images.place import place_of, presence
from sharecap.images.progress import Progress
from sharecap.images.sources import candidates, must_exist
from sharecap.images.takedown import taken_down
from sharecap.images.url_list import is_url_list
from sharecap.records import Image

if TYPE_CHECKING:
    from sharecap.images.download import Downloads

HARVEST = 20_000
"""Files after which the catalog is published anew, so that a crash doesn't cost hours of decoding."""


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
                    writer.write_table(rows_table(rows))
                    rows.clear()
                progress.done += 1
                progress.tick()
        except KeyboardInterrupt:
            found.interrupted = True
        if rows:
            writer.write_table(rows_table(rows))
    return found


def _publish(dataset: Path, old: Catalog | None, fresh: Path, harvest: _Harvest) -> Catalog:
    """Write old and fresh rows as one table, name it in the index, remove the table before it."""
    record_failures(dataset, harvest.failures, past=harvest.taken)
    if old and not harvest.new and all(image == _at_home(image, harvest.moved) for image in old):
        return old
    with pq.ParquetFile(fresh) as table:
        batches = table.iter_batches(ROWS)
        added = (image for batch in batches for image in map(Image, *(c.to_pylist() for c in batch.columns)))
        kept = (_at_home(image, harvest.moved) for image in old or ())
        return publish(written(dataset, chain(kept, added)))


def _at_home(image: Image, moved: dict[str, Known]) -> Image:
    """`image`, at its new place if it isn't at the old one any more."""
    new = moved.get(image.id)
    if new is None or (new.path, new.member, new.offset) == (image.path, image.member, image.offset):
        return image
    if presence(image) == "there":
        return image
    return replace(image, path=new.path, member=new.member, offset=new.offset)


def added_lines(report: AddReport) -> list[str]:
    """For people."""
    lines = [
        f"{report.dataset}: {report.images:,} images ({report.added:,} new, {report.known:,} known before)"
    ]
    lines += [failed_line(report.failed, report.dataset)] if report.failed else []
    if report.ignored:
        lines.append(f"ignored {report.ignored:,} files or rows that are no images")
    if report.downloads:
        from sharecap.images.download import downloads_lines

        lines += [line for one in report.downloads for line in downloads_lines(one)]
    return lines + absent_lines(report.absent)
