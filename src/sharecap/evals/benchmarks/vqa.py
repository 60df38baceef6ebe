"""VQAv2 and TextVQA: short answers against those of ten people (arXiv 1612.00837; paper, Table 3).

Reads the official question and annotation files. Three scoring rules are in use and differ by up to 12 points
on the same predictions, so a score always names its rule. The person left out is told by position, never by
comparing entries: where they carry no id, equal ones would all vanish.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.task import SHORT_ANSWER, Measures, Record, Sample, Task, check_unique, item_mean

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"},
    **{"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
_ARTICLES = ("a", "an", "the")
_PERIODS = 32
"""Periods stripped from one answer: the official code passes re.UNICODE (32) where a count belongs."""
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTED.split()
    for i, letter in enumerate(word)
    if letter == "'"
}
"""The official table: each word with one apostrophe left out; one entry of it runs the other way."""


def task(name: str, samples: Sequence[Sample], rule: str) -> Task:
    """VQAv2 or TextVQA over these samples, scored by one of `RULES`."""
    if rule not in RULES:
        raise UsageError(f"no scoring rule {rule!r}", todo=f"choose one of {', '.join(RULES)}")
    parse, accuracy = RULES[rule]

    def score(sample: Sample, parsed: str | None) -> float:
        return 0.0 if parsed is None else accuracy(parsed, sample.reference)

    def answer(_: Sample, raw: str) -> str | None:
        return parse(raw) if raw.strip() else None

    ruled = [replace(sample, labels={**sample.labels, "rule": rule}) for sample in samples]
    return Task(name, ruled, prompt, 128, answer, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """VQAv2 at `directory`: the two official files, and images in it, in images/ or in the split's folder."""
    return [task("vqav2", read_samples(directory, with_images=True), DEFAULT_RULE["vqav2"])]


def read_samples(data: Path, *, with_images: bool = False) -> list[Sample]:
    """Questions joined with their annotations, in the order of the question file."""
    questions_file, annotations_file = _only(data, "question"), _only(data, "annotation")
    asked = _load(questions_file)
    questions = _rows(asked, "questions", ("question_id", "image_id", "question"), questions_file)
    needed = ("question_id", "answers")
    annotations = _rows(_load(annotations_file), "annotations", needed, annotations_file)
    for rows, where in ((questions, questions_file), (annotations, annotations_file)):
        check_unique((str(row["question_id"]) for row in rows), where)
    answered = {row["question_id"]: row for row in annotations}
    missing = [row["question_id"] for row in questions if row["question_id"] not in answered]
    if missing:
        what = f"{len(missing)} questions have no annotation (first: {missing[0]})"
        raise SharecapError(what, where=annotations_file, todo="take the two files of the same split")
    split = str(asked.get("data_subtype", ""))
    find = partial(_picture, data if data.is_dir() else data.parent, split)
    return [
        _sample(row, answered[row["question_id"]], (find(row["image_id"]),) if with_images else ())
        for row in questions
    ]


def _sample(question: dict[str, Any], annotation: dict[str, Any], images: tuple[Path, ...]) -> Sample:
    answers = [str(a["answer"] if isinstance(a, dict) else a) for a in annotation["answers"]]
    names = ("question_type", "answer_type")
    return Sample(
        id=str(question["question_id"]),
        images=images,
        image_name=str(question["image_id"]),
        question=question["question"],
        reference=answers,
        kind=annotation.get("question_type", ""),
        group=str(question["question_id"]),
        labels={name: annotation[name] for name in names if annotation.get(name)},
    )


def _picture(directory: Path, split: str, image_id: Any) -> Path:
    names = [f"COCO_{split}_{str(image_id).zfill(12)}.{suffix}" for suffix in ("jpg", "png")]
    for folder in (directory / split, directory / "images", directory):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise SharecapError("image of a question is missing", where=directory / split / names[0])


def _only(data: Path, word: str) -> Path:
    """The question or the annotation file at `data` (a directory, or one of the two files)."""
    directory = data if data.is_dir() else data.parent
    found = sorted(p for p in directory.glob("*.json") if word in p.name.lower())
    if len(found) != 1:
        what = f"{len(found)} files with {word!r} in their name, expected one"
        raise SharecapError(what, where=directory, todo="keep the two official files of one split")
    return found[0]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SharecapError(f"not JSON ({error})", where=path) from None
    if not isinstance(content, dict):
        raise SharecapError("expected the official file, a JSON object", where=path)
    return content


