"""Writes multiple choice as the official files of SEED-Bench, Q-Bench and ScienceQA, and MMBench in Chinese.

Image files go in byte for byte. MMBench's table itself is written by `benchmark_files.py`.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.scenes.benchmark_files import LETTERS, Question

SEED_TYPES: Mapping[str, int] = {
    "style": 1,
    "existence": 2,
    "shape": 2,
    "name": 2,
    "color": 3,
    "position": 4,
    "count": 5,
    "relation": 6,
    "text": 9,
}
"""Kind of question -> SEED-Bench's dimension that asks it."""

CONCERNS: Mapping[str, int] = {"style": 1, "color": 1, "text": 2}
"""Kind of question -> Q-Bench's concern; all others are "other, in context"."""

_CHINESE = (
    (r"Which shape is there in the picture\?", "图片里有哪种形状？"),
    (r"How many objects are there in the picture\?", "图片里有几个物体？"),
    (r"Which shape is at the (.+)\?", r"\1是什么形状？"),
    (r"What color is the object at the (.+)\?", r"\1的物体是什么颜色？"),
    (r"Where is the (.+) relative to the (.+)\?", r"\1在\2的什么位置？"),
    (r"Where is the (.+)\?", r"\1在哪里？"),
    (r"Which word is on the sign\?", "牌子上写着哪个词？"),
    (r"What is the name of the emblem\?", "徽章的名字是什么？"),
    (r"In which style is the picture painted\?", "这幅画是什么风格？"),
)


def in_chinese(question: Question) -> Question:
    """The question in Chinese; places, shapes and options keep the words that this world has for them."""
    for pattern, words in _CHINESE:
        if re.fullmatch(pattern, question.text):
            return replace(question, text=re.sub(pattern, words, question.text))
    raise AssertionError(question.text)


def write_seed(questions: Sequence[Question], directory: Path) -> None:
    """`SEED-Bench.json`, and the pictures in SEED-Bench-image/ under their names without a suffix."""
    pictures = directory / "SEED-Bench-image"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, question in enumerate(questions):
        shutil.copyfile(question.image, pictures / question.image.stem)
        row: dict[str, Any] = {
            "question_id": str(number),
            "question_type_id": SEED_TYPES[question.kind],
            "question": question.text,
            "answer": LETTERS[question.options.index(question.answer)],
            "data_id": question.image.stem,
            "data_type": "image",
        }
        rows.append(row | {f"choice_{letter.lower()}": o for letter, o in _lettered(question)})
    _write(directory / "SEED-Bench.json", {"questions": rows})


def write_qbench(questions: Sequence[Question], directory: Path) -> None:
    """`llvisionqa_dev.json`, one question a picture, and images/."""
    pictures = directory / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for question in questions:
        shutil.copyfile(question.image, pictures / question.image.name)
        kind = 0 if set(question.options) == {"Yes", "No"} else 2 if question.text.startswith("How") else 1
        rows.append(
            {
                "type": kind,
                "concern": CONCERNS.get(question.kind, 3),
                "question": question.text,
                "img_path": question.image.name,
                "candidates": list(question.options),
                "correct_ans": question.answer,
            }
        )
    _write(directory / "llvisionqa_dev.json", rows)


def write_scienceqa(questions: Sequence[Question], directory: Path) -> None:
    """`problems.json`, `pid_splits.json`, and images/test/N/image.png."""
    problems = {}
    for number, question in enumerate(questions, 1):
        place = directory / "images" / "test" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        name = f"image{question.image.suffix}"
        shutil.copyfile(question.image, place / name)
        problems[str(number)] = {
            "question": question.text,
            "choices": list(question.options),
            "answer": question.options.index(question.answer),
            "hint": "" if number % 2 else "The picture is drawn on a grid of three rows and three columns.",
            "image": name,
            "subject": "language science" if question.kind in ("text", "name") else "natural science",
            "split": "test",
        }
    _write(directory / "problems.json", problems)
    _write(directory / "pid_splits.json", {"test": list(problems)})


def _lettered(question: Question) -> list[tuple[str, str]]:
    return list(zip(LETTERS, question.options, strict=False))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
