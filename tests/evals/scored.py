"""Scores small files of predictions as `sharecap score` does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl

from sharecap.evals.results import Run, one_benchmark, summary
from sharecap.evals.suite import read_predictions
from sharecap.evals.task import grade


def scored(benchmark: str, predictions: Path | Sequence[Path], labels: Path | None = None) -> dict[str, Any]:
    """The flat result, with few resamples."""
    paths = [predictions] if isinstance(predictions, Path) else predictions
    task, answers = read_predictions(benchmark, paths, labels, None)
    records = grade(task, answers, paths[0])
    return one_benchmark(summary(Run("small", {task.name: records}), resamples=20), task.notes)


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def whole(path: Path, content: Any) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(content))
    return path


def sheet(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """A spreadsheet."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path
