"""Where an image's bytes lie, and reading them there: a file of its own, a tar member, a row of a table.

Nothing is ever unpacked or copied: a member is read at its offset, a row with a few neighbours of its column.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.images import decode
from sharecap.images.decode import MAX_BYTES, ImageError
from sharecap.records import Image

WINDOW_ROWS, WINDOW_BYTES = 64, 16 * 2**20
"""Rows of an image column that are read at a time: so many, or fewer where they are large."""

WINDOWS = 8
"""Windows kept, so that requests which come slightly out of order find their row."""

_ROW = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


def place_of(image: Image) -> str:
    """For people: the file, and the member or row inside it."""
    return f"{image.path}::{image.member}" if image.member else image.path


def loose_file(path: Path, image_id: str) -> Image:
    """A file that is in no catalog, of which nothing is known but its digest."""
    return Image(image_id, "", str(path), 0, 0, "", 0, "")


def read_bytes(image: Image) -> bytes:
    """The image's bytes as they lie there now; they may not be those of its id any more.

    `ImageError` missing, unreadable, not_a_file, empty or too_large, or truncated where a tar ends too soon.
    """
    if not image.member:
        return decode.read_bytes(Path(image.path))
    if image.offset:
        return _member_bytes(image)
    return _row_bytes(image)


def presence(image: Image) -> Literal["there", "missing", "changed"]:
    """A cheap look, without reading the image: is there something of its size at its place?"""
    try:
        size = os.stat(image.path).st_size
        if not image.member:
            return "there" if size == image.bytes else "changed"
        if image.offset:
            return "there" if size >= image.offset + image.bytes else "changed"
        column, row = row_of(image.member)
        return "there" if _COLUMNS.holds(image.path, column, row) else "changed"
    except (OSError, ImageError):
        return "missing"


def row_of(member: str) -> tuple[str, int]:
    """Column and row of a Parquet image's `member`."""
    found = _ROW.fullmatch(member)
    if not found:
        raise ImageError("unreadable", "neither a tar member nor a table's row", member)
    return found[1], int(found[2])


def _member_bytes(image: Image) -> bytes:
    if image.bytes > MAX_BYTES:
        raise ImageError("too_large", f"{image.bytes:,} bytes, bound {MAX_BYTES:,}", place_of(image))
    try:
        tar = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(tar, image.bytes, image.offset)
        finally:
            os.close(tar)
    except FileNotFoundError:
        raise ImageError("missing", "no such tar", image.path) from None
    except OSError as error:
        raise ImageError("unreadable", f"cannot read ({error.strerror})", image.path) from None
    if len(data) < image.bytes:
        raise ImageError("truncated", "the tar ends before the image does", place_of(image))
    return data


def _row_bytes(image: Image) -> bytes:
    column, row = row_of(image.member)
    data = _COLUMNS.read(image.path, column, row)
    if not data:
        raise ImageError("empty", "no bytes in this row", place_of(image))
    return data


@dataclass
class _Column:
    """An image column that is being read forwards."""

    file: pq.ParquetFile
    leaf: str  # dotted path of the column that holds the bytes
    starts: list[int]  # first row of each row group, and the number of rows
    rows: int  # at a time
    batches: Iterator[pa.RecordBatch] = field(default_factory=lambda: iter(()))
    next_row: int = 0  # first row of the batch that comes next
    end_row: int = 0  # first row that `batches` won't reach


class _Columns:
    """The image columns in use, with the windows read last. One per process; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str], _Column] = OrderedDict()
        self._windows: OrderedDict[tuple[str, str, int], pa.Array] = OrderedDict()

    def holds(self, path: str, column: str, row: int) -> bool:
        """The file has such a row."""
        with self._lock:
            return row < self._column(path, column).starts[-1]

    def read(self, path: str, column: str, row: int) -> bytes:
        """The bytes of one row; the next rows are at hand then."""
        with self._lock:
            try:
                return self._read(path, column, row)
            except OSError as error:
                what = f"cannot read ({error.strerror or error})"
            except (pa.ArrowException, ValueError, KeyError) as error:
                what = f"damaged Parquet file ({str(error)[:200]})"
            raise ImageError("unreadable", what, path)

    def _read(self, path: str, column: str, row: int) -> bytes:
        for (of, name, start), window in self._windows.items():
            if (of, name) == (path, column) and start <= row < start + len(window):
                return window[row - start].as_py() or b""
        at = self._column(path, column)
        if row >= at.starts[-1]:
            raise ImageError("missing", "the table has no such row", f"{path}::{column}[{row}]")
        if not at.next_row <= row < at.end_row:
            group = max(i for i, start in enumerate(at.starts[:-1]) if start <= row)
            at.next_row, at.end_row = at.starts[group], at.starts[-1]
            groups = list(range(group, len(at.starts) - 1))
            at.batches = at.file.iter_batches(at.rows, row_groups=groups, columns=[at.leaf])
        while True:
            window = _flat(next(at.batches))
            start, at.next_row = at.next_row, at.next_row + len(window)
            self._windows[path, column, start] = window
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
            if row < at.next_row:
                return window[row - start].as_py() or b""

    def _column(self, path: str, column: str) -> _Column:
        found = self._open.get((path, column))
        if found is None:
            try:
                file = pq.ParquetFile(path)
            except FileNotFoundError:
                raise ImageError("missing", "no such table", path) from None
            except (OSError, pa.ArrowException) as error:
                what = f"not a readable Parquet file ({str(error)[:200]})"
                raise ImageError("unreadable", what, path) from None
            starts, size = [0], 0
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                starts.append(starts[-1] + group.num_rows)
                size += group.total_byte_size
            rows = max(1, min(WINDOW_ROWS, WINDOW_BYTES * starts[-1] // max(1, size)))
            leaf = leaf_of(file.schema_arrow, column)
            found = self._open[path, column] = _Column(file, leaf, starts, rows)
            while len(self._open) > 2 * WINDOWS:
                self._open.popitem(last=False)[1].file.close()
        return found


_COLUMNS = _Columns()


def leaf_of(schema: pa.Schema, column: str) -> str:
    """The column that holds the bytes: the column itself, or the field `bytes` of a struct."""
    index = schema.get_field_index(column)
    if index < 0:
        raise ImageError("missing", "the table has no such column", column)
    return f"{column}.bytes" if pa.types.is_struct(schema.field(index).type) else column


def _flat(batch: pa.RecordBatch) -> pa.Array:
    values = batch.column(0)
    return values.field("bytes") if pa.types.is_struct(values.type) else values
