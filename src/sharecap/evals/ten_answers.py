"""Questions with ten people's answers: VQAv2, TextVQA and VizWiz read and score them alike.

Reads the VQA format (a question and an annotation file), TextVQA's own (`data`) and VizWiz's (a list by
image), and predictions as upload files or LLaVA's JSON lines. A benchmark's own file adds its prompt and
pictures.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.files import IDS, TEXTS, Row, id_of, need, read_json, read_rows, text_of
from sharecap.evals.pictures import Find, nowhere
from sharecap.evals.soft_accuracy import RULES
from sharecap.evals.task import (
    SHORT_ANSWER,
    Measures,
    Record,
    Sample,
    Task,
    by_label,
    check_unique,
    item_mean,
)


def task(name: str, samples: Sequence[Sample], prompt: Callable[[Sample], str], rule: str | None) -> Task:
    """A benchmark of ten answers over these samples, scored by one of `soft_accuracy.RULES`."""
    rule = rule or DEFAULT_RULE
    if rule not in RULES:
        raise UsageError(f"no scoring rule {rule!r}", todo=f"choose one of {', '.join(RULES)}")
    parse, accuracy = RULES[rule]

    def score(sample: Sample, parsed: str | None) -> float:
        # Some people's answers are normalised to nothing too, and then no answer is theirs.
        return accuracy(parse("") if parsed is None else parsed, sample.reference)

    def answer(_: Sample, raw: str) -> str | None:
        return parse(raw) if raw.strip() else None

    ruled = [replace(sample, labels={**sample.labels, "rule": rule}) for sample in samples]
    return Task(name, ruled, prompt, 128, answer, score, measure)


DEFAULT_RULE = "m4c"


def read_samples(labels: Path, find: Find = nowhere) -> list[Sample]:
    """The questions at `labels`: a directory with the files of one split, or one of them."""
    path = _only(labels, "annotation", needed=False) or _only(labels, "", needed=True)
    assert path is not None
    content = read_json(path)
    if isinstance(content, list):
        return _by_image(content, path, find)
    if isinstance(content, dict) and "data" in content:
        rows = _rows(content, "data", ("question_id", "question", "answers"), path)
        return [_sample(row, row, find) for row in rows]
    annotations = _rows(content, "annotations", ("question_id", "answers"), path)
    questions = _questions(path, content.get("data_subtype"), alone=labels.is_dir())
    if not questions:
        return [_sample({"question": "", **row}, row, find) for row in annotations]
    answered = {row["question_id"]: row for row in annotations}
    missing = [row["question_id"] for row in questions if row["question_id"] not in answered]
    if missing:
        what = f"{len(missing)} questions have no annotation (first: {missing[0]})"
        raise SharecapError(what, where=path, todo="take the two files of the same split")
    return [_sample(row, answered[row["question_id"]], find) for row in questions]


def _questions(annotations: Path, split: Any, *, alone: bool) -> list[Row]:
    """The rows of the question file beside the annotations, of the same split where there are several."""
    files = [p for p in sorted(annotations.parent.glob("*.json")) if "question" in p.name.lower()]
    files = [p for p in files if p != annotations]
    contents = {file: read_json(file) for file in files}
    if len(files) > 1 and not alone:
        contents = {
            f: c for f, c in contents.items() if isinstance(c, dict) and c.get("data_subtype") == split
        }
    if len(contents) > 1 or len(files) > len(contents) == 0:
        what = f"{len(files)} files with 'question' in their name, expected one"
        raise SharecapError(what, where=annotations.parent, todo="keep the files of one split")
    needed = ("question_id", "question")
    return [row for file, content in contents.items() for row in _rows(content, "questions", needed, file)]


def _only(place: Path, word: str, *, needed: bool) -> Path | None:
    """The JSON file with `word` in its name; `place` itself if it is one."""
    if place.is_file():
        return place if word in place.name.lower() else None
    found = sorted(p for p in place.glob("*.json") if word in p.name.lower())
    if len(found) == 1:
        return found[0]
    if not found and not needed:
        return None
    what = (
        f"{len(found)} files with {word!r} in their name, expected one" if word else "expected one JSON file"
    )
    raise SharecapError(what, where=place, todo="keep the files of one split, or name the file itself")


def _rows(content: Any, name: str, needed: Sequence[str], where: Path) -> list[Row]:
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and r.keys() >= set(needed) for r in rows):
        raise SharecapError(f"expected a list {name!r} with {', '.join(needed)}", where=where)
    alone = [r["question_id"] for r in rows if "answers" in needed and not r["answers"]]
    if alone:
        raise SharecapError(f"question {alone[0]} has no people's answers", where=where)
    check_unique((str(row["question_id"]) for row in rows), where)
    return rows


def _sample(question: Row, annotation: Row, find: Find) -> Sample:
    names = ("question_type", "answer_type")
    return Sample(
        id=str(question["question_id"]),
        images=find(question.get("image_id", "")),
        image_name=str(question.get("image_id", "")),
        question=question["question"],
        reference=_people(annotation),
        kind=annotation.get("question_type", ""),
        group=str(question["question_id"]),
        labels={name: annotation[name] for name in names if annotation.get(name)},
    )


def _by_image(rows: Sequence[Any], where: Path, find: Find) -> list[Sample]:
    """VizWiz: one question an image, and the image's name stands for the question."""
    if not all(isinstance(row, dict) and row.keys() >= {"image", "question"} for row in rows):
        raise SharecapError("expected a list of image, question, answers", where=where)
    if not all(row.get("answers") for row in rows):
        todo = "the test split has none: its server scores the upload file"
        raise SharecapError("questions without people's answers", where=where, todo=todo)
    check_unique((row["image"] for row in rows), where)
    return [
        Sample(
            id=row["image"],
            images=find(row["image"]),
            image_name=row["image"],
            question=row["question"],
            reference=_people(row),
            kind=row.get("answer_type", ""),
            group=row["image"],
            labels={"answer_type": row["answer_type"]} if row.get("answer_type") else {},
        )
        for row in rows
    ]


