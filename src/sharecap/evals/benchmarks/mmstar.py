"""MMStar: 1,500 multiple-choice questions that need their picture (arXiv 2403.20330).

The rule is the authors': the first letter of the text counts, also that of a longer word (such answers are
shown), or the letter after "(", "option " or "the answer is ". The score is a mean over items, not over axes.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.evals.files import answers_of, id_of, need, read_rows, within
from sharecap.evals.pictures import embedded
from sharecap.evals.task import Measures, Record, Sample, Task, by_label, check_unique, item_mean

ITEMS = 1500
LABELS = ("category", "l2_category")


def task(samples: Sequence[Sample]) -> Task:
    """MMStar over these samples."""
    return Task("mmstar", samples, prompt, 1024, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The table with the images in it: the hub's `.parquet`, else a `.tsv` with base64."""
    path = _table(directory)
    samples = read_samples(path, ("index", "question", "answer"))
    bare = [sample.id for sample in samples if not sample.images]
    if bare:
        raise SharecapError(f"row {bare[0]} has no image", where=path)
    return [task(samples)]


def _table(place: Path) -> Path:
    return within(place, "*.parquet" if any(place.glob("*.parquet")) else "*.tsv")


def read_samples(path: Path, needed: Sequence[str] = ("index", "answer")) -> list[Sample]:
    """The official table: `index, question, answer, category, l2_category` (`.tsv`, `.xlsx`, `.parquet`)."""
    rows = read_rows(path)
    need(rows, needed, path)
    check_unique((id_of(row) for row in rows), path)
    for row in rows:
        if len(str(row["answer"]).strip()) != 1:
            what = f"row {id_of(row)}: the answer {row['answer']!r} is not one letter"
            raise SharecapError(what, where=path)
    return [
        Sample(
            id=id_of(row),
            images=(embedded(row["image"], id_of(row), path),) if row.get("image") else (),
            image_name="",
            question=str(row.get("question", "")),
            reference=str(row["answer"]).strip().upper(),
            kind=str(row.get("category", "")),
            group=id_of(row),
            labels={name: str(row[name]) for name in LABELS if row.get(name)},
        )
        for row in rows
    ]


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """A table with `index`, `prediction`; its own labels, or those of `labels`."""
    return task(read_samples(_table(labels) if labels else path)), answers_of(read_rows(path), path)


def prompt(sample: Sample) -> str:
    """The question, which holds its options."""
    return sample.question


def parse(_: Sample, raw: str) -> str | None:
    """The letter that the official rule takes."""
    text = raw.lower().strip().replace("\n", " ")
    for start in ("", "(", "option ", "the answer is "):
        letter = text[len(start) : len(start) + 1]
        if text.startswith(start) and letter in tuple("abcd"):
            return letter.upper()
    return None


def score(sample: Sample, parsed: str | None) -> float:
    """1 for the right letter."""
    return float(parsed == sample.reference)


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy over all items and per category."""
    scores = {"accuracy": item_mean(records)}
    for label in LABELS:
        for name, some in by_label(records, label).items():
            scores[f"{label}: {name}"] = item_mean(some)
    notes = []
    if words := sum(r.parsed is not None and re.match(r"\s*[^\W\d_]{2}", r.raw) is not None for r in records):
        notes.append(f"{words:,} answers start with a word; its first letter counts, as the rule has it")
    if len(records) != ITEMS:
        notes.append(f"{len(records):,} items; the benchmark has {ITEMS:,}")
    return Measures("accuracy", 100.0, scores, tuple(notes))
