"""MMBench: multiple choice under CircularEval: a question counts only if every rolled copy of it is right.

Reads the official TSV (images inside, base64) and predictions as the official spreadsheet or JSON lines
(arXiv 2307.06281; paper, Table 3). Never picks an option for an answer that names none: it counts as wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.evals.choice import named, shown
from sharecap.evals.files import answers_of, need, read_rows, read_table
from sharecap.evals.pictures import from_base64
from sharecap.evals.task import (
    OPTION_LETTER,
    Measures,
    Record,
    Sample,
    Task,
    by_label,
    check_unique,
    group_mean,
    item_mean,
)

COPY = 1_000_000
"""Copy k of a question has index + k x COPY."""
LETTERS = "ABCD"
OPTION_LETTER_CN = "请直接回答选项字母。"
SCORED = ("index", "A", "B", "answer")
LABELS = ("category", "l2-category")
TEXTS = ("prediction", "text")


def task(samples: Sequence[Sample], *, chinese: bool = False) -> Task:
    """MMBench (or MMBench-CN) over these samples."""
    name, suffix = ("mmbench-cn", OPTION_LETTER_CN) if chinese else ("mmbench", OPTION_LETTER)
    return Task(name, samples, lambda sample: f"{sample.question}\n{suffix}", 1024, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """One task per TSV: MMBench, and MMBench-CN where the file's name has `cn` in it."""
    files = sorted(directory.glob("*.tsv"))
    if not files:
        raise SharecapError("no MMBench table", where=directory, todo="expected a .tsv file")
    tasks = [task(read_samples(file, ("question", *SCORED)), chinese=is_chinese(file)) for file in files]
    for file, found in zip(files, tasks, strict=True):
        for sample in found.samples:
            if not sample.images:
                raise SharecapError(f"row {sample.id} has no image", where=file)
    if len({t.name for t in tasks}) < len(tasks):
        raise SharecapError("several tables in one language", where=directory, todo="keep one of each")
    return tasks


def is_chinese(file: Path) -> bool:
    """Tables are told apart by their names."""
    return "cn" in re.split(r"[_\-.]", file.stem.lower())


def read_samples(path: Path, needed: Sequence[str] = SCORED) -> list[Sample]:
    """The questions of an official table (`.tsv`, or `.xlsx` without images)."""
    rows = list(_table(path, needed))
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
    answer = row["answer"].strip().upper()
    if answer not in options:
        what = f"row {index}: the answer {row['answer']!r} is none of the options {'/'.join(options)}"
        raise SharecapError(what, where=where, todo="a table without answers (test split) can't be scored")
    code = row.get("image", "")
    if len(code) < 64:
        code = images.get(code, code)  # a short value is the index of the row that holds the image
    if code and code not in decoded:
        decoded[code] = from_base64(code, index, where)
    group = str(int(index) % COPY)
    return Sample(
        id=index,
        images=(decoded[code],) if code else (),
        image_name=group,
        question=shown(row.get("question", ""), options, row.get("hint", "")),
        reference={"answer": answer, "options": options},
        kind=row.get("category", ""),
        group=group,
        labels={name: row[name] for name in LABELS if row.get(name)},
    )


def read_predictions(
    path: Path, labels: Path | None, *, chinese: bool = False
) -> tuple[Task, dict[str, str]]:
    """Predictions as `.xlsx`, `.tsv` or JSON lines; labels inside (tables only), or from `labels`."""
    rows = read_rows(path)
    if labels is None and not any("answer" in row for row in rows):
        raise SharecapError(
            "these predictions hold no labels", where=path, todo="add --labels with the table"
        )
    answers = {_index(name, path): text for name, text in answers_of(rows, path, texts=TEXTS).items()}
    table = _table_in(labels, chinese=chinese) if labels and labels.is_dir() else labels or path
    return task(read_samples(table), chinese=chinese), answers


def _table_in(directory: Path, *, chinese: bool) -> Path:
    files = [file for file in sorted(directory.glob("*.tsv")) if is_chinese(file) == chinese]
    if len(files) != 1:
        what = f"{len(files)} tables (.tsv) in {'Chinese' if chinese else 'English'}, expected one"
        raise SharecapError(what, where=directory, todo="name the file itself")
    return files[0]


def read_chinese(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """The same of MMBench-CN."""
    return read_predictions(path, labels, chinese=True)


def _table(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    found = 0
    for found, row in enumerate(read_table(path), 1):
        need([row], needed, path)
        short = [name for name in needed if not row[name]]
        if short:
            raise SharecapError(f"row {row['index'] or found} lacks {', '.join(short)}", where=path)
        yield row | {"index": _index(row["index"], path)}
    if not found:
        raise SharecapError("no questions", where=path, todo="expected an MMBench table")


def _index(value: str, where: Path) -> str:
    try:
        return str(int(float(value)))
    except ValueError:
        what = f"{value!r} is not an index"
        raise SharecapError(what, where=where, todo="expected a whole number") from None


def upload(predictions: Path, table: Path) -> list[list[str]]:
    """What the MMBench server takes: rows of a sheet, the table's questions with `prediction`."""
    rows = read_rows(predictions)
    answers = {
        _index(name, predictions): text for name, text in answers_of(rows, predictions, texts=TEXTS).items()
    }
    asked = list(read_table(table))
    need(asked, ["index", "question", "A", "B"], table)
    missing = [row["index"] for row in asked if _index(row["index"], table) not in answers]
    if missing:
        what = f"{len(missing):,} of {len(asked):,} questions have no prediction (first: {missing[0]})"
        raise SharecapError(what, where=predictions)
    kept = [name for name in asked[0] if name not in ("image", "hint", "comment", "source", *LABELS)]
    filled = [[*(row[name] for name in kept), answers[_index(row["index"], table)]] for row in asked]
    return [[*kept, "prediction"], *filled]


def parse(sample: Sample, raw: str) -> str | None:
    """The option that the text names: its letter, "the answer is X", or the option's own words; else None."""
    return named(sample.reference["options"], raw)


def score(sample: Sample, parsed: str | None) -> float:
    """1 if the right letter is named (one pass; `measure` asks for all passes)."""
    return float(parsed == sample.reference["answer"])


def measure(records: Sequence[Record]) -> Measures:
    """Circular accuracy, over all and per category, and the accuracy of single passes."""
    circular = group_mean(records)
    scores = {"circular_accuracy": circular, "accuracy": item_mean(records)}
    for label in LABELS:
        for name, some in by_label(records, label).items():
            scores[f"{label}: {name}"] = group_mean(some)
    groups = len(circular[0].values)
    notes = (f"{len(records):,} passes over {groups:,} questions",)
    return Measures("circular_accuracy", 100.0, scores, notes, items=groups)
