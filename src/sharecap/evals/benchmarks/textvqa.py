"""TextVQA: questions about words in pictures (arXiv 1904.08920).

LLaVA gives the model OCR tokens beside the question; scores with and without them can't be compared, so a
prompt shows which it was. Sending no tokens is what this file does where the benchmark's files hold none.
"""

from pathlib import Path

from sharecap.evals import ten_answers
from sharecap.evals.pictures import below
from sharecap.evals.task import Task


def read_tasks(directory: Path) -> list[Task]:
    """TextVQA's own file of one split, with its images."""
    samples = ten_answers.read_samples(directory, below(directory, ("train_images", "images", ".")))
    return [ten_answers.task("textvqa", samples, ten_answers.asked, None)]


def read_predictions(path: Path, labels: Path, rule: str | None = None) -> tuple[Task, dict[str, str]]:
    """Upload files or LLaVA's JSON lines, against TextVQA's own file or the VQA format."""
    samples = ten_answers.read_samples(labels)
    task = ten_answers.task("textvqa", samples, ten_answers.asked, rule)
    return task, ten_answers.read_answers(path, samples)
