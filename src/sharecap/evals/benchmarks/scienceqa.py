"""ScienceQA: multiple choice of school science; the paper's figure is over questions with a picture.

The rule is LLaVA's: a bare letter, or "X. " in front, or "The answer is X." just once; all else is wrong.
Questions with a picture are those whose prompt holds `<image>`, or that the labels give a picture.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.choice import LETTERS, lettered, shown
from sharecap.evals.files import Row, answers_of, id_of, need, read_json, read_whole, text_of
from sharecap.evals.pictures import below
from sharecap.evals.task import (
    OPTION_LETTER,
    Measures,
    Record,
    Sample,
    Task,
    by_label,
    check_unique,
    item_mean,
)

_STATED = re.compile(r"The answer is ([A-Z]).")


def task(samples: Sequence[Sample]) -> Task:
    """ScienceQA over these samples."""
    return Task("scienceqa", samples, prompt, 128, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The test questions that have a picture, with images/test/."""
    find = below(directory, ("images/test", "test", "images"))
    pictured = [s for s in read_samples(directory) if s.labels.get("image") == "yes"]
    return [task([replace(s, images=find(f"{s.id}/image"), image_name=s.id) for s in pictured])]


def read_samples(place: Path) -> list[Sample]:
    """`problems.json` (its test split), LLaVA's questions or output, or rows of `question_id`, `answer`."""
    path = place / "problems.json" if place.is_dir() else place
    content = read_whole(path)
    if isinstance(content, dict) and "correct" in content and "incorrect" in content:
        return [_judged(row, path) for row in _judgements(content, path)]
    if isinstance(content, list):
        need(content, ["question_id|id", "answer|ground_truth|conversations"], path)
        check_unique((id_of(row) for row in content), path)
        return [_told(row, path) if "conversations" in row else _stated(row, path) for row in content]
    return [_problem(name, content.get(name), path) for name in _test_split(content, path)]


def _test_split(problems: Mapping[str, Row], path: Path) -> list[str]:
    """By `pid_splits.json` beside the problems, else by what they say; all of them if neither tells."""
    splits = path.with_name("pid_splits.json")
    if splits.is_file():
        return list(read_json(splits)["test"])
    test = [name for name, row in problems.items() if isinstance(row, dict) and row.get("split") == "test"]
    return test or list(problems)


def _stated(row: Row, where: Path) -> Sample:
    """A row with the right letter, or with its place among the choices, as in `problems.json`."""
    truth = row.get("answer", row.get("ground_truth"))
    text = text_of(truth).strip().upper()
    letters = LETTERS[: len(row["choices"])] if isinstance(row.get("choices"), list) else LETTERS
    letter = letters[int(text) : int(text) + 1] if text.isdecimal() else text
    if letter not in tuple(letters):
        what = f"question {id_of(row)}: the answer {truth!r} is neither a letter nor a choice's number"
        raise SharecapError(what, where=where, todo="expected A to H, or 0 for the first choice")
    return _sample(id_of(row), letter, "")


def _told(row: Row, where: Path) -> Sample:
    """A question of LLaVA's `llava_test_CQM-A.json`: what was asked, and the truth in the answer to it."""
    said = {turn["from"]: str(turn["value"]) for turn in row["conversations"]}
    letters = _STATED.findall(said.get("gpt", ""))
    if len(letters) != 1:
        what = f"question {id_of(row)}: no one letter in {said.get('gpt', '')[:40]!r}"
        raise SharecapError(what, where=where, todo='expected "The answer is X." as what gpt says')
    asked = said.get("human", "")
    return _sample(id_of(row), letters[0], asked, bool(row.get("image")) or "<image>" in asked)


def _judgements(content: Mapping[str, Any], where: Path) -> list[Row]:
    rows = [*content["correct"], *content["incorrect"]]
    need(rows, ["question_id", "ground_truth", "pred"], where)
    check_unique((id_of(row) for row in rows), where)
    return rows


def _judged(row: Row, where: Path) -> Sample:
    if str(row["ground_truth"]) not in tuple(LETTERS):
        raise SharecapError(f"question {id_of(row)}: no letter but {row['ground_truth']!r}", where=where)
    asked = str(row.get("question", ""))
    pictured = bool(row["is_multimodal"]) if "is_multimodal" in row else "<image>" in asked
    return _sample(id_of(row), str(row["ground_truth"]), asked, pictured)


