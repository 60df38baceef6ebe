"""LLaVA-Bench (in the wild): 60 open questions; a judge gives 1 to 10 to the model and to a reference.

Reads the official files, to be asked and reviewed, and recorded reviews. The score is 100 x mean of the
model's / mean of the reference's: a ratio of means, not a mean of ratios (paper, Table 3). Several runs of
the judge are averaged. One review without two numbers: no score.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.files import Row, id_of, need, read_json, read_rows, read_text, text_of
from sharecap.evals.pictures import below
from sharecap.evals.task import Judging, Measures, Record, Sample, Task, by_label, check_unique, ratio_of
from sharecap.statistics import Score

ITEMS = 60
CATEGORY = "llava_bench_"
_PAIR = re.compile(r"\s*(\d+(?:\.\d+)?)[\s,]+(\d+(?:\.\d+)?)\s*,?\s*")


SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
TEMPERATURE = 0.2
"""The judge's system prompt and sampling, as the benchmark's authors have them."""

RULE = (
    "Two assistants answered the question above about a picture, which the context describes in words.\n"
    "Compare how helpful, relevant, accurate and detailed the two answers are, and give each a mark from 1 "
    "to 10; a higher mark is better.\n"
    "Write in the first line nothing but the two marks, that of Assistant 1 first, with a space between. "
    "Explain them from the second line on. Which of the two came first must make no difference."
)
"""What the judge is told where the authors' `rule.json` does not lie with the questions."""


def task(samples: Sequence[Sample], judging: Judging | None = None, notes: tuple[str, ...] = ()) -> Task:
    """LLaVA-Bench over these samples, one a run of the judge."""
    return Task("llava-bench", samples, prompt, 1024, parse, score, measure, notes, judging)


def read_tasks(directory: Path) -> list[Task]:
    """`questions.jsonl`, `context.jsonl`, `answers_gpt4.jsonl` with images/; `rule.json` if it is there."""
    find = below(directory, ("images", "."))
    questions = _questions(directory, ("question_id", "text", "image"))
    contexts = _texts_of(directory / "context.jsonl", "image", "caption")
    answers = _texts_of(directory / "answers_gpt4.jsonl", "question_id", "text")
    samples = []
    for name, row in questions.items():
        need([row], ["category"], directory / "questions.jsonl")
        for known, key, file in ((contexts, str(row["image"]), "context"), (answers, name, "answers_gpt4")):
            if key not in known:
                raise SharecapError(f"nothing for question {name}", where=directory / f"{file}.jsonl")
        reference = {"context": contexts[str(row["image"])], "answer": answers[name]}
        sample = _sample(f"{name}#1", name, str(row["category"]), row)
        samples.append(replace(sample, images=find(row["image"]), reference=reference))
    rules = _rules(directory / "rule.json")
    words = json.dumps([SYSTEM, rules or RULE], sort_keys=True)
    judging = Judging(
        lambda sample, answer: _asked(sample, answer, rules.get(f"{CATEGORY}{sample.kind}", RULE)),
        hashlib.sha256(words.encode()).hexdigest(),
        SYSTEM,
        temperature=TEMPERATURE,
    )
    note = "the judge was asked in sharecap's words: rule.json of the authors is not with the questions"
    return [task(samples, judging, () if rules else (note,))]


def _texts_of(path: Path, key: str, value: str) -> dict[str, str]:
    rows = read_rows(path)
    need(rows, [key, value], path)
    check_unique((id_of(row, (key,)) for row in rows), path)
    return {id_of(row, (key,)): str(row[value]) for row in rows}


def _rules(path: Path) -> dict[str, str]:
    """The authors' words to the judge, by category."""
    return {name: str(rule["prompt"]) for name, rule in read_json(path).items()} if path.exists() else {}


def _asked(sample: Sample, answer: str, rule: str) -> str:
    """The review form: what is to be seen, the question, the reference's and the model's answer, the rule."""
    texts = (sample.reference["answer"], answer)
    parts = [f"[Context]\n{sample.reference['context']}", f"[Question]\n{sample.question}"]
    parts += [f"[Assistant {i}]\n{text}\n\n[End of Assistant {i}]" for i, text in enumerate(texts, 1)]
    return "\n\n".join([*parts, f"[System]\n{rule}\n\n"])


def read_predictions(paths: Sequence[Path], labels: Path | None) -> tuple[Task, dict[str, str]]:
    """Review files, one a run of the judge (or a directory of them); `labels`: the question file."""
    files = [file for path in paths for file in _reviews(path)]
    known = _questions(labels) if labels else {}
    samples, answers = [], {}
    for run, file in enumerate(files, 1):
        rows = read_rows(file)
        need(rows, ["question_id", "content|tuple"], file)
        check_unique((id_of(row, ("question_id",)) for row in rows), file)
        _check_complete({id_of(row, ("question_id",)) for row in rows}, known, file)
        for row in rows:
            name = id_of(row, ("question_id",))
            question = known.get(name, {})
            category = row.get("category") or question.get("category") or ""
            sample = _sample(f"{name}#{run}", name, str(category), question)
            samples.append(replace(sample, labels={**sample.labels, "run": str(run)}))
            answers[f"{name}#{run}"] = _text(row)
    counts = {sum(s.labels["run"] == str(run) for s in samples) for run in range(1, len(files) + 1)}
    if len(counts) != 1:
        raise SharecapError("the runs review different questions", where=paths[0])
    return task(samples), answers


