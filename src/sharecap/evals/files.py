"""Reads the files that predictions and labels come in: JSON, JSON lines, tables, spreadsheets.

Knows no benchmark. Every fault is one line with the file and the row in it; nothing unreadable is skipped.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sharecap.errors import SharecapError

Row = Mapping[str, Any]

IDS = ("question_id", "questionId", "index", "id")
TABLES = (".xlsx", ".tsv", ".csv")
TEXTS = ("text", "prediction", "response")
"""What tools call a question's id and a model's answer to it; the first that a row has is taken. `answer` is
not among them: in some tables it is the truth."""


def read_json(path: Path) -> Any:
    """The content of one JSON file."""
    try:
        return _loaded(read_text(path))
    except ValueError as error:
        raise SharecapError(f"not JSON ({error})", where=path, todo="is the file complete?") from None


def _loaded(text: str) -> Any:
    """JSON of whole characters: its escapes can spell half of one. `ValueError` for anything else."""
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return value


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SharecapError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=path) from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> SharecapError:
    """The error for a file that isn't there, or is none, or may not be read."""
    return SharecapError(f"cannot read ({error.strerror})", where=path)


def only(directory: Path, pattern: str) -> Path:
    """The one file in the directory that the pattern fits."""
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        what = f"{len(found)} files {pattern}, expected one"
        raise SharecapError(what, where=directory, todo="keep the benchmark's own files of one split here")
    return found[0]


def within(place: Path, pattern: str) -> Path:
    """The file itself, or the one in this directory that the pattern fits."""
    return only(place, pattern) if place.is_dir() else place


def read_rows(path: Path) -> list[Row]:
    """Rows of a table (`.xlsx`, `.tsv`, `.csv`, `.parquet`), JSON list, JSON lines, or log of lmms-eval."""
    if path.suffix.lower() in TABLES:
        return list(read_table(path))
    if path.suffix.lower() == ".parquet":
        return _columns(path)
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = read_json(path)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise SharecapError(f"entry {number} is not a JSON object", where=path)
        return list(rows)
    return [_flat(row) for row in _objects(text, path)]


