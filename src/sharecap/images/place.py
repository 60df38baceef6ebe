"""Where an image's bytes lie, and reading them there: a file of its own, a tar member, a row of a table.

Nothing is ever unpacked or copied: a member is read at its offset, a row with a few neighbours of its column.
"""

import hashlib
import os
import re
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.images import decode
from sharecap.images.candidate import Known
from sharecap.images.decode import ImageError
from sharecap.records import Image

WINDOW_ROWS, WINDOW_BYTES = 64, 16 * 2**20
"""Rows of an image column that are read at a time: so many, or fewer where they are large."""

WINDOWS = 8
"""Windows kept, so that requests which come slightly out of order find their row."""

_ROW = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


def place_of(image: "Image | Known") -> str:
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
        return decode.read_span(Path(image.path), image.offset, image.bytes)
    return _row_bytes(image)


def verified(image: Image) -> bytes:
    """The image's bytes, if they are those that were catalogued under its id; `ImageError` changed if not."""
    data = read_bytes(image)
    if hashlib.sha256(data).hexdigest() != image.id:
        todo = "put the old file back, or add it again"
        raise ImageError("changed", "not the bytes that were catalogued", place_of(image), todo)
    return data


def presence(image: Image) -> Literal["there", "missing", "changed"]:
    """A cheap look, without reading the image: is there something of its size at its place?"""
    try:
        size = os.stat(image.path).st_size
        if not image.member:
            return "there" if size == image.bytes else "changed"
        if image.offset:
            return "there" if size >= image.offset + image.bytes and _heads(image) else "changed"
        column, row = row_of(image.member)
        return "there" if _COLUMNS.holds(image.path, column, row) else "changed"
    except (OSError, ImageError):
        return "missing"


def _heads(image: Image) -> bool:
    """The tar has a member of the image's size at its place."""
    try:
        block = decode.read_span(Path(image.path), image.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (ImageError, tarfile.TarError):
        return False
    return info.isreg() and info.size == image.bytes


def row_of(member: str) -> tuple[str, int]:
    """Column and row of a Parquet image's `member`."""
    found = _ROW.fullmatch(member)
    if not found:
        raise ImageError("unreadable", "neither a tar member nor a table's row", member)
    return found[1], int(found[2])


def _row_bytes(image: Image) -> bytes:
    column, row = row_of(image.member)
    data = _COLUMNS.read(image.path, column, row)
    if not data:
        raise ImageError("empty", "no bytes in this row", place_of(image))
    return data


@dataclass
class _Column:
    """The image column of a Parquet file that is being read forwards."""

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
        self._open: OrderedDict[tuple[str, str], _Column | pa.ChunkedArray] = OrderedDict()
        self._windows: OrderedDict[tuple[str, str, int], pa.Array] = OrderedDict()

    def holds(self, path: str, column: str, row: int) -> bool:
        """The file has such a row."""
        with self._lock:
            found = self._column(path, column)
            return row < (found.starts[-1] if isinstance(found, _Column) else len(found))

    def read(self, path: str, column: str, row: int) -> bytes:
        """The bytes of one row; the next rows are at hand then."""
        with self._lock:
            try:
                return self._read(path, column, row)
            except StopIteration:
                what = "damaged table (fewer rows than it says)"
            except OSError as error:
                what = f"cannot read ({error.strerror or error})"
            except (pa.ArrowException, ValueError, KeyError) as error:
                what = f"damaged table ({str(error)[:200]})"
            raise ImageError("unreadable", what, path)

    def _read(self, path: str, column: str, row: int) -> bytes:
        for (of, name, start), window in self._windows.items():
            if (of, name) == (path, column) and start <= row < start + len(window):
                return window[row - start].as_py() or b""
        at = self._column(path, column)
        rows = at.starts[-1] if isinstance(at, _Column) else len(at)
        if row >= rows:
            raise ImageError("missing", "the table has no such row", f"{path}::{column}[{row}]")
        if not isinstance(at, _Column):
            return at[row].as_py() or b""
        if not at.next_row <= row < at.end_row:
            group = max(i for i, start in enumerate(at.starts[:-1]) if start <= row)
            at.next_row, at.end_row = at.starts[group], rows
            groups = list(range(group, len(at.starts) - 1))
            at.batches = at.file.iter_batches(at.rows, row_groups=groups, columns=[at.leaf])
        while True:
            window = _bytes_in(next(at.batches).column(0))
            start, at.next_row = at.next_row, at.next_row + len(window)
            self._windows[path, column, start] = window
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
            if row < at.next_row:
                return window[row - start].as_py() or b""

    def _column(self, path: str, column: str) -> "_Column | pa.ChunkedArray":
        found = self._open.get((path, column))
        if found is None:
            try:
                found = _arrow_column(path, column) if path.endswith(".arrow") else _column(path, column)
            except FileNotFoundError:
                raise ImageError("missing", "no such table", path) from None
            except (OSError, pa.ArrowException, ValueError) as error:
                raise ImageError("unreadable", f"not a readable table ({str(error)[:200]})", path) from None
            self._open[path, column] = found
            while len(self._open) > 2 * WINDOWS:
                _, closed = self._open.popitem(last=False)
                if isinstance(closed, _Column):
                    closed.file.close()
        return found


_COLUMNS = _Columns()


def _column(path: str, column: str) -> _Column:
    file = pq.ParquetFile(path)
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    leaf = f"{column}.bytes" if pa.types.is_struct(_field(file.schema_arrow, column).type) else column
    return _Column(file, leaf, starts, rows_at_once(file))


def _arrow_column(path: str, column: str) -> pa.ChunkedArray:
    table = arrow_table(path)
    _field(table.schema, column)
    chunks = [_bytes_in(chunk) for chunk in table.column(column).chunks]
    for chunk in chunks:
        chunk.validate(full=True)  # Arrow files are taken at their word otherwise
    return pa.chunked_array(chunks, type=None if chunks else pa.binary())


def _field(schema: pa.Schema, column: str) -> pa.Field:
    if column not in schema.names:
        raise ImageError("missing", "the table has no such column", column)
    return schema.field(column)


def _bytes_in(values: pa.Array) -> pa.Array:
    return values.field("bytes") if pa.types.is_struct(values.type) else values


def arrow_table(path: str) -> pa.Table:
    """The table of an Arrow file, mapped and not read."""
    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def rows_at_once(file: pq.ParquetFile) -> int:
    """How many rows of images may be in memory."""
    size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    return max(1, min(WINDOW_ROWS, int(WINDOW_BYTES * file.metadata.num_rows / max(1, size))))
