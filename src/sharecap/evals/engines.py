"""Reads what other engines leave: tables of VLMEvalKit, and sample logs of lmms-eval, with the truth inside.

Both keep question, truth and the model's text of every item, so no label file is needed; texts are scored by
the benchmark's own rule, never by what the engine made of them. Neither keeps the pictures: where no column
tells which questions share one, intervals take each question for an image of its own, and a note says so.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals import ten_answers
from sharecap.evals.benchmarks import (
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mme,
    pope,
    qbench,
    scienceqa,
    seed_bench,
)
from sharecap.evals.choice import LETTERS, lettered, shown
from sharecap.evals.files import IDS, TABLES, Row, id_of, read_rows, text_of
from sharecap.evals.task import Sample, Task, check_unique

OWN_TABLES = ("mmbench", "mmbench-cn")
"""Benchmarks whose own form is VLMEvalKit's table."""

PICTURES = ("image_path", "image_source", "imageId", "image_id")
FAILED = "retries failed"
"""What VLMEvalKit writes in a row's log when its judge gave no grade; the grade itself is then 0."""


COUNTS = {"mm-vet": mm_vet.ITEMS, "llava-bench": llava_bench.ITEMS}
"""Items of the benchmarks whose scores are a judge's: a part of them is no score."""

Items = list[tuple[Sample, str]]


@dataclass(frozen=True)
class Form:
    """How a benchmark's rows become items."""

    needed: tuple[str, ...]  # columns that such a file has, `a|b`: one of the two
    items: Callable[[Row, str, Path], Items]  # row, its id, file -> samples and texts
    task: Callable[[Sequence[Sample]], Task] | None  # None: ten people's, by the rule that is asked for


def read(name: str, path: Path, rule: str | None = None) -> tuple[Task, dict[str, str]] | None:
    """Task and texts of an engine's file of this benchmark; None if it isn't such a file.

    `rule` is one of those for ten people's answers.
    """
    table = path.suffix.lower() in TABLES and name not in OWN_TABLES
    if name not in FORMS or path.is_dir() or not (table or _is_log(path)):
        return None
    form, rows = FORMS[name], read_rows(path)
    if not rows or not all(any(one in rows[0] for one in need.split("|")) for need in form.needed):
        return None
    items: Items = []
    for number, row in enumerate(rows):
        absent = [need for need in form.needed if not any(one in row for one in need.split("|"))]
        if absent:
            raise SharecapError(f"row {number + 1} lacks {absent[0]}", where=path)
        named = next((key for key in IDS if row.get(key) not in (None, "")), None)
        items += form.items(row, id_of(row, (named,)) if named else str(number), path)
    if name == "mme":
        items = mme.paired(items, path)
    check_unique((sample.id for sample, _ in items), path)
    if len(items) != COUNTS.get(name, len(items)):
        raise SharecapError(f"{len(items)} of {name}'s {COUNTS[name]} questions are here", where=path)
    samples = [sample for sample, _ in items]
    task = form.task(samples) if form.task else ten_answers.task(name, samples, ten_answers.asked, rule)
    alone = not any(sample.image_name for sample, _ in items)
    note = "pictures aren't named in this file: intervals take every question for an image of its own"
    return replace(task, notes=(*task.notes, note) if alone else task.notes), {s.id: t for s, t in items}


