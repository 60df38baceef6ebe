"""Overlap with benchmarks: images of a catalog that a benchmark asks about, to the byte or by their look.

A model that was trained on a benchmark's pictures scores too well on it. Benchmarks are folders of images,
tables (TSV with base64, Parquet) or both. It must never pass over a benchmark image that it couldn't read.
"""

import base64
import binascii
import csv
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap import artifact
from sharecap.errors import SharecapError, UsageError
from sharecap.images import seen, shards, table
from sharecap.images.candidate import Candidate, Options
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors, held
from sharecap.images.decode import ImageError, read_bytes, read_span
from sharecap.images.duplicates import BITS, EXAMPLES, check_bits, places_of, read_hashes
from sharecap.images.examine import look
from sharecap.images.folder import files
from sharecap.images.hamming import distance, pairs_between, words_of
from sharecap.images.progress import Progress

KIND, FOLDER, TABLE = "overlap", "overlap", "flagged.parquet"
CONTAINERS = (".tsv", ".parquet", ".arrow", ".tar")
AT_ONCE = 64
"""Benchmark images in memory at a time."""

SHORTEST = 64
"""Characters; a shorter cell is no image but the index of the row that holds it (MMBench)."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("kind", pa.string()),
        ("distance", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Against:
    """What one benchmark file or folder came to."""

    benchmark: str
    images: int  # looked at
    exact: int  # images of the catalog that have the same bytes as one of them
    near: int  # other images of the catalog within the bound of one of them
    unreadable: dict[str, int]  # reason -> images of the benchmark that could be compared by bytes at most


@dataclass(frozen=True)
class Overlap:
    """What the search found; the flagged images themselves are in `table`."""

    dataset: str
    table: str  # Parquet: image_id, benchmark, item, kind (exact or near), distance in bits
    bits: int
    images: int
    flagged: int  # images of the catalog that overlap with any benchmark
    benchmarks: list[Against]
    examples: list[tuple[str, str, str]]  # where an image lies, the benchmark's item, and how alike they are


@dataclass(frozen=True, slots=True)
class Sight:
    """One image of a benchmark."""

    benchmark: str
    item: str  # name of the file, or column and row
    sha256: str = ""  # "" where there are no bytes
    phash: str = ""  # "" where it can't be decoded
    problem: str = ""  # why, in one word


def find_overlap(
    dataset: Path, against: Sequence[Path], bits: int = BITS, *, progress: Progress | None = None
) -> Overlap:
    """Compare the catalog with benchmarks and store the flagged images beside it.

    `against` are image files, tables, or folders with both below them. Of several items of a benchmark that
    an image is like, the nearest is stored.
    """
    check_bits(bits)
    catalog = Catalog.open(dataset)
    sights = list(_looked_at(against, progress or Progress("looked at", quiet=True)))
    if not any(sight.sha256 for sight in sights):
        todo = "give folders of images, or .tsv or .parquet files with images in them"
        raise UsageError("no benchmark images", where=", ".join(map(str, against)), todo=todo)
    inputs = {"catalog": catalog.digest}
    for name in sorted({sight.benchmark for sight in sights}):
        lines = sorted(f"{s.item}\0{s.sha256}\0{s.phash}" for s in sights if s.benchmark == name)
        inputs[name] = artifact.key_of("benchmark", lines, {})
    with disk_errors(dataset), held(dataset):
        done = artifact.stage(
            dataset / FOLDER,
            KIND,
            {"bits": bits, "hash": "phash64", "tables": [TABLE, seen.TABLE]},
            inputs,
            lambda place: _work(catalog, sights, bits, place),
            content=[TABLE, seen.TABLE],
        )
    return _report(catalog, done)


def stored_overlap(catalog: Catalog) -> Overlap | None:
    """What an earlier comparison found, if it was of just this catalog."""
    if not (catalog.dataset / FOLDER / artifact.MANIFEST).exists():
        return None
    done = artifact.read(catalog.dataset / FOLDER)
    return _report(catalog, done) if done.inputs.get("catalog") == catalog.digest else None


def flagged(dataset: Path) -> dict[str, str]:
    """For every flagged image: a benchmark's item that it is like."""
    rows = pq.read_table(dataset / FOLDER / TABLE).to_pylist()
    return {row["image_id"]: f"{row['benchmark']}::{row['item']}" for row in reversed(rows)}