def _columns(path: Path) -> list[Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SharecapError(f"not a Parquet file ({str(error).splitlines()[0]})", where=path) from None
    return rows


def read_whole(path: Path) -> Any:
    """The value of a JSON file, or the rows of a file of JSON lines, whatever the file's name says."""
    try:
        value = _loaded(read_text(path))
    except ValueError:
        return read_rows(path)
    only_line = isinstance(value, dict) and not value.keys().isdisjoint((*IDS, "image_id"))
    return [value] if only_line else value


def _objects(text: str, where: Path) -> list[Row]:
    """The objects of JSON lines; also where one takes several lines, or a line holds several."""
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        return [row for number, line in numbered for row in _parsed(line, number, where)]
    except SharecapError as by_line:
        try:
            return _parsed(text, 1, where)
        except SharecapError:
            raise by_line from None  # it names the line


def _parsed(text: str, number: int, where: Path) -> list[Row]:
    try:
        rows = _values(text)
    except ValueError as error:
        what = f"line {number} is not JSON ({error})"
        raise SharecapError(what, where=where, todo="a half-written file can't be scored") from None
    if not all(isinstance(row, dict) for row in rows):
        raise SharecapError(f"line {number} is not a JSON object", where=where)
    return rows


def _values(text: str) -> list[Any]:
    """Values one after the other, as calls of `json.dump` leave them without line breaks."""
    try:
        return [_loaded(text)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        _, end = decoder.raw_decode(text, at)
        found.append(_loaded(text[at:end]))
        at = end
    return found


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table with a header; all values are text, and "nan" is an empty cell."""
    if path.suffix.lower() == ".xlsx":
        rows = _spreadsheet(path)
    else:
        rows = _separated(path, "," if path.suffix.lower() == ".csv" else "\t")
    header = _header(next(rows, []))
    for number, cells in enumerate(rows, 2):
        if any(cells[len(header) :]):
            what = f"row {number} has {len(cells)} columns, the header {len(header)}"
            raise SharecapError(what, where=path)
        padded = [*cells, *[""] * (len(header) - len(cells))]
        row = {k: "" if v == "nan" else v for k, v in zip(header, padded, strict=False)}
        if any(row.values()):
            yield row


COLUMNS = (*IDS, *TEXTS, "question", "hint", "answer", "category", "image")
"""Those of tables that readers ask for by name."""


def _header(names: list[str]) -> list[str]:
    """Known columns in our spelling, however they are capitalised; the options' letters stay as they are."""
    ours = {name.lower(): name for name in COLUMNS}
    plain = [name.strip().lower() for name in names]
    return [
        ours.get(low, name) if plain.count(low) == 1 else name for name, low in zip(names, plain, strict=True)
    ]


def _separated(path: Path, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # images are single fields of up to megabytes
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            yield from csv.reader(f, delimiter=delimiter)
    except csv.Error as error:
        raise SharecapError(f"not a table ({error})", where=path) from None
    except UnicodeDecodeError as error:
        raise SharecapError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=path) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _spreadsheet(path: Path) -> Iterator[list[str]]:
    import openpyxl  # type: ignore[import-untyped]
    from openpyxl.utils.exceptions import InvalidFileException  # type: ignore[import-untyped]

    try:
        book = openpyxl.load_workbook(path, read_only=True)
    except (InvalidFileException, BadZipFile, KeyError, ValueError, OSError) as error:
        raise SharecapError(f"not a spreadsheet ({error})", where=path) from None
    try:
        for cells in book.worksheets[0].iter_rows():
            for cell in cells:
                if cell.data_type == "f":
                    what = f"cell {cell.coordinate} holds a formula ({cell.value})"
                    raise SharecapError(what, where=path, todo="save the sheet with text in its cells")
            yield ["" if cell.value is None else str(cell.value) for cell in cells]
    finally:
        book.close()


def _flat(row: Row) -> Row:
    """A line of lmms-eval's sample log as a prediction: its document with the model's text as it came.

    Beside them the line's own fields, e.g. a judge's review. A document without an id goes by its number.
    """
    if not isinstance(row.get("doc"), dict) or not isinstance(row.get("resps"), list):
        return row
    text: Any = row["resps"]
    while isinstance(text, list):
        text = text[0] if text else ""
    doc = row["doc"]
    number = {} if any(name in doc for name in IDS) else {"id": row.get("doc_id", "")}
    return {**row, **doc, **number, "prompt": doc.get("question", ""), "text": text}


def need(rows: Sequence[Row], names: Sequence[str], where: Path) -> None:
    """`SharecapError` unless every row has all these fields (`a|b`: one of the two)."""
    for number, row in enumerate(rows, 1):
        absent = [name for name in names if not any(one in row for one in name.split("|"))]
        if absent:
            every = all(not any(one in r for one in absent[0].split("|")) for r in rows)
            what = f"column missing: {', '.join(absent)}" if every else f"row {number} lacks {absent[0]}"
            raise SharecapError(what, where=where, todo=f"expected {', '.join(names)}")
    if not rows:
        raise SharecapError("holds no rows", where=where, todo=f"expected {', '.join(names)}")


def answers_of(
    rows: Sequence[Row], where: Path, *, ids: Sequence[str] = IDS, texts: Sequence[str] = TEXTS
) -> dict[str, str]:
    """Question id -> the model's text; `SharecapError` if a question comes twice."""
    need(rows, ["|".join(ids), "|".join(texts)], where)
    found: dict[str, str] = {}
    for row in rows:
        name = id_of(row, ids)
        if name in found:
            raise SharecapError(f"item {name} appears twice", where=where, todo="keep one of the two")
        text = row[next(t for t in texts if t in row)]
        if isinstance(text, dict | list):
            raise SharecapError(f"item {name}: the answer is no text ({str(text)[:40]})", where=where)
        found[name] = text_of(text)
    return found


def text_of(value: Any) -> str:
    """An answer as text. A null is an empty answer, never the word "None", which rules would read as 0."""
    return "" if value is None else str(value)


def id_of(row: Row, names: Sequence[str] = IDS) -> str:
    """The row's id as text; 7, "7" and a spreadsheet's 7.0 are the same."""
    value = row[next(name for name in names if name in row)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text
