"""MM-Vet: 218 open questions, graded 0 to 1 by a judge (arXiv 2308.02490; paper, Table 3).

Reads the official questions, to be asked and graded, and recorded grades, of one run of the judge or several.
They are averaged over all, and over the questions that need a capability. One missing or unreadable grade,
and there is no score.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.files import answers_of, only, read_json, read_rows, read_text, text_of, within
from sharecap.evals.pictures import below
from sharecap.evals.task import Judging, Measures, Record, Sample, Task, by_label, item_mean

ITEMS = 218
ASKED = ("answer", "capability", "imagename", "question")
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
_GRADE = re.compile(r"\s*([01](?:\.\d+)?)(?:\s|\Z)")


HEADER = "Question | Truth | Answer | Correctness"
TABLE = f"""Grade the last answer of this table. Its correctness goes from 0.0 (wholly wrong) in steps of \
0.1 to 1.0 (wholly right). In the truth, <AND> joins parts that must all be in the answer, and <OR> stands \
between truths of which any one is enough. Complete the last row: write its number and nothing else.

{HEADER}
--- | --- | --- | ---
Which fruits are on the table? | apple <AND> pear | There is a pear. | 0.5
Which fruits are on the table? | apple <AND> pear | A pear and, behind it, an apple. | 1.0
What is the total? | 7.5 <OR> 15/2 | It comes to 7.5. | 1.0
What is the total? | 7.5 <OR> 15/2 | 75 | 0.0
Who might live here? | A fisherman, since there are nets and a boat | Somebody with a boat | 0.4
"""
"""What the judge is told where no `judge.txt` with the authors' words lies with the questions."""


def task(samples: Sequence[Sample], judging: Judging | None = None, notes: tuple[str, ...] = ()) -> Task:
    """MM-Vet over these samples, one a run of the judge."""
    return Task("mm-vet", samples, prompt, 1024, parse, score, measure, notes, judging)


def read_tasks(directory: Path) -> list[Task]:
    """The official `mm-vet.json` with images/; `judge.txt` if it is there."""
    find = below(directory, ("images", "."))
    samples = [
        replace(_sample(name, 1, row), images=find(row["imagename"]))
        for name, row in read_labels(only(directory, "*.json"), ASKED).items()
    ]
    own = directory / "judge.txt"
    table = read_text(own) if own.exists() else TABLE
    note = "the judge was asked in sharecap's words: the authors' are not with the questions (judge.txt)"
    judging = Judging(
        lambda sample, answer: _asked(table, sample, answer),
        hashlib.sha256(table.encode()).hexdigest(),
        max_tokens=16,
    )
    return [task(samples, judging, () if own.exists() else (note,))]


def _asked(table: str, sample: Sample, answer: str) -> str:
    """The table with one more row, whose last cell is empty; an answer of several lines can't add others."""
    truth = str(sample.reference).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    row = (" ".join(text.split()) for text in (sample.question, truth, answer))
    return f"{table.rstrip()}\n{' | '.join(row)} | "


def read_labels(path: Path, needed: Sequence[str] = ("capability",)) -> Mapping[str, Mapping[str, Any]]:
    """The official `mm-vet.json`, by question."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(row, dict) and row.keys() >= set(needed) for row in content.values()
    ):
        todo = f"expected mm-vet.json: questions by id, with {', '.join(needed)}"
        raise SharecapError("not MM-Vet's questions", where=path, todo=todo)
    return content


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """Grades as the official scorer keeps them: `{"v1_0": {"content": ["0.5"], "score": [0.5]}}`."""
    grades = read_json(path)
    if not isinstance(grades, dict) or not all(map(_is_grade, grades.values())):
        raise SharecapError(
            "not a file of MM-Vet grades", where=path, todo="expected score lists by question"
        )
    marks = {name: _marks(grade) for name, grade in grades.items()}
    known = read_labels(within(labels, "*.json")) if labels else {}
    wanted = list(known) or list(grades)
    runs = max((len(kept) for grade in grades.values() for kept in _kept(grade)), default=0)
    samples = [_sample(name, run, known.get(name, {})) for run in range(1, runs + 1) for name in wanted]
    answers = {f"{name}#{run}": mark for name, some in marks.items() for run, mark in enumerate(some, 1)}
    short = [name for name in wanted if name in marks and len(marks[name]) != runs]
    if short:
        what = f"{len(short)} questions have fewer grades than the {runs} runs (first: {short[0]})"
        raise SharecapError(what, where=path, todo="grade them, and score again")
    if not known and len(grades) != ITEMS:
        what = f"{len(grades)} of MM-Vet's {ITEMS} questions have a grade"
        raise SharecapError(what, where=path, todo="grade the others, or add --labels with your questions")
    return task(samples), answers


def upload(predictions: Path) -> dict[str, str]:
    """What the official scorer takes: the answer by question; a number n of LLaVA's is question v1_n."""
    answers = answers_of(read_rows(predictions), predictions)
    return {f"v1_{name}" if name.isdigit() else name: text for name, text in answers.items()}


def _is_grade(grade: Any) -> bool:
    """Whether it holds numbers by run, or words of which none were made."""
    if not isinstance(grade, dict) or not grade.keys() & {"score", "content"}:
        return False
    return grade.get("score") is None or isinstance(grade["score"], list)


def _marks(grade: Mapping[str, Any]) -> list[str]:
    """The recorded number of every run, which is what the authors average; the judge's words if none is."""
    return [text_of(mark) for mark in next(_kept(grade), ())]


def _kept(grade: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """The lists by run that hold something: numbers, and words of which numbers were made."""
    return (grade[key] for key in ("score", "content") if isinstance(grade.get(key), list) and grade[key])


def _sample(name: str, run: int, row: Mapping[str, Any]) -> Sample:
    needs = [c for c in CAPABILITIES if c in row.get("capability", ())]
    return Sample(
        id=f"{name}#{run}",
        images=(),
        image_name=row.get("imagename", ""),
        question=row.get("question", ""),
        reference=row.get("answer", ""),
        kind="_".join(needs),
        group=name,
        labels=dict.fromkeys(needs, "needed"),
    )


def prompt(sample: Sample) -> str:
    """The question alone."""
    return sample.question


def parse(_: Sample, raw: str) -> str | None:
    """The grade that the judge's text begins with, 0 to 1."""
    found = _GRADE.match(raw)
    return found.group(1) if found and float(found.group(1)) <= 1 else None


def score(_: Sample, parsed: str | None) -> float:
    """The grade; where there is none, `measure` gives no score."""
    return float(parsed or 0.0)


def measure(records: Sequence[Record]) -> Measures:
    """Mean grade over all (`total`), per capability, and per combination of capabilities."""
    questions = len({record.group for record in records})
    failed = sum(record.parsed is None for record in records)
    if failed:
        why = f"{failed:,} of {len(records):,} grades can't be read"
        return Measures("total", 100.0, {}, items=questions, withheld=why, unparsed="leave no score")
    scores = {"total": item_mean(records)}
    for name in CAPABILITIES:
        if some := by_label(records, name).get("needed"):
            scores[name] = item_mean(some)
    for kind in sorted({r.kind for r in records if "_" in r.kind}):
        scores[f"only {kind}"] = item_mean([r for r in records if r.kind == kind])
    runs = len(records) // questions
    notes = [f"mean of {runs} runs of the judge"] if runs > 1 else []
    if not any(r.labels for r in records):
        notes.append("no labels given: capabilities are not known")
    return Measures("total", 100.0, scores, tuple(notes), items=questions, unparsed="leave no score")
