"""MMBench: multiple choice under CircularEval: a question counts only if every rolled copy of it is right.

Reads the official TSV (images inside, base64) and predictions as the official spreadsheet or JSON lines
(arXiv 2307.06281; paper, Table 3). Never picks an option for an answer that names none: it counts as wrong.
"""

import base64
import binascii
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sharecap.errors import SharecapError
from sharecap.evals.task import (
    OPTION_LETTER,
    Measures,
    Record,
    Sample,
    Task,
    check_unique,
    group_mean,
    item_mean,
)

COPY = 1_000_000
"""Copy k of a question has index + k x COPY."""
LETTERS = "ABCD"
OPTION_LETTER_CN = "请直接回答选项字母。"
LABELS = ("category", "l2-category")

_BARE = re.compile(r"[\s(\[]*([A-D])\s*[)\].:,]*\s*")
_LEADING = re.compile(r"[\s(\[]*([A-D])\s*[)\].:]\s*\S")
_STATED = re.compile(r"\b(?i:answer|option|choice)(?i: is)?:?\s*[(\[]?([B-D]\b|A\b(?!\s+\w))")
"""A before a word is taken as the article."""


def task(samples: Sequence[Sample], *, chinese: bool = False) -> Task:
    """MMBench (or MMBench-CN) over these samples."""
    name, suffix = ("mmbench-cn", OPTION_LETTER_CN) if chinese else ("mmbench", OPTION_LETTER)
    return Task(name, samples, lambda sample: f"{sample.question}\n{suffix}", 1024, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """One task per TSV: MMBench, and MMBench-CN where the file's name has `cn` in it."""
    files = sorted(directory.glob("*.tsv"))
    if not files:
        raise SharecapError("no MMBench table", where=directory, todo="expected a .tsv file")
    tasks = [
        task(read_samples(file), chinese="cn" in re.split(r"[_\-.]", file.stem.lower())) for file in files
    ]
    for file, found in zip(files, tasks, strict=True):
        for sample in found.samples:
            if not sample.images:
                raise SharecapError(f"row {sample.id} has no image", where=file)
    if len({t.name for t in tasks}) < len(tasks):
        raise SharecapError("several tables in one language", where=directory, todo="keep one of each")
    return tasks


def read_samples(path: Path) -> list[Sample]:
    """The questions of an official table (`.tsv`, or `.xlsx` without images)."""
    rows = list(_read_table(path, ("index", "question", "A", "B", "answer")))
    check_unique((row["index"] for row in rows), path)
    images = {row["index"]: row["image"] for row in rows if row.get("image")}
    # Rolled copies repeat their image: one object for each, decoded once.
    decoded: dict[str, bytes] = {}
    return [_sample(row, images, decoded, path) for row in rows]


def _sample(
    row: Mapping[str, str], images: Mapping[str, str], decoded: dict[str, bytes], where: Path
) -> Sample:
    index = row["index"]
    options = {letter: row[letter] for letter in LETTERS if row.get(letter)}
    if row["answer"] not in options:
        what = f"row {index}: the answer {row['answer']!r} is none of the options {'/'.join(options)}"
        raise SharecapError(what, where=where, todo="a table without answers (test split) can't be scored")
    lines = [row["question"], *(f"{letter}. {text}" for letter, text in options.items())]
    code = row.get("image", "")
    if len(code) < 64:
        code = images.get(code, code)  # a short value is the index of the row that holds the image
    if code and code not in decoded:
        try:
            decoded[code] = base64.b64decode(code, validate=True)
        except binascii.Error:
            raise SharecapError(f"row {index}: the image is not base64", where=where) from None
    group = str(int(index) % COPY)
    return Sample(
        id=index,
        images=(decoded[code],) if code else (),
        image_name=group,
        question="\n".join([row["hint"], *lines] if row.get("hint") else lines),
        reference={"answer": row["answer"], "options": options},
        kind=row.get("category", ""),
        group=group,
        labels={name: row[name] for name in LABELS if row.get(name)},
    )


def read_predictions(path: Path, data: Path | None) -> tuple[Task, dict[str, str]]:
    """Predictions as `.xlsx` (labels inside, or from `data`) or JSON lines (labels from `data`)."""
    if path.suffix == ".xlsx":
        rows = list(_read_table(path, ("index", "prediction")))
        check_unique((row["index"] for row in rows), path)
        answers = {row["index"]: row["prediction"] for row in rows}
        return task(read_samples(data or path)), answers
    if data is None:
        raise SharecapError("JSON lines hold no labels", where=path, todo="add --data with the MMBench table")
    pairs = [(_index(name, path), text) for name, text in _read_lines(path)]
    check_unique((index for index, _ in pairs), path)
    return task(read_samples(data)), dict(pairs)


def _read_lines(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            name = next(row[k] for k in ("index", "question_id") if k in row)
            yield name, str(next(row[k] for k in ("prediction", "text") if k in row))
        except (ValueError, TypeError, StopIteration):
            what = f"line {number} is not a prediction"
            todo = (
                "expected JSON lines with index (or question_id) and prediction (or text), or an .xlsx file"
            )
            raise SharecapError(what, where=path, todo=todo) from None


def _read_table(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows with text values; empty cells and "nan" are left out."""
    rows = _spreadsheet(path) if path.suffix == ".xlsx" else _tab_separated(path)
    header = next(rows, [])
    absent = [name for name in needed if name not in header]
    if absent:
        raise SharecapError(
            f"column missing: {', '.join(absent)}", where=path, todo="expected an MMBench table"
        )
    for cells in rows:
        row = {k: v for k, v in zip(header, cells, strict=False) if v not in ("", "nan")}
        if row:
            short = [name for name in needed if name not in row]
            if short == ["prediction"]:
                row["prediction"] = ""  # the model said nothing: wrong, and counted as unparsed
            elif short:
                raise SharecapError(f"a row without {', '.join(short)}", where=path)
            yield row | {"index": _index(row["index"], path)}


def _index(value: Any, where: Path) -> str:
    try:
        return str(int(value))
    except (TypeError, ValueError):
        raise SharecapError(
            f"{value!r} is not an index", where=where, todo="expected a whole number"
        ) from None


def _tab_separated(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # images are single fields of up to megabytes
    with open(path, encoding="utf-8", newline="") as f:
        try:
            yield from csv.reader(f, delimiter="\t")
        except csv.Error as error:
            raise SharecapError(f"not a tab-separated table ({error})", where=path) from None


def _spreadsheet(path: Path) -> Iterator[list[str]]:
    import openpyxl  # type: ignore[import-untyped]
    from openpyxl.utils.exceptions import InvalidFileException  # type: ignore[import-untyped]

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, BadZipFile, KeyError, ValueError, OSError) as error:
        raise SharecapError(f"not a spreadsheet ({error})", where=path) from None
    sheet = book.worksheets[0]
    for cells in sheet.iter_rows(values_only=True):
        yield ["" if cell is None else str(cell) for cell in cells]
    book.close()


def parse(sample: Sample, raw: str) -> str | None:
    """The option that the text names: its letter, "the answer is X", or the option's own words; else None."""
    options: dict[str, str] = sample.reference["options"]
    letter = _BARE.fullmatch(raw) or _LEADING.match(raw)
    named = {letter.group(1)} if letter else set(_STATED.findall(raw))
    if len(named) == 1:
        return found if (found := named.pop()) in options else None
    words = _plain(raw)
    same = [letter for letter, text in options.items() if _plain(text) == words]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip().lower()


def score(sample: Sample, parsed: str | None) -> float:
    """1 if the right letter is named (one pass; `measure` asks for all passes)."""
    return float(parsed == sample.reference["answer"])


def measure(records: Sequence[Record]) -> Measures:
    """Circular accuracy, over all and per category, and the accuracy of single passes."""
    scores = {"circular_accuracy": group_mean(records), "accuracy": item_mean(records)}
    for label in LABELS:
        for name in sorted({r.labels[label] for r in records if label in r.labels}):
            scores[f"{label}: {name}"] = group_mean([r for r in records if r.labels.get(label) == name])
    return Measures("circular_accuracy", 100.0, scores)
