"""Writes open questions as the official files of VizWiz, MM-Vet and LLaVA-Bench (in the wild).

Image files go in byte for byte. What a judge needs to know of a picture stands in words in these files.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.evals.soft_accuracy import normalised
from sharecap.scenes.benchmark_files import Question

UNANSWERABLE = "unanswerable"
NEEDS: Mapping[str, tuple[str, ...]] = {
    "text": ("ocr",),
    "name": ("rec", "know"),
    "position": ("rec", "spat"),
    "relation": ("spat",),
    "shape": ("rec", "spat"),
    "count": ("rec", "math"),
    "detail": ("rec", "gen"),
}
"""Kind of question -> the capabilities that MM-Vet would say it needs; any other needs recognition."""


@dataclass(frozen=True)
class WildQuestion:
    """A question of LLaVA-Bench."""

    image: Path
    category: str  # conv, detail or complex
    text: str
    reference: str  # the answer that the model's is compared with


def write_vizwiz(questions: Sequence[Question], directory: Path) -> None:
    """`val.json`, one question a picture with ten people's answers, and val/."""
    pictures = directory / "val"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, question in enumerate(questions):
        name = f"VizWiz_val_{number:08d}{question.image.suffix}"
        shutil.copyfile(question.image, pictures / name)
        answer = normalised(question.answer)
        answerable = answer != UNANSWERABLE
        kind = "number" if answer.isdigit() else "other" if answerable else UNANSWERABLE
        people = [{"answer": answer, "answer_confidence": "yes"} for _ in range(10)]
        row = {"image": name, "question": question.text, "answers": people}
        rows.append(row | {"answer_type": kind, "answerable": int(answerable)})
    _write(directory / "val.json", rows)


def write_mm_vet(questions: Sequence[Question], directory: Path) -> None:
    """`mm-vet.json` and images/; a question's answer may hold <AND> and <OR>."""
    pictures = directory / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = {}
    for number, question in enumerate(questions):
        name = f"v1_{number}{question.image.suffix}"
        shutil.copyfile(question.image, pictures / name)
        rows[f"v1_{number}"] = {
            "imagename": name,
            "question": question.text,
            "answer": question.answer,
            "capability": list(NEEDS.get(question.kind, ("rec",))),
            "imagesource": "scenes",
        }
    _write(directory / "mm-vet.json", rows)


def write_llava_bench(
    questions: Sequence[WildQuestion], contexts: Mapping[Path, str], directory: Path
) -> None:
    """`questions.jsonl`, `context.jsonl` (what is to be seen), `answers_gpt4.jsonl` and images/."""
    pictures = directory / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    names = {image: f"{number:03d}{image.suffix}" for number, image in enumerate(contexts, 1)}
    for image, name in names.items():
        shutil.copyfile(image, pictures / name)
    asked, answers = [], []
    for number, question in enumerate(questions):
        name = names[question.image]
        category = f"llava_bench_{question.category}"
        asked.append({"question_id": number, "image": name, "category": category, "text": question.text})
        answers.append({"question_id": number, "prompt": question.text, "text": question.reference})
    shown = [{"id": Path(names[i]).stem, "image": names[i], "caption": text} for i, text in contexts.items()]
    for file, rows in (("questions", asked), ("answers_gpt4", answers), ("context", shown)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / f"{file}.jsonl").write_text(text, encoding="utf-8")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