def _people(annotation: Row) -> list[str]:
    return [str(a["answer"] if isinstance(a, dict) else a) for a in annotation["answers"]]


def read_answers(path: Path, samples: Sequence[Sample]) -> dict[str, str]:
    """Predictions for these questions: `question_id` or `image` with `answer`, or LLaVA's JSON lines."""
    rows = read_rows(path)
    texts = (*TEXTS, "answer")
    need(rows, ["|".join((*IDS, "image")), "|".join(texts)], path)
    ids = {sample.id for sample in samples}
    # LLaVA's TextVQA answers carry the image's id; the question tells them apart.
    by_question = {(s.image_name, s.question.lower()): s.id for s in samples}
    numbered = {str(int(digits[0])): s.id for s in samples if (digits := re.findall(r"(\d+)\.\w+$", s.id))}
    named = []
    for row in rows:
        name = id_of(row, (*IDS, "image"))
        asked = (name, _question(str(row.get("prompt", ""))).lower())
        found = name if name in ids else by_question.get(asked) or numbered.get(name)
        if found is None:
            todo = "give the labels of what was asked"
            raise SharecapError(f"no question {name} in the benchmark", where=path, todo=todo)
        named.append((found, text_of(row[next(key for key in texts if key in row)])))
    check_unique((found for found, _ in named), path)
    return dict(named)


def _question(prompt: str) -> str:
    """The question in a prompt of LLaVA's, which has OCR tokens before or after it."""
    if told := re.match(r"OCR tokens: .*?Question: (.*?) Short answer:", prompt, re.DOTALL):
        return told[1]
    lines = [line for line in prompt.split("\n") if not line.startswith(("Reference OCR token", "<image>"))]
    return lines[0] if lines else ""


def asked(sample: Sample) -> str:
    """The question with the short-answer suffix."""
    return f"{sample.question}\n{SHORT_ANSWER}"


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy over all items and per answer type."""
    scores = {"accuracy": item_mean(records)}
    for name, some in by_label(records, "answer_type").items():
        scores[f"answer_type: {name}"] = item_mean(some)
    rules = sorted({r.labels["rule"] for r in records})
    return Measures("accuracy", 100.0, scores, (f"scoring rule: {', '.join(rules)}",))
