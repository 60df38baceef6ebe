"""Where each row of a file lies: found in one pass, kept beside other such indexes, mapped into memory.

JSON lists, JSON lines and Parquet files; of the latter the rows are copied once as JSON lines, since Parquet
can't hand out single ones. It must never hold a file in memory, and never take an index for another file.
"""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from sharecap.errors import SharecapError

PIECE = 16 << 20
"""Bytes that are read at once."""

LONGEST = 64 << 20
"""Bytes of the longest row: where no row ends within them, the file is no list of rows."""

SMALL = 16 << 20
"""Files of fewer bytes are gone through each time (less than 0.1 s) and leave nothing in the cache."""

TODO = 'give a JSON list of {"id", "image", "conversations"}, or one such row a line (.jsonl), or .parquet'

COLUMNS = ("id", "image", "conversations")


@dataclass(frozen=True)
class Index:
    """The rows of one file."""

    file: Path  # whose bytes the spans are in: the file itself, or the copy of a Parquet file's rows
    spans: NDArray[np.int64]  # [rows, 2] first byte and the one after the last
    digest: str  # sha256 of the file that the user gave


def cache_folder() -> Path:
    """What can be made again lies here: `$XDG_CACHE_HOME/sharecap`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharecap"


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole; several processes may make the same one at once.

    `SharecapError` if there is no room, or no leave.
    """
    partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            yield file
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            todo = "make room, or choose another place (XDG_CACHE_HOME moves the cache)"
            raise SharecapError(f"cannot write ({error.strerror})", where=path, todo=todo) from None
        raise


def index_of(path: Path) -> Index:
    """The file's index, from the cache where it is there. `SharecapError` if the file is no list of rows."""
    try:
        with open(path, "rb") as file:
            key, size = fingerprint(file, path.suffix), os.fstat(file.fileno()).st_size
            if path.suffix == ".parquet":
                return cached(path, key, lambda: copy_of_parquet(path, key))
            make = lines_in if path.suffix == ".jsonl" else list_in
            if size < SMALL:
                spans, digest = make(file, path)
                return Index(path, spans, digest)
            return cached(path, key, lambda: make(file, path))
    except OSError as error:
        raise SharecapError(f"cannot read rows ({error.strerror})", where=path) from None


def fingerprint(file: BufferedReader, form: str) -> str:
    """Of a file's form, size, time of change, beginning and end: what its index is found by."""
    status = os.fstat(file.fileno())
    total = hashlib.sha256(f"{form} {status.st_size} {status.st_mtime_ns}".encode())
    for at in (0, max(0, status.st_size - (1 << 16))):
        total.update(os.pread(file.fileno(), 1 << 16, at))
    return total.hexdigest()[:32]


def cached(path: Path, key: str, make: Callable[[], tuple[NDArray[np.int64], str]]) -> Index:
    """The index with this key, made if it isn't there, which is the case until its digest is written."""
    folder = cache_folder() / "rows"
    spans, digest, copy = (folder / f"{key}.{kind}" for kind in ("npy", "sha256", "jsonl"))
    needed = (digest, spans, copy) if path.suffix == ".parquet" else (digest, spans)
    if not all(file.exists() for file in needed):
        found, text = make()
        with written(spans) as file:
            np.save(file, found)
        with written(digest) as file:
            file.write(text.encode())
    mapped = np.load(spans, mmap_mode="r")
    return Index(copy if path.suffix == ".parquet" else path, mapped, digest.read_text())


BOM = b"\xef\xbb\xbf"
"""What some editors put before UTF-8. It is no part of the rows."""


