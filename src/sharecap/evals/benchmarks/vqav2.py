"""VQAv2: open questions about COCO images (arXiv 1612.00837; paper, Table 3).

The rules are in `ten_answers` and `soft_accuracy`. Pictures lie in images/, in the split's folder or beside
the question file.
"""

from functools import partial
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals import ten_answers
from sharecap.evals.files import read_json
from sharecap.evals.task import Task


def read_tasks(directory: Path) -> list[Task]:
    """The official question and annotation file of one split, with images."""
    split = ""
    for file in directory.glob("*question*.json"):
        content = read_json(file)
        split = str(content.get("data_subtype", "")) if isinstance(content, dict) else ""
    samples = ten_answers.read_samples(directory, partial(_picture, directory, split))
    return [ten_answers.task("vqav2", samples, ten_answers.asked, None)]


def read_predictions(path: Path, labels: Path, rule: str | None = None) -> tuple[Task, dict[str, str]]:
    """Upload files or LLaVA's JSON lines, against the VQA format."""
    samples = ten_answers.read_samples(labels)
    task = ten_answers.task("vqav2", samples, ten_answers.asked, rule)
    return task, ten_answers.read_answers(path, samples)


def _picture(directory: Path, split: str, image_id: Any) -> tuple[Path]:
    names = [f"COCO_{split}_{str(image_id).zfill(12)}.{suffix}" for suffix in ("jpg", "png")]
    for folder in (directory / split, directory / "images", directory):
        for name in names:
            if (folder / name).is_file():
                return (folder / name,)
    raise SharecapError("image of a question is missing", where=directory / split / names[0])