def _is_log(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as f:
            start = f.read(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return start.lstrip().startswith("{") and '"doc"' in start


def _sample(row: Row, name: str, reference: Any, **more: Any) -> Sample:
    fields: dict[str, Any] = {
        "image_name": str(next((row[key] for key in PICTURES if row.get(key)), "")),
        "question": str(row.get("question", "")),
        "kind": str(row.get("category") or ""),
        "group": name,
    }
    return Sample(id=name, images=(), reference=reference, **(fields | more))


def _text(row: Row) -> str:
    return text_of(row["prediction"] if "prediction" in row else row["text"])


def _options(row: Row, name: str, where: Path) -> tuple[dict[str, str], str]:
    """The options by letter, and the right letter."""
    if isinstance(row.get("choices"), list):
        options, answer = lettered([str(choice) for choice in row["choices"]]), row["answer"]
        right = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(options) else str(answer)
    else:
        named = {o: row.get(o, row.get(f"choice_{o.lower()}")) for o in LETTERS}
        options = {letter: str(text) for letter, text in named.items() if text not in (None, "")}
        right = str(row["answer"]).strip().upper()
    if right not in options:
        what = f"item {name}: the answer {str(row['answer'])!r} is none of the options {'/'.join(options)}"
        raise SharecapError(what, where=where)
    return options, right


def _letter(row: Row, name: str, where: Path) -> Items:
    """Multiple choice whose reference is a letter: SEED-Bench, ScienceQA (VLMEvalKit's has pictures only)."""
    options, right = _options(row, name, where)
    question = shown(str(row["question"]), options, str(row.get("hint") or ""))
    labels = {"media": str(row.get("data_type") or "image")} | ({"image": "yes"} if "index" in row else {})
    kind = str(row.get("question_type_id") or row.get("subject") or row.get("category") or "")
    return [(_sample(row, name, right, question=question, kind=kind, labels=labels), _text(row))]


def _with_options(row: Row, name: str, where: Path) -> Items:
    """Multiple choice whose rule looks at the options' words; rolled copies are a group (MMBench)."""
    options, right = _options(row, name, where)
    question = shown(str(row["question"]), options, str(row.get("hint") or ""))
    labels = {key: str(row[key]) for key in mmbench.LABELS if row.get(key)}
    if row.get("L2-category"):
        labels["l2-category"] = str(row["L2-category"])
    group = str(int(name) % mmbench.COPY) if name.isdigit() else name
    reference = {"answer": right, "options": options}
    return [(_sample(row, name, reference, question=question, labels=labels, group=group), _text(row))]


def _ten(row: Row, name: str, where: Path) -> Items:
    """People's answers as a list, or as Python writes one."""
    answers = row.get("answers", row.get("answer"))
    if isinstance(answers, str):
        try:
            answers = ast.literal_eval(answers)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            answers = None
    if not isinstance(answers, list) or not answers:
        raise SharecapError(f"item {name} has no list of people's answers", where=where)
    people = [str(one["answer"] if isinstance(one, dict) else one) for one in answers]
    labels = {"answer_type": str(row["answer_type"])} if row.get("answer_type") else {}
    return [(_sample(row, name, people, kind=str(row.get("question_type") or ""), labels=labels), _text(row))]


def _yes_no_pair(row: Row, name: str, where: Path) -> Items:
    """MME: the picture is named by its path, with or without its subtask."""
    subtask = str(row["category"])
    image = str(row.get("image_path") or name).removeprefix(f"{subtask}/")
    return [
        (mme.sample((subtask, image, 0), str(row["question"]), str(row["answer"]), (), where), _text(row))
    ]


def _split(row: Row, name: str, where: Path) -> Items:
    """POPE: a row may belong to several splits."""
    truth = str(row["answer"]).strip().lower()
    splits = [split.strip() for split in str(row["category"]).split(",")]
    if truth not in ("yes", "no") or not set(splits) <= set(pope.SPLITS):
        what = f"item {name}: answer {str(row['answer'])!r}, split {str(row['category'])!r}"
        raise SharecapError(what, where=where, todo=f"expected yes or no, and {', '.join(pope.SPLITS)}")
    return [
        (replace(_sample(row, name, truth, kind=s, labels={"split": s}), id=f"{s}/{name}"), _text(row))
        for s in splits
    ]


def _graded(row: Row, name: str, where: Path) -> Items:
    """MM-Vet: VLMEvalKit's grade; one that its judge did not give is a failure, not a 0."""
    needs = [c for c in mm_vet.CAPABILITIES if c in str(row["category"]).replace(" ", "").split(",")]
    if not needs:
        raise SharecapError(f"item {name}: no capability in {str(row['category'])!r}", where=where)
    grade = "" if FAILED in str(row.get("log", "")) else text_of(row["score"])
    labels = dict.fromkeys(needs, "needed")
    sample = _sample(row, f"{name}#1", row.get("answer", ""), kind="_".join(needs), group=name, labels=labels)
    return [(sample, grade)]


def _reviewed(row: Row, name: str, where: Path) -> Items:
    """LLaVA-Bench: VLMEvalKit's two scores, or the judge's words in lmms-eval's log."""
    del where
    review = row.get("gpt_eval_llava_all")
    text = str(review.get("review")) if isinstance(review, dict) else f"{row['gpt4_score']} {row['score']}"
    labels = {"category": str(row["category"]).removeprefix(llava_bench.CATEGORY), "run": "1"}
    return [(_sample(row, f"{name}#1", None, kind=labels["category"], group=name, labels=labels), text)]


def _said(row: Row, name: str, where: Path) -> Items:
    """GQA: the truth as it stands."""
    del where
    return [(_sample(row, name, str(row["answer"])), _text(row))]


_ASKED = ("question", "answer", "prediction|text")
_CHOICE = ("question", "answer", "A|choices|choice_a", "prediction|text")
_PEOPLE = ("question", "answers|answer", "prediction|text")
FORMS: Mapping[str, Form] = {
    "mme": Form((*_ASKED, "category", "image_path|question_id"), _yes_no_pair, mme.task),
    "mmbench": Form((*_CHOICE, "index"), _with_options, mmbench.task),
    "mmbench-cn": Form((*_CHOICE, "index"), _with_options, lambda some: mmbench.task(some, chinese=True)),
    "seed-bench": Form(_CHOICE, _letter, seed_bench.task),
    "qbench": Form(_CHOICE, _with_options, qbench.task),
    "scienceqa": Form(_CHOICE, _letter, scienceqa.task),
    "gqa": Form(_ASKED, _said, gqa.task),
    "pope": Form((*_ASKED, "category"), _split, pope.task),
    "vqav2": Form(_PEOPLE, _ten, None),
    "textvqa": Form(_PEOPLE, _ten, None),
    "vizwiz": Form(_PEOPLE, _ten, None),
    "mm-vet": Form(("question", "category", "score"), _graded, mm_vet.task),
    "llava-bench": Form(("category", "gpt4_score|gpt_eval_llava_all"), _reviewed, llava_bench.task),
}
"""MMStar's own reader takes both engines' files."""
