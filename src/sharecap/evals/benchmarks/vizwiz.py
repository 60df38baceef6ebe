"""VizWiz: questions that blind people asked about their own pictures (arXiv 1802.08218; paper, Table 3).

Its entries of ten answers carry no id: people are told apart by position (see `soft_accuracy`).
"""

from collections.abc import Mapping
from pathlib import Path

from sharecap.evals import ten_answers
from sharecap.evals.files import answers_of, read_rows
from sharecap.evals.pictures import below
from sharecap.evals.soft_accuracy import normalised
from sharecap.evals.task import SHORT_ANSWER, Sample, Task

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


def read_tasks(directory: Path) -> list[Task]:
    """The official list of a split with answers, and its images."""
    samples = ten_answers.read_samples(directory, below(directory, ("val", "images", ".")))
    return [ten_answers.task("vizwiz", samples, prompt, None)]


def read_predictions(path: Path, labels: Path, rule: str | None = None) -> tuple[Task, dict[str, str]]:
    """Upload files (`image`, `answer`) or LLaVA's JSON lines (numbered), against the official list."""
    samples = ten_answers.read_samples(labels)
    return ten_answers.task("vizwiz", samples, prompt, rule), ten_answers.read_answers(path, samples)


def prompt(sample: Sample) -> str:
    """The question, leave to give up, and the short-answer suffix."""
    return f"{sample.question}\n{UNANSWERABLE}\n{SHORT_ANSWER}"


def upload(predictions: Path) -> list[Mapping[str, str]]:
    """What the VizWiz server takes: each image's normalised answer; a number is one of the test split's."""
    answers = answers_of(read_rows(predictions), predictions)
    named = {f"VizWiz_test_{int(name):08d}.jpg" if name.isdigit() else name: t for name, t in answers.items()}
    return [{"image": image, "answer": normalised(text)} for image, text in named.items()]