def _reviews(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [p for p in sorted(path.glob("*.json*")) if p.suffix in (".json", ".jsonl")]
    files = [p for p in files if '"tuple"' in read_text(p)[:100_000]]
    if not files:
        raise SharecapError("no review files", where=path, todo="expected JSON lines with content and tuple")
    return files


def _questions(path: Path, needed: Sequence[str] = ("question_id",)) -> dict[str, Row]:
    file = path / "questions.jsonl" if path.is_dir() else path
    rows = read_rows(file)
    need(rows, needed, file)
    check_unique((id_of(row) for row in rows), file)
    return {id_of(row): row for row in rows}


def _check_complete(found: set[str], known: Mapping[str, Row], where: Path) -> None:
    todo = "review all of them, or add --labels with your question file"
    if not known and len(found) != ITEMS:
        raise SharecapError(
            f"{len(found)} of LLaVA-Bench's {ITEMS} questions have a review", where=where, todo=todo
        )
    if known and found != known.keys():
        other = sorted(found ^ known.keys())
        what = f"{len(other)} questions are in the reviews or the labels only (first: {other[0]})"
        raise SharecapError(what, where=where, todo=todo)


def _text(row: Row) -> str:
    """The recorded pair, which is what the authors average; the judge's words where there is none.

    A failed review is recorded as (-1, -1), or as what is no pair at all: neither is read as two scores.
    """
    if "tuple" not in row:
        return text_of(row["content"])
    return " ".join(map(str, row["tuple"])) if isinstance(row["tuple"], list) else ""


def _sample(one: str, name: str, category: str, question: Mapping[str, Any]) -> Sample:
    """Question `name`, in the first run of the judge; `one` is what this run of it is called."""
    kind = category.removeprefix(CATEGORY)
    return Sample(
        id=one,
        images=(),
        image_name=str(question.get("image", "")),
        question=str(question.get("text", "")),
        reference=None,
        kind=kind,
        group=name,
        labels={"run": "1"} | ({"category": kind} if kind else {}),
    )


def prompt(sample: Sample) -> str:
    """The question alone."""
    return sample.question


def parse(_: Sample, raw: str) -> str | None:
    """The two numbers in the first line, as JSON: the reference's and the model's; each 0 to 10."""
    found = _PAIR.fullmatch(raw.partition("\n")[0])
    if not found:
        return None
    pair = [float(number) for number in found.groups()]
    return json.dumps(pair) if max(pair) <= 10 else None


def score(_: Sample, parsed: str | None) -> float:
    """The model's number as a share of ten; where there is none, `measure` gives no score."""
    return float(json.loads(parsed)[1]) / 10 if parsed else 0.0


def measure(records: Sequence[Record]) -> Measures:
    """Relative score over all and per category, averaged over the judge's runs."""
    questions = len({record.group for record in records})
    failed = sum(record.parsed is None for record in records)
    if failed:
        why = f"{failed:,} of {len(records):,} reviews have no two scores that can be read"
        return Measures("all", 100.0, {}, items=questions, withheld=why, unparsed="leave no score")
    scores = {"all": _relative(records)}
    named = all("category" in record.labels for record in records)
    categories = by_label(records, "category") if named else {}
    scores |= {name: _relative(some) for name, some in categories.items()}
    printed = {name: _printed(some) for name, some in (("all", records), *categories.items())}
    runs = by_label(records, "run")
    notes = [f"mean of {len(runs)} runs of the judge"] if len(runs) > 1 else []
    notes += [f"run {run}: {_printed(some)}" for run, some in runs.items() if len(runs) > 1]
    if not named:
        notes.append("no categories given: the score is over all")
    if not any(r.images for r in records):
        notes.append("no question file given: intervals take every question for an image of its own")
    unparsed = "leave no score"
    return Measures("all", 100.0, scores, tuple(notes), items=questions, unparsed=unparsed, printed=printed)


def _pairs(records: Sequence[Record]) -> list[tuple[float, float]]:
    return [(pair[0], pair[1]) for r in records for pair in (json.loads(r.parsed or ""),)]


def _printed(records: Sequence[Record]) -> float:
    """The figure as published: each run's means are rounded to 3 digits and its ratio to 1, then averaged."""
    figures: list[float] = []
    for some in by_label(records, "run").values():
        reference, model = (round(sum(side) / len(some), 3) for side in zip(*_pairs(some), strict=True))
        figures.append(round(100 * model / reference, 1))
    return sum(figures) / len(figures)


def _relative(records: Sequence[Record]) -> Score:
    runs = by_label(records, "run")
    return tuple(
        mean
        for some in runs.values()
        for mean in ratio_of(
            100.0 / len(runs),
            [(r.cluster, model, ref) for r, (ref, model) in zip(some, _pairs(some), strict=True)],
        )
    )
