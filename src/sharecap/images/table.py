"""Tables of images: Parquet files, and the Arrow files that Hugging Face `datasets` saves.

An image is a struct of bytes and path, plain bytes, or a path below the folder of images. Rows are read in
small batches, whatever the file's row groups are; pixels are never copied.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.errors import UsageError
from sharecap.images.candidate import ALT_TEXT, LICENCE, URL, Candidate, Options, clean
from sharecap.images.decode import MAX_BYTES, ImageError
from sharecap.images.folder import beneath
from sharecap.images.place import arrow_table, rows_at_once

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
PATHS = ("image_path", "path", "file_name", "filename", "filepath", "image_file", "file")
"""The usual names of image columns; the latter are only taken for texts."""


@dataclass(frozen=True)
class _Columns:
    image: str
    kind: str  # "struct", "bytes" or "path"
    source: str | None
    alt_text: str | None
    licence: str | None
    url: str | None

    def names(self) -> list[str]:
        """All of them."""
        found = (self.image, self.source, self.alt_text, self.licence, self.url)
        return list(dict.fromkeys(name for name in found if name))


def rows(path: Path, source: str, options: Options, *, must: bool) -> Iterator[Candidate | None]:
    """The images of the table at `path`. One without images is an error if it `must` have some, else ignored.

    A table that can't be read, or not to its end, is one failure.
    """
    at = 0
    try:
        with _opened(path) as (schema, batches):
            columns = _choose(schema, options)
            if columns is None:
                if must:
                    todo = "name it with --image-column; it has " + ", ".join(map(str, schema.names[:20]))
                    raise UsageError("no column of images in the table", where=path, todo=todo)
                yield None
                return
            root = (options.images or path.parent).resolve()
            for batch in batches(columns.names()):
                for row in batch.to_pylist():
                    yield _candidate(path, at, row, columns=columns, source=source, root=root)
                    at += 1
    except ImageError as error:
        yield Candidate(str(path), source, (error.reason, error.what))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        yield Candidate(str(path), source, ("unreadable", f"damaged table after {at} rows ({why})"))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.Schema, Any]]:
    """(schema, function from columns to batches of few rows)."""
    if path.suffix.lower() == ".arrow":
        table = arrow_table(str(path))

        def sliced(columns: list[str]) -> Iterator[pa.RecordBatch]:
            chosen = table.select(columns)
            for chunk in chosen.to_batches():
                chunk.validate(full=True)  # Arrow files are taken at their word otherwise
            yield from chosen.to_batches(max_chunksize=16)

        yield table.schema, sliced
        return
    with pq.ParquetFile(path) as file:
        size = rows_at_once(file)
        yield file.schema_arrow, lambda columns: file.iter_batches(size, columns=columns)


def _choose(schema: pa.Schema, options: Options) -> _Columns | None:
    image = _image_column(schema, options.image_column)
    if image is None:
        return None
    for option, name in (
        ("--source-column", options.source_column),
        ("--alt-text-column", options.alt_text_column),
    ):
        if name and name not in schema.names:
            raise UsageError(f"no column {name!r} in the table", todo=f"correct {option}")

    def usual(names: tuple[str, ...]) -> str | None:
        lower: dict[str, str] = {name.lower(): name for name in reversed(schema.names) if name != image}
        found: list[str] = [lower[name] for name in names if name in lower]
        texts = [name for name in found if _is_text(schema.field(name).type)]
        return texts[0] if texts else None

    return _Columns(
        image=image,
        kind=_kind(schema.field(image).type),
        source=options.source_column,
        alt_text=options.alt_text_column or usual(ALT_TEXT),
        licence=usual(LICENCE),
        url=usual(URL),
    )


def _image_column(schema: pa.Schema, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in schema.names or not _kind(schema.field(wanted).type):
            todo = "name a column of bytes, of structs of bytes and path, or of paths"
            raise UsageError(f"column {wanted!r} holds no images", todo=todo)
        return wanted
    usual: dict[str, str] = {name.lower(): name for name in reversed(schema.names)}
    candidates: list[str] = [*_marked(schema), *(usual[n] for n in IMAGES if n in usual)]
    paths = [usual[n] for n in (*IMAGES, *PATHS) if n in usual]
    for names, kinds in ((candidates, ("struct", "bytes")), (paths, ("path",))):
        for name in names:
            if name in schema.names and _kind(schema.field(name).type) in kinds:
                return name
    return None


def _marked(schema: pa.Schema) -> list[str]:
    """The columns that `datasets` marks as images in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _kind(form: pa.DataType) -> str:
    if pa.types.is_struct(form):
        index = form.get_field_index("bytes")
        return "struct" if index >= 0 and _is_binary(form.field(index).type) else ""
    return "bytes" if _is_binary(form) else "path" if _is_text(form) else ""


def _is_binary(form: pa.DataType) -> bool:
    return bool(pa.types.is_binary(form) or pa.types.is_large_binary(form) or pa.types.is_binary_view(form))


def _is_text(form: pa.DataType) -> bool:
    if pa.types.is_dictionary(form):
        form = form.value_type
    return bool(pa.types.is_string(form) or pa.types.is_large_string(form) or pa.types.is_string_view(form))


def _candidate(
    path: Path, at: int, row: Mapping[str, Any], *, columns: _Columns, source: str, root: Path
) -> Candidate:
    cell = row[columns.image]
    data, name = (cell, None) if columns.kind == "bytes" else (None, cell)
    if columns.kind == "struct":
        data, name = (cell or {}).get("bytes"), (cell or {}).get("path")
    where, problem = str(path), None
    if data is None and isinstance(name, str) and name:
        where, problem = beneath(root, name)
    elif not data:
        problem = ("empty", "no image in this row")
    elif len(data) > MAX_BYTES:
        problem = ("too_large", f"{len(data):,} bytes, bound {MAX_BYTES:,}")
    inside = data is not None or where == str(path)
    return Candidate(
        path=where,
        source=(clean(row[columns.source]) if columns.source else "") or source,
        problem=problem,
        member=f"{columns.image}[{at}]" if inside else "",
        data=None if problem else data,
        alt_text=clean(row[columns.alt_text]) if columns.alt_text else "",
        licence=clean(row[columns.licence]) if columns.licence else "",
        url=clean(row[columns.url]) if columns.url else "",
        name="" if inside else str(name),
    )