def seen_images(dataset: Path) -> dict[str, bool]:
    """sha256 of every benchmark image that was looked at -> whether the dataset holds it or one like it."""
    return seen.read_seen(dataset, dataset / FOLDER)


def _looked_at(against: Sequence[Path], progress: Progress) -> Iterator[Sight]:
    """Every image of the benchmarks, in a fixed order."""
    known: dict[str, Sight] = {}  # rows of a table repeat their image
    found = (image for path in against for image in _images(path))
    with progress.shown(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        while some := list(islice(found, AT_ONCE)):
            for sight in pool.map(lambda image: _sight(image, known), some):
                known[sight.sha256] = sight
                progress.done += 1
                progress.failed += bool(sight.problem)
                progress.tick()
                yield sight


@dataclass(frozen=True, slots=True)
class _Unseen:
    """An image of a benchmark, not looked at: its bytes, the file that they lie in, or why there are none."""

    benchmark: str
    item: str
    bytes: "bytes | Path | ImageError"


def _sight(image: _Unseen, known: Mapping[str, Sight]) -> Sight:
    digest = ""
    try:
        if isinstance(image.bytes, ImageError):
            raise image.bytes
        data = read_bytes(image.bytes) if isinstance(image.bytes, Path) else image.bytes
        digest = hashlib.sha256(data).hexdigest()
        if digest in known:
            same = known[digest]
            return Sight(image.benchmark, image.item, digest, same.phash, same.problem)
        return Sight(image.benchmark, image.item, digest, look(data, image.item)[3])
    except ImageError as error:
        return Sight(image.benchmark, image.item, digest, problem=error.reason)


def _images(path: Path) -> Iterator[_Unseen]:
    if not path.exists():
        raise UsageError("no such benchmark", where=path, todo="give a folder, a .tsv or a .parquet file")
    root = path.resolve()
    if root.suffix.lower() in CONTAINERS and root.is_file():
        yield from _inside(root)
        return
    for candidate in files(path):
        file = Path(candidate.path)
        below = file.relative_to(root).parts if root.is_dir() else ()
        benchmark = root / below[0] if len(below) > 1 else root
        yield _Unseen(str(benchmark), "/".join(below[1:] or below) or file.name, _content(candidate))
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            file = Path(folder) / name
            if file.suffix.lower() not in CONTAINERS:
                continue
            if file.is_symlink():
                yield _Unseen(str(root), name, ImageError("outside", "a link, which is not followed", file))
            else:
                yield from _inside(file)


def _inside(path: Path) -> Iterator[_Unseen]:
    """The images of a table or tar."""
    suffix, cells = path.suffix.lower(), {".tsv": _tsv_cells, ".parquet": _parquet_cells}
    if suffix in cells:
        for item, cell in cells[suffix](path):
            yield _Unseen(str(path), item, cell)
        return
    found = shards.members(path, "", Options())
    if suffix == ".arrow":
        found = table.rows(path, "", Options(), must=True)
    for candidate in found:
        if candidate is not None:
            yield _Unseen(str(path), candidate.member or candidate.path, _content(candidate))


def _content(candidate: Candidate) -> bytes | Path | ImageError:
    if candidate.problem:
        return ImageError(*candidate.problem, candidate.place)
    if candidate.data is not None or not candidate.member:
        return candidate.data or Path(candidate.path)
    try:
        return read_span(Path(candidate.path), candidate.offset, candidate.size)
    except ImageError as error:
        return error


def _tsv_cells(path: Path) -> Iterator[tuple[str, bytes | ImageError]]:
    csv.field_size_limit(sys.maxsize)  # images are single fields of up to megabytes
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as f:
            rows = csv.reader(f, delimiter="\t")
            header = next(rows, [])
            columns = [n for n, name in enumerate(header) if _names_an_image(name)]
            if not columns:
                todo = "expected a column `image` with base64"
                raise UsageError("a table without images", where=path, todo=todo)
            for number, row in enumerate(rows):
                for column in columns:
                    for text in _texts(row[column] if column < len(row) else ""):
                        yield f"{header[column]}[{number}]", _decoded(text, path)
    except (OSError, csv.Error) as error:
        raise SharecapError(f"cannot read the table ({error})", where=path) from None


def _names_an_image(name: str) -> bool:
    return name.lower().rstrip("_0123456789") in ("image", "images", "img")


def _texts(cell: str) -> Iterator[str]:
    """The images of a cell: one, or a list of several written as JSON or as Python does."""
    if cell.startswith("["):
        cell = cell.strip("[] ").replace("'", "").replace('"', "")
    yield from (text for part in cell.split(",") if len(text := part.strip()) >= SHORTEST)


def _decoded(text: str, where: Path) -> bytes | ImageError:
    try:
        return base64.b64decode(text.removeprefix("data:image/jpeg;base64,"), validate=True)
    except (binascii.Error, ValueError):
        return ImageError("damaged", "the image is not base64", where)


def _parquet_cells(path: Path) -> Iterator[tuple[str, bytes | ImageError]]:
    try:
        with pq.ParquetFile(path) as table:
            columns = [f.name for f in table.schema_arrow if _holds_images(f)]
            if not columns:
                todo = "expected a column of bytes, of {bytes, path}, or `image` with base64"
                raise UsageError("a table without images", where=path, todo=todo)
            number = 0
            for batch in table.iter_batches(AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    for name in columns:
                        for cell in _cells(row[name]):
                            yield f"{name}[{number}]", _decoded(cell, path) if isinstance(cell, str) else cell
                    number += 1
    except (OSError, pa.ArrowException) as error:
        raise SharecapError(f"cannot read the table ({error})", where=path) from None


def _holds_images(column: pa.Field) -> bool:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _names_an_image(column.name)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _cells(value: Any) -> Iterator[bytes | str | ImageError]:
    if isinstance(value, list):
        for one in value:
            yield from _cells(one)
    elif isinstance(value, dict):
        yield value["bytes"] or ImageError(
            "missing", "the row names its image by path only", value.get("path")
        )
    elif isinstance(value, str):
        yield from _texts(value)
    elif value:
        yield value


def _work(catalog: Catalog, sights: Sequence[Sight], bits: int, place: Path) -> Mapping[str, Any]:
    words, _, ids = read_hashes(catalog)
    marks, nearest = _matches(words, ids, sights, bits)
    rows = [
        {"image_id": ids[number].as_py(), "benchmark": name, "item": item, "kind": kind, "distance": bits_off}
        for (number, name), (bits_off, kind, item) in sorted(marks.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), place / TABLE, compression="zstd")
    seen.write_seen(_from_their_side(sights, nearest, ids), place)
    kinds = Counter((row["benchmark"], row["kind"]) for row in rows)
    names = sorted({sight.benchmark for sight in sights})
    unreadable = {n: Counter(s.problem for s in sights if s.problem and s.benchmark == n) for n in names}
    looked = Counter(sight.benchmark for sight in sights)
    found = [
        Against(n, looked[n], kinds[n, "exact"], kinds[n, "near"], dict(sorted(unreadable[n].items())))
        for n in names
    ]
    return {
        "images": len(words),
        "flagged": len({row["image_id"] for row in rows}),
        "benchmarks": artifact.plain(found),
    }


_Mark = tuple[int, str, str]
"""Bits between the two, "exact" or "near", the benchmark's item; the smallest is the best match."""


def _from_their_side(
    sights: Sequence[Sight], nearest: Mapping[str, tuple[int, str, int]], ids: pa.Array
) -> Iterator[dict[str, Any]]:
    for sight in sights:
        if not sight.sha256:
            continue
        off, kind, image = nearest.get(sight.sha256) or nearest.get(sight.phash) or (None, None, None)
        found = {"image_id": None if image is None else ids[image].as_py(), "kind": kind, "distance": off}
        yield {"sha256": sight.sha256, "benchmark": sight.benchmark, "item": sight.item, **found}


def _matches(
    words: Any, ids: pa.Array, sights: Sequence[Sight], bits: int
) -> tuple[dict[tuple[int, str], _Mark], dict[str, tuple[int, str, int]]]:
    """(place of an image in the catalog, benchmark) -> its best match there; and the other way round:
    digest or hash of a benchmark's image -> how near which place of the catalog is."""
    marks: dict[tuple[int, str], _Mark] = {}
    nearest: dict[str, tuple[int, str, int]] = {}

    def mark(image: int, sight: Sight, how: tuple[int, str]) -> None:
        key = (image, sight.benchmark)
        marks[key] = min(marks.get(key, (65, "", "")), (*how, sight.item))

    by_digest, by_hash = _Sights(), _Sights()
    for sight in sights:
        by_digest.put(sight.sha256, sight)
        by_hash.put(sight.phash, sight)
    digests = pa.array(sorted(by_digest.of), ids.type)
    same = pc.index_in(ids, value_set=digests)
    for image in np.flatnonzero(pc.is_valid(same).to_numpy(zero_copy_only=False)).tolist():
        digest = digests[same[image].as_py()].as_py()
        nearest[digest] = (0, "exact", image)
        for sight in by_digest.of[digest].values():
            mark(image, sight, (0, "exact"))
    hashes = sorted(by_hash.of)
    theirs, (ours, which) = words_of(hashes), np.unique(words, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(ours) + 1))
    i, j = pairs_between(ours, theirs, bits)
    apart = distance(ours[i], theirs[j])
    for a, b, off in zip(i.tolist(), j.tolist(), apart.tolist(), strict=True):
        way = (off, "near", int(order[starts[a]]))
        nearest[hashes[b]] = min(nearest.get(hashes[b], way), way)
        for image in order[starts[a] : starts[a + 1]].tolist():
            for sight in by_hash.of[hashes[b]].values():
                mark(image, sight, (off, "near"))
    return marks, nearest


@dataclass
class _Sights:
    """The first sight of each benchmark, by digest or hash."""

    of: dict[str, dict[str, Sight]] = field(default_factory=dict)

    def put(self, key: str, sight: Sight) -> None:
        if key:
            self.of.setdefault(key, {}).setdefault(sight.benchmark, sight)


def _report(catalog: Catalog, done: artifact.Artifact) -> Overlap:
    table = done.path / TABLE
    rows: Iterable[dict[str, Any]] = pq.read_table(table).slice(0, EXAMPLES).to_pylist()
    places = places_of(catalog, {row["image_id"] for row in rows})
    metrics = dict(done.metrics)
    return Overlap(
        dataset=str(catalog.dataset),
        table=str(table),
        bits=done.config["bits"],
        benchmarks=[Against(**one) for one in metrics.pop("benchmarks")],
        examples=[
            (places[r["image_id"]], f"{r['benchmark']}::{r['item']}", _likeness(r["kind"], r["distance"]))
            for r in rows
        ],
        **metrics,
    )


def _likeness(kind: str, bits: int) -> str:
    return "same bytes" if kind == "exact" else f"{bits} bits apart"


def overlap_lines(found: Overlap) -> list[str]:
    """For people."""
    lines = [f"overlap with benchmarks: {found.flagged:,} images (same bytes, or within {found.bits} bits)"]
    for one in found.benchmarks:
        line = f"  {one.benchmark}: {one.exact:,} exact, {one.near:,} near, of {one.images:,} images there"
        if one.unreadable:
            line += "; not compared by look: " + ", ".join(
                f"{n:,} {kind}" for kind, n in one.unreadable.items()
            )
        lines.append(line)
    lines += [f"  {image} is like {item} ({how})" for image, item, how in found.examples]
    return [*lines, f"  all of them: {found.table}"] if found.flagged else lines