def list_in(file: BufferedReader, path: Path) -> tuple[NDArray[np.int64], str]:
    """Spans of the members of a JSON list, and the file's digest.

    The json module's own scanner goes from member to member (250 MB/s; borders found with numpy took longer).
    It is given Latin-1, in which each byte is one character: places in the text are places in the file.
    """
    scan, blank = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*").match
    total, spans = hashlib.sha256(), array("q")
    text, at, base = "", 0, 0  # `text[at]` is the file's byte `base + at`

    def skip() -> str:
        """Go to what follows blanks; "" at the end of the file."""
        nonlocal at
        while True:
            at = blank(text, at).end()  # type: ignore[union-attr]
            if at < len(text) or not more():
                return text[at : at + 1]

    def more() -> bool:
        """Read on; forget what lies behind."""
        nonlocal text, at, base
        data = file.read(PIECE)
        total.update(data)
        text, at, base = text[at:] + data.decode("latin-1"), 0, base + at
        return bool(data)

    def bad(why: str) -> SharecapError:
        return SharecapError(
            f"not JSON ({why} at row {len(spans) // 2}, byte {base + at})", where=path, todo=TODO
        )

    while len(text) < len(BOM) and more():
        pass
    at = len(BOM) if text.startswith(BOM.decode("latin-1")) else 0
    if (first := skip()) != "[":
        raise SharecapError(
            "not a JSON list of rows" if first else "not JSON (an empty file)", where=path, todo=TODO
        )
    at += 1
    mark = skip()
    if mark == "]":
        at += 1
    while mark != "]":
        if not skip():
            raise bad("the file ends in the list")
        try:
            _, end = scan(text, at)
        except RecursionError:
            raise bad("too deep") from None
        except ValueError as error:  # a row that goes on in the next piece, or no JSON
            if len(text) - at <= LONGEST and more():
                continue
            raise bad(getattr(error, "msg", str(error))) from None
        spans.extend((base + at, base + end))
        at = end
        mark = skip()
        if mark not in (",", "]"):
            raise bad("no comma" if mark else "the file ends in the list")
        at += 1
    if skip():
        raise bad("text after the list")
    return as_array(spans), total.hexdigest()


def lines_in(file: BufferedReader, _: Path) -> tuple[NDArray[np.int64], str]:
    """Spans of the lines that are not blank, and the file's digest."""
    total, spans, at = hashlib.sha256(), array("q"), 0
    for line in file:
        total.update(line)
        mark = len(BOM) if at == 0 and line.startswith(BOM) else 0
        if line[mark:].strip():
            spans.extend((at + mark, at + len(line)))
        at += len(line)
    return as_array(spans), total.hexdigest()


def as_array(spans: "array[int]") -> NDArray[np.int64]:
    """[rows, 2] from first, last, first, last, ..."""
    return np.frombuffer(spans, dtype=np.int64).reshape(-1, 2) if spans else np.empty((0, 2), dtype=np.int64)


def copy_of_parquet(path: Path, key: str) -> tuple[NDArray[np.int64], str]:
    """A Parquet file's rows copied to the cache as JSON lines: their spans there, and the file's digest."""
    spans, at = array("q"), 0
    try:
        with pq.ParquetFile(path) as table, written(cache_folder() / "rows" / f"{key}.jsonl") as copy:
            columns = columns_of(table.schema_arrow, path)
            for batch in table.iter_batches(1024, columns=columns):
                for row in batch.to_pylist():
                    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
                    copy.write(line)
                    spans.extend((at, at + len(line)))
                    at += len(line)
        with open(path, "rb") as file:
            return as_array(spans), hashlib.file_digest(file, "sha256").hexdigest()
    except (pa.ArrowException, TypeError) as error:  # TypeError: a value that JSON has no word for
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SharecapError(f"cannot read rows ({why})", where=path, todo=TODO) from None


def columns_of(schema: Any, path: Path) -> list[str]:
    """The columns that rows are made of."""
    if "conversations" not in schema.names:
        raise SharecapError('no column "conversations"', where=path, todo=TODO)
    if "image" in schema.names:
        form = schema.field("image").type
        inner = form.value_type if pa.types.is_list(form) or pa.types.is_large_list(form) else form
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_null(inner)):
            what = f'column "image" holds {form}, not paths'
            raise SharecapError(what, where=path, todo="save the pictures as files and give their paths")
    return [name for name in COLUMNS if name in schema.names]
