"""VQAv2: open questions about COCO images (arXiv 1612.00837; paper, Table 3).

The rules are in `ten_answers` and `soft_accuracy`. Pictures lie in images/, in the split's folder or beside
the question file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharecap.evals import ten_answers
from sharecap.evals.files import answers_of, read_json, read_rows
from sharecap.evals.pictures import below
from sharecap.evals.soft_accuracy import normalised
from sharecap.evals.task import Task


def read_tasks(directory: Path) -> list[Task]:
    """The official question and annotation file of one split, with images."""
    split = ""
    for file in directory.glob("*question*.json"):
        content = read_json(file)
        split = str(content.get("data_subtype", "")) if isinstance(content, dict) else ""
    picture = below(directory, (split, "images", "."))
    samples = ten_answers.read_samples(directory, lambda name: picture(f"COCO_{split}_{str(name).zfill(12)}"))
    return [ten_answers.task("vqav2", samples, ten_answers.asked, None)]


def read_predictions(path: Path, labels: Path, rule: str | None = None) -> tuple[Task, dict[str, str]]:
    """Upload files or LLaVA's JSON lines, against the VQA format."""
    samples = ten_answers.read_samples(labels)
    task = ten_answers.task("vqav2", samples, ten_answers.asked, rule)
    return task, ten_answers.read_answers(path, samples)


def upload(predictions: Path) -> list[Mapping[str, Any]]:
    """What the VQAv2 server takes: every question's normalised answer, as LLaVA sends it."""
    answers = answers_of(read_rows(predictions), predictions)
    return [
        {"question_id": int(name) if name.isdigit() else name, "answer": normalised(text)}
        for name, text in answers.items()
    ]