def _rows(content: dict[str, Any], name: str, needed: Sequence[str], where: Path) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and row.keys() >= set(needed) for row in rows
    ):
        raise SharecapError(f"expected a list {name!r} with {', '.join(needed)}", where=where)
    return rows


def read_predictions(name: str, path: Path, data: Path, rule: str) -> tuple[Task, dict[str, str]]:
    """Official results (`question_id`, `answer`) or LLaVA's JSON lines (`question_id`, `text`, `prompt`)."""
    samples = read_samples(data)
    rows = _prediction_rows(path)
    ids = {s.id for s in samples}
    # LLaVA's TextVQA answers carry the image's id; the question tells them apart.
    by_question = {(s.image_name, s.question.lower()): s.id for s in samples}
    named = []
    for question_id, text, asked in rows:
        found = question_id if question_id in ids else by_question.get((question_id, asked.lower()))
        if found is None:
            raise SharecapError(f"no question {question_id} in the benchmark", where=path)
        named.append((found, text))
    check_unique((found for found, _ in named), path)
    return task(name, samples, rule), dict(named)


def _prediction_rows(path: Path) -> list[tuple[str, str, str]]:
    """(question id, answer, first line of the prompt) of every prediction."""
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            return [(str(row["question_id"]), str(row["answer"]), "") for row in json.loads(text)]
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [(str(r["question_id"]), str(r["text"]), r.get("prompt", "").split("\n")[0]) for r in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        todo = "expected a JSON list of question_id, answer or JSON lines of question_id, text"
        raise SharecapError(f"not a file of VQA predictions ({error!r})", where=path, todo=todo) from None


def prompt(sample: Sample) -> str:
    """The question with the short-answer suffix."""
    return f"{sample.question}\n{SHORT_ANSWER}"


def soft_accuracy(matches: Sequence[bool]) -> float:
    """Mean over people left out in turn of min(1, matches among the others / 3)."""
    n, k = len(matches), sum(matches)
    return (k * min(1.0, (k - 1) / 3) + (n - k) * min(1.0, k / 3)) / n if k else 0.0


@lru_cache(maxsize=200_000)
def normalised(text: str) -> str:
    """The m4c/EvalAI form: what LLaVA and ShareGPT4V send to the server, and score TextVQA with."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_unpunctuated(_one_line(text)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _unpunctuated(text: str) -> str:
    # A mark vanishes if it touches a space somewhere, or some number has a comma; else it becomes a space.
    numeric = re.search(r"\d,\d", text) is not None
    kept = text
    for mark in _PUNCTUATION:
        if mark in kept:
            kept = kept.replace(mark, "" if numeric or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", kept, count=_PERIODS)


def _words(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def m4c_accuracy(answer: str, people: Sequence[str]) -> float:
    """Soft accuracy of a normalised answer against normalised people's answers."""
    return soft_accuracy([normalised(person) == answer for person in people])


def official_accuracy(answer: str, people: Sequence[str]) -> float:
    """Soft accuracy as the VQAv2 server computes it: both sides are normalised only where people disagree."""
    answer, others = _one_line(answer), [_one_line(person) for person in people]
    if len(set(others)) > 1:
        answer, others = _official(answer), [_official(person) for person in others]
    return soft_accuracy([person == answer for person in others])


@lru_cache(maxsize=200_000)
def _official(text: str) -> str:
    return _words(_unpunctuated(text))


RULES: Mapping[str, tuple[Callable[[str], str], Callable[[str, Sequence[str]], float]]] = {
    "m4c": (normalised, m4c_accuracy),
    "server": (normalised, official_accuracy),
    "server-raw": (_one_line, official_accuracy),
}
"""m4c: LLaVA's TextVQA script. server: answers normalised, then sent to the VQAv2 server, as the paper did.
server-raw: the server's rule on predictions as they are, i.e. on a file that is ready to send."""

DEFAULT_RULE = {"vqav2": "server", "textvqa": "m4c"}


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy over all items and per answer type."""
    scores = {"accuracy": item_mean(records)}
    for name in sorted({r.labels["answer_type"] for r in records if "answer_type" in r.labels}):
        scores[f"answer_type: {name}"] = item_mean(
            [r for r in records if r.labels.get("answer_type") == name]
        )
    rules = sorted({r.labels["rule"] for r in records})
    return Measures("accuracy", 100.0, scores, (f"scoring rule: {', '.join(rules)}",))
