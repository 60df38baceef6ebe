"""VizWiz: questions that blind people asked about their own pictures (arXiv 1802.08218; paper, Table 3).

Its entries of ten answers carry no id: people are told apart by position (see `soft_accuracy`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sharecap.evals import ten_answers
from sharecap.evals.soft_accuracy import normalised
from sharecap.evals.task import SHORT_ANSWER, Sample, Task

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


def read_predictions(path: Path, labels: Path, rule: str | None = None) -> tuple[Task, dict[str, str]]:
    """Upload files (`image`, `answer`) or LLaVA's JSON lines (numbered), against the official list."""
    samples = ten_answers.read_samples(labels)
    return ten_answers.task("vizwiz", samples, prompt, rule), ten_answers.read_answers(path, samples)


def prompt(sample: Sample) -> str:
    """The question, leave to give up, and the short-answer suffix."""
    return f"{sample.question}\n{UNANSWERABLE}\n{SHORT_ANSWER}"


def upload(answers: Mapping[str, str], images: Sequence[str]) -> list[Mapping[str, str]]:
    """What the VizWiz server takes: the normalised answer of every image, in this order."""
    return [{"image": image, "answer": normalised(answers[image])} for image in images]