def _problem(name: str, row: Row | None, where: Path) -> Sample:
    if not isinstance(row, dict) or not row.keys() >= {"question", "choices", "answer"}:
        what = f"problem {name} has no question, choices and answer"
        raise SharecapError(what, where=where, todo="expected ScienceQA's problems.json")
    if row["answer"] not in range(len(row["choices"])):
        what = f"problem {name}: the answer {row['answer']!r} is no place among its choices"
        raise SharecapError(what, where=where)
    question = shown(row["question"], lettered(row["choices"]), "")
    asked = f"Context: {row['hint']}\n{question}" if row.get("hint") else question
    pictured = bool(row["image"]) if "image" in row else None
    return _sample(name, LETTERS[row["answer"]], asked, pictured, str(row.get("subject", "")))


def _sample(name: str, answer: str, asked: str, pictured: bool | None = None, kind: str = "") -> Sample:
    return Sample(
        id=name,
        images=(),
        image_name="",
        question=asked,
        reference=answer,
        kind=kind,
        group=name,
        labels={} if pictured is None else {"image": "yes" if pictured else "no"},
    )


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """LLaVA's output (truth inside), its result file (`outputs`) or its answers, JSON lines."""
    content = read_whole(path)
    if isinstance(content, list):
        return _with_labels(answers_of(content, path), labels, path, _pictured(content))
    if isinstance(content, dict) and isinstance(content.get("outputs"), dict):
        texts = {str(name): text_of(text) for name, text in content["outputs"].items()}
        return _with_labels(texts, labels, path, {})
    if isinstance(content, dict) and isinstance(content.get("correct"), list) and "incorrect" in content:
        answers = {id_of(row): text_of(row["pred"]) for row in _judgements(content, path)}
        own = read_samples(path)
        told = {s.id: s.labels["image"] == "yes" for s in own}
        if labels is None:
            return task(own), answers
        return _with_labels(answers, labels, path, told if any(told.values()) else {})
    todo = "expected LLaVA's lists correct and incorrect, its outputs, or JSON lines of question_id, text"
    raise SharecapError("not a file of ScienceQA predictions", where=path, todo=todo)


def _pictured(rows: Sequence[Row]) -> dict[str, bool]:
    """Which questions had a picture, where their prompts tell."""
    prompts = {id_of(row): str(row.get("prompt", "")) for row in rows}
    told = any("<image>" in text for text in prompts.values())
    return {name: "<image>" in text for name, text in prompts.items()} if told else {}


def _with_labels(
    answers: dict[str, str], labels: Path | None, path: Path, pictured: Mapping[str, bool]
) -> tuple[Task, dict[str, str]]:
    if labels is None:
        raise SharecapError("these predictions hold no labels", where=path, todo="add --labels problems.json")
    samples = read_samples(labels)
    # Where some problems name a picture, those that name none have none.
    otherwise = False if any("image" in s.labels for s in samples) else None
    samples = [
        s
        if "image" in s.labels
        else _sample(s.id, s.reference, s.question, pictured.get(s.id, otherwise), s.kind)
        for s in samples
    ]
    return task(samples), answers


def prompt(sample: Sample) -> str:
    """Question, options and the letter suffix, unless the file's own prompt has it."""
    asked = sample.question.removeprefix("<image>\n")
    return asked if asked.endswith(OPTION_LETTER) else f"{asked}\n{OPTION_LETTER}"


def parse(_: Sample, raw: str) -> str | None:
    """The letter by LLaVA's rule."""
    if raw in tuple("ABCDE"):
        return raw
    if len(raw) >= 3 and raw[0] in "ABCDE" and raw[1:3] == ". ":
        return raw[0]
    found = _STATED.findall(raw)
    return found[0] if len(found) == 1 else None


def score(sample: Sample, parsed: str | None) -> float:
    """1 for the right letter."""
    return float(parsed == sample.reference)


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy over questions with a picture (the paper's figure), without, and over all."""
    scores = {"accuracy": item_mean(records)}
    split = by_label(records, "image")
    names = {"yes": "image_accuracy", "no": "text_accuracy"}
    scores |= {names[value]: item_mean(some) for value, some in split.items()}
    for name in sorted({r.kind for r in records if r.kind}):
        scores[f"subject: {name}"] = item_mean([r for r in records if r.kind == name])
    if "yes" in split:
        return Measures("image_accuracy", 100.0, scores, items=len(split["yes"]))
    note = "which questions have a picture is not known here: the score is over all"
    return Measures("accuracy", 100.0, scores, (note,))
