"""The catalog: what images a dataset has, in a fixed order. Pixels are never copied; it names where they lie.

Written anew as a whole and named in the dataset's index then: at any moment one whole catalog is there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError
from sharecap.images.columns import integers, texts
from sharecap.images.dataset import INDEX
from sharecap.records import Image

SCHEMA = pa.schema([(f.name, pa.int64() if f.type is int else pa.string()) for f in fields(Image)])
_NEEDED = sum(f.default is MISSING for f in fields(Image))
"""Columns, the first ones, that every catalog has."""

ROWS = 10_000
"""Images per row group: what is held in memory at a time."""

_REPAIR = "restore it from a copy"


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


def rows_table(rows: Sequence[Image]) -> pa.Table:
    """`rows` as a table of the catalog's columns."""
    # Column by column: `asdict` copies deeply, which took a tenth of the time of an `add`.
    columns = [
        (integers if field.type == pa.int64() else texts)([getattr(row, field.name) for row in rows])
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


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
            writer.write_table(rows_table(rows))
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
