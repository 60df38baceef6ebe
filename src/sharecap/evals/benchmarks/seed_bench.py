"""SEED-Bench: multiple choice over nine image and three video dimensions (arXiv 2307.16125; paper, Table 3).

Two scored forms: a letter that must stand alone (LLaVA, ShareGPT4V), and the option with the least loss (the
authors' ranking). Question ids that start with v are videos. Two label sets are about, of 19,242 and 17,990
questions: every label needs a prediction; predictions beyond the labels are counted and shown.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.choice import LETTERS, lettered, shown
from sharecap.evals.files import TABLES, Row, id_of, need, only, read_rows, read_whole, text_of, within
from sharecap.evals.pictures import Find, below, nowhere
from sharecap.evals.task import OPTION_LETTER, Measures, Record, Sample, Task, by_label, item_mean

RANKING = "seed-bench-ranking"
"""What the task is called when options are ranked; the other takes letters."""

FORMS = ("losses", "prediction", "text")
"""What a row of predictions may hold, beside `question_id`."""


def task(samples: Sequence[Sample]) -> Task:
    """SEED-Bench over these samples."""
    return Task("seed-bench", samples, prompt, 128, parse, score, measure)


def ranking(samples: Sequence[Sample]) -> Task:
    """The authors' own asking: the question alone, and the option that the model finds likeliest."""
    return Task(RANKING, samples, alone, 1, parse, score, measure, ranks=True)


def read_tasks(directory: Path) -> list[Task]:
    """The questions about images in the official JSON file, with SEED-Bench-image/."""
    return [task(_about_images(directory))]


def read_ranking(directory: Path) -> list[Task]:
    """The same questions, to be answered by likelihood."""
    return [ranking(_about_images(directory))]


def _about_images(directory: Path) -> list[Sample]:
    find = below(directory, ("SEED-Bench-image", "images", "."))
    samples = read_samples(only(directory, "*.json"), find)
    return [sample for sample in samples if sample.labels["media"] == "image"]


def read_samples(path: Path, find: Find = nowhere) -> list[Sample]:
    """The official JSON file, or lines of `question_id`, `answer`. A repeated question is taken once."""
    rows: Any = read_rows(path) if path.suffix.lower() in TABLES else read_whole(path)
    if isinstance(rows, dict):
        rows = rows.get("questions")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SharecapError("expected a list 'questions' of objects", where=path)
    need(rows, ["question_id", "answer"], path)
    found: dict[str, Sample] = {}
    for row in rows:
        sample = _sample(row, path, find)
        if sample.reference not in tuple(LETTERS):
            what = f"question {sample.id}: the answer {sample.reference!r} is no option's letter"
            raise SharecapError(what, where=path)
        if found.setdefault(sample.id, sample) != sample:
            what = f"question {sample.id} appears twice, and differs"
            raise SharecapError(what, where=path, todo="keep one of the two")
    return list(found.values())


def _sample(row: Row, where: Path, find: Find) -> Sample:
    name = id_of(row)
    kind = row.get("question_type_id")
    if kind is not None and not str(kind).isdecimal():
        raise SharecapError(f"question {name}: question_type_id {kind!r} is no number", where=where)
    said = str(row.get("data_type") or ("video" if name.startswith("v") else "image")).lower()
    video = int(kind) > 9 if kind is not None else said == "video"
    options = lettered([row[k] for k in ("choice_a", "choice_b", "choice_c", "choice_d") if row.get(k)])
    return Sample(
        id=name,
        images=() if video else find(row.get("data_id", "")),
        image_name=str(row.get("data_id", "")),
        question=shown(row.get("question", ""), options),
        reference=str(row["answer"]).strip().upper(),
        kind="" if kind is None else str(kind),
        group=name,
        labels={"media": "video" if video else "image"},
        choices=tuple(options.values()),
    )


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """Lines of `question_id` and `prediction` (or `text`), or `losses`: one number an option."""
    rows = read_rows(path)
    need(rows, ["question_id", "|".join(FORMS)], path)
    answers: dict[str, str] = {}
    for row in rows:
        name, text = id_of(row), _text(row)
        if answers.setdefault(name, text) != text:
            what = f"question {name} appears twice, with different answers"
            raise SharecapError(what, where=path, todo="keep one of the two")
    samples = read_samples(within(labels, "*.json"))
    known = {sample.id for sample in samples}
    beyond = [name for name in answers if name not in known]
    if len(beyond) == len(answers):
        what = f"none of the {len(answers):,} predictions is for a question of these labels"
        raise SharecapError(what, where=path, todo="take the label file of the same version")
    notes = []
    if beyond:
        notes.append(
            f"{len(beyond):,} predictions are for questions that these labels lack, and were left out"
        )
    images = [sample for sample in samples if sample.labels["media"] == "image"]
    if len(images) < len(samples) and known & answers.keys() == {sample.id for sample in images}:
        videos = len(samples) - len(images)
        notes.append(
            f"none of the {videos:,} questions about videos has a prediction: images alone are scored"
        )
        samples = images
    found = replace(task(samples), notes=tuple(notes))
    return found, {name: text for name, text in answers.items() if name in known}


def read_ranked(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """The same, as a run of likelihoods."""
    found, answers = read_predictions(path, labels)
    return replace(found, name=RANKING), answers


def _text(row: Row) -> str:
    form = next(form for form in FORMS if form in row)
    return json.dumps(row[form]) if form == "losses" else text_of(row[form])


def prompt(sample: Sample) -> str:
    """Question, options and the letter suffix."""
    return f"{sample.question}\n{OPTION_LETTER}"


def alone(sample: Sample) -> str:
    """The question without its options, which are what is ranked."""
    return sample.question.removesuffix(shown("", lettered(sample.choices)))


def parse(_: Sample, raw: str) -> str | None:
    """A letter that stands alone, or the letter of the one least loss."""
    if raw.startswith("["):
        return _least(raw)
    letter = raw.strip()
    return letter if letter in tuple("ABCD") else None


def _least(raw: str) -> str | None:
    try:
        losses: Any = json.loads(raw)
    except ValueError:
        return None
    if not losses or not all(isinstance(x, int | float) and math.isfinite(x) for x in losses):
        return None
    return LETTERS[losses.index(min(losses))] if losses.count(min(losses)) == 1 else None


def score(sample: Sample, parsed: str | None) -> float:
    """1 for the right letter."""
    return float(parsed == sample.reference)


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy over images (the paper's figure), videos and all, and per dimension."""
    media = by_label(records, "media")
    scores = {name: item_mean(some) for name, some in media.items()}
    if media.keys() != {"image"}:  # a figure over all is one of images and videos
        scores["all"] = item_mean(records)
    kinds = sorted({r.kind for r in records if r.kind}, key=lambda kind: (len(kind), kind))
    scores |= {f"type {kind}": item_mean([r for r in records if r.kind == kind]) for kind in kinds}
    headline = "image" if "image" in media else "all"
    return Measures(headline, 100.0, scores, items=len(media.get("image", records)))
