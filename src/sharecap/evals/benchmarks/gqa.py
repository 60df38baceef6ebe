"""GQA: compositional questions made from scene graphs; one right word or phrase (arXiv 1902.09506).

Exact equality after lower case and without a final period; nothing else is forgiven.
"""

from collections.abc import Sequence
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.evals.files import TEXTS, answers_of, only, read_json, read_rows, within
from sharecap.evals.pictures import Find, below, nowhere
from sharecap.evals.task import SHORT_ANSWER, Measures, Record, Sample, Task, by_label, item_mean

QUESTIONS = "*questions.json"


def task(samples: Sequence[Sample]) -> Task:
    """GQA over these samples."""
    return Task("gqa", samples, prompt, 128, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The official questions of one split, with images/."""
    path, find = only(directory, QUESTIONS), below(directory, ("images", "."))
    return [task(read_samples(path, find, ("question", "answer")))]


def read_samples(path: Path, find: Find = nowhere, needed: Sequence[str] = ("answer",)) -> list[Sample]:
    """The official questions, e.g. `testdev_balanced_questions.json`."""
    content = read_json(path)
    rows = content.items() if isinstance(content, dict) else ()
    if not rows or not all(isinstance(row, dict) and row.keys() >= set(needed) for _, row in rows):
        raise SharecapError(f"expected questions by id, with {' and '.join(needed)}", where=path)
    return [
        Sample(
            id=name,
            images=find(row.get("imageId", "")),
            image_name=str(row.get("imageId", "")),
            question=row.get("question", ""),
            reference=row["answer"],
            kind=(row.get("types") or {}).get("structural", ""),
            group=name,
            labels={k: v for k, v in (row.get("types") or {}).items() if v},
        )
        for name, row in rows
    ]


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """The official list of `questionId`, `prediction`, or LLaVA's JSON lines."""
    samples = read_samples(within(labels, QUESTIONS))
    return task(samples), answers_of(read_rows(path), path, texts=(*TEXTS, "answer"))


def prompt(sample: Sample) -> str:
    """The question with the short-answer suffix."""
    return f"{sample.question}\n{SHORT_ANSWER}"


def parse(_: Sample, raw: str) -> str | None:
    """The text itself, in lower case and without final periods."""
    return raw.rstrip(".").lower() or None


def score(sample: Sample, parsed: str | None) -> float:
    """1 for the very words."""
    return float(parsed == sample.reference)


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy, over all and per structural and semantic type."""
    scores = {"accuracy": item_mean(records)}
    for label in ("structural", "semantic"):
        for name, some in by_label(records, label).items():
            scores[f"{label}: {name}"] = item_mean(some)
    return Measures("accuracy", 100.0, scores)
