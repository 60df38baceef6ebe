"""Writes questions as the official files of MME, MMBench and VQAv2, for the readers of the real ones.

Image files go in byte for byte: a picture that several benchmarks ask about keeps one digest.
"""

import base64
import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.evals.soft_accuracy import normalised

SUBTASKS: Mapping[str, str] = {
    "existence": "existence",
    "shape": "existence",
    "count": "count",
    "position": "position",
    "relation": "position",
    "color": "color",
    "text": "OCR",
    "name": "landmark",
    "style": "artwork",
    "sum": "numerical_calculation",
}
"""Kind of question -> the MME subtask that asks it."""

KIND_NAMES: Mapping[str, str] = {"OCR": "text", "landmark": "name", "artwork": "style"}
"""Names that MME gives to kinds, and the scenes' own: for tables over several benchmarks."""

SPLIT = "val2014"
LETTERS = "ABCD"
COPY = 1_000_000
_IN_FOLDERS = ("landmark", "artwork")
"""Subtasks that the official release keeps in images/ and questions_answers_YN/."""


@dataclass(frozen=True)
class Question:
    """One question about one picture."""

    id: str
    image: Path
    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()  # 2 to 4, the answer among them, for multiple choice


@dataclass(frozen=True)
class YesNoPair:
    """Two questions about one picture, as MME asks them."""

    image: Path
    kind: str
    yes: str  # the question whose answer is yes
    no: str  # the question whose answer is no


def write_mme(pairs: Iterable[YesNoPair], directory: Path) -> None:
    """`<subtask>/NNNNNN.png` with `NNNNNN.txt`: two lines `question<TAB>Yes|No` a picture."""
    numbers: Counter[str] = Counter()
    for pair in pairs:
        subtask = SUBTASKS[pair.kind]
        pictures = texts = directory / subtask
        if subtask in _IN_FOLDERS:
            pictures, texts = pictures / "images", texts / "questions_answers_YN"
        for folder in (pictures, texts):
            folder.mkdir(parents=True, exist_ok=True)
        name = f"{numbers[subtask]:06d}"
        numbers[subtask] += 1
        shutil.copyfile(pair.image, pictures / f"{name}{pair.image.suffix}")
        lines = [f"{q} Please answer yes or no.\t{a}\n" for q, a in ((pair.yes, "Yes"), (pair.no, "No"))]
        (texts / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def write_mmbench(questions: Sequence[Question], path: Path) -> None:
    """The TSV of circular evaluation: every question once per option, its options rolled on each time."""
    header = ["index", "question", "hint", *LETTERS, "answer", "category", "l2-category", "image", "split"]
    most = max((len(q.options) for q in questions), default=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, header, delimiter="\t", lineterminator="\n", restval="")
        table.writeheader()
        for rolled in range(most):
            for index, question in enumerate(questions):
                if rolled < len(question.options):
                    table.writerow(_row(question, index, rolled))


def _row(question: Question, index: int, rolled: int) -> dict[str, str]:
    options = question.options[rolled:] + question.options[:rolled]
    assert 2 <= len(options) <= len(LETTERS), question
    return {
        "index": str(index + rolled * COPY),
        "question": question.text,
        **dict(zip(LETTERS, options, strict=False)),
        "answer": LETTERS[options.index(question.answer)],
        "category": question.kind,
        "image": base64.b64encode(question.image.read_bytes()).decode(),
        "split": "dev",
    }


def write_vqav2(questions: Iterable[Question], directory: Path) -> None:
    """Question file, annotation file with ten equal answers, and `val2014/COCO_val2014_NNNNNNNNNNNN.png`.

    Answers are written as VQAv2 has them ("3", not "three"): its server compares equal ones as they stand.
    """
    pictures = directory / SPLIT
    pictures.mkdir(parents=True, exist_ok=True)
    numbers: dict[Path, int] = {}
    asked: Counter[Path] = Counter()
    rows, annotations = [], []
    for question in questions:
        image = question.image
        if image not in numbers:
            numbers[image] = len(numbers) + 1
            shutil.copyfile(image, pictures / f"COCO_{SPLIT}_{numbers[image]:012d}{image.suffix}")
        ids = {"image_id": numbers[image], "question_id": numbers[image] * 1000 + asked[image]}
        asked[image] += 1
        answer = normalised(question.answer)
        answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
        rows.append({**ids, "question": question.text})
        annotations.append(
            {
                **ids,
                "question_type": question.kind,
                "answer_type": _answer_type(answer),
                "multiple_choice_answer": answer,
                "answers": answers,
            }
        )
    shared = {"data_type": "mscoco", "data_subtype": SPLIT}
    files: dict[str, dict[str, Any]] = {
        f"v2_OpenEnded_mscoco_{SPLIT}_questions.json": {"task_type": "Open-Ended", "questions": rows},
        f"v2_mscoco_{SPLIT}_annotations.json": {"annotations": annotations},
    }
    for name, content in files.items():
        text = json.dumps({**shared, **content}, ensure_ascii=False)
        (directory / name).write_text(text, encoding="utf-8")


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"
