"""Reads finished runs back, and turns their items into scores and intervals."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.errors import SharecapError
from sharecap.evals.suite import MEASURES
from sharecap.evals.task import Measure, Measures, Record, item_mean
from sharecap.statistics import LEVEL, RESAMPLES, Estimate, Score, intervals, scaled

ITEMS = "items.jsonl"
RESULTS = "results.json"


@dataclass(frozen=True)
class Run:
    """One model's graded answers, by task."""

    name: str
    records: Mapping[str, Sequence[Record]]
    measures: Mapping[str, Measure] = field(default_factory=lambda: MEASURES)

    def measured(self) -> dict[str, Measures]:
        """Every task's metrics."""
        return {task: self.measures[task](records) for task, records in self.records.items()}


def read_run(directory: Path) -> Run:
    """The finished evaluation at `directory`."""
    found = artifact.read(directory)
    if found.kind != "eval":
        raise SharecapError(f"this is a {found.kind!r}, not an evaluation", where=directory)
    by_task: dict[str, list[Record]] = {}
    for record in read_items(directory / ITEMS):
        by_task.setdefault(record.task, []).append(record)
    unknown = [name for name in by_task if name not in MEASURES]
    if unknown:
        raise SharecapError(f"no benchmark is called {unknown[0]!r}", where=directory / ITEMS)
    return Run(str(found.metrics.get("model", directory.name)), by_task)


def read_items(path: Path, *, repair: bool = False) -> list[Record]:
    """The lines of `items.jsonl`. `repair` cuts off a last line that a kill has torn; no file is no lines."""
    if repair and not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        todo = "remove the directory and evaluate again"
        raise SharecapError(f"cannot read ({error.strerror})", where=path, todo=todo) from None
    end = content.rfind(b"\n") + 1
    if repair and end < len(content):
        with open(path, "r+b") as f:
            f.truncate(end)
        content = content[:end]
    records = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            fields = json.loads(line)
            record = Record(**{**fields, "images": tuple(fields["images"])})
            if not math.isfinite(record.score):
                raise ValueError(f"the score is {record.score}")
            records.append(record)
        except (ValueError, TypeError, KeyError) as error:
            todo = "remove the directory and evaluate again"
            raise SharecapError(f"line {number} is damaged ({error})", where=path, todo=todo) from None
    return records


def read_results(directory: Path) -> dict[str, Any]:
    """What `summary` said when the evaluation at `directory` was finished."""
    artifact.read(directory)
    results: dict[str, Any] = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    return results


def overall(measures: Mapping[str, Measures]) -> Score:
    """Mean over benchmarks of the headline metric, each on a scale of 0 to 100.

    Left out are those whose headline counts errors, unless there are no others.
    """
    counted = [m for m in measures.values() if m.higher_is_better] or list(measures.values())
    share = 100.0 / len(counted)
    return tuple(mean for m in counted for mean in scaled(m.scores[m.headline], share / m.out_of))


def by_kind(run: Run, names: Mapping[str, str] | None = None) -> dict[str, Score]:
    """Per cent of items right for each kind of question, averaged over the benchmarks that ask it.

    `names` renames kinds that benchmarks call differently, e.g. {"OCR": "text"}.
    """
    found: dict[str, list[Score]] = {}
    for records in run.records.values():
        kinds: dict[str, list[Record]] = {}
        for record in records:
            if record.kind:
                kinds.setdefault((names or {}).get(record.kind, record.kind), []).append(record)
        for kind, asked in kinds.items():
            found.setdefault(kind, []).append(item_mean(asked))
    return {
        kind: tuple(mean for score in scores for mean in scaled(score, 1 / len(scores)))
        for kind, scores in sorted(found.items())
    }


def summary(
    run: Run, *, resamples: int = RESAMPLES, seed: int = 0, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All scores of a run with intervals, as JSON data: the content of `results.json`.

    Where a benchmark's score is withheld there is no overall score either.
    """
    measures = run.measured()
    whole = not any(m.withheld for m in measures.values())
    scores: dict[tuple[str, str], Score] = {("", "overall"): overall(measures)} if whole else {}
    scores |= {("kind", kind): score for kind, score in by_kind(run, names).items()}
    scores |= {(task, name): s for task, m in measures.items() for name, s in m.scores.items()}
    found = intervals(scores, resamples=resamples, seed=seed)
    benchmarks = {
        task: {
            "headline": m.headline,
            "out_of": m.out_of,
            "items": len(run.records[task]),
            "n": m.items or len(run.records[task]),
            "unparsed": unparsed(run.records[task]),
            "unparsed_answers": m.unparsed,
            "withheld": m.withheld,
            "scores": {name: _shown(m, name, found.get((task, name))) for name in {**m.scores, **m.printed}},
            "notes": list(m.notes),
        }
        for task, m in measures.items()
    }
    return {
        "model": run.name,
        "overall": artifact.plain(found["", "overall"]) if whole else None,
        "benchmarks": benchmarks,
        "kinds": {name: artifact.plain(e) for (where, name), e in found.items() if where == "kind"},
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
    }


def _shown(measures: Measures, name: str, estimate: Estimate | None) -> dict[str, Any]:
    """A figure with its interval: as the official script rounds it, and without one where none is known."""
    known = estimate or Estimate(measures.printed[name], None, None)
    return {**artifact.plain(known), "value": measures.printed.get(name, known.value)}


def one_benchmark(found: Mapping[str, Any], notes: Sequence[str] = ()) -> dict[str, Any]:
    """A summary of one benchmark, flat: what `sharecap score --json` prints. No score is null."""
    ((name, b),) = found["benchmarks"].items()
    sub = {metric: estimate["value"] for metric, estimate in b["scores"].items()}
    between = {metric: _interval(estimate) for metric, estimate in b["scores"].items()}
    return {
        "benchmark": name,
        "metric": b["headline"],
        "score": sub.get(b["headline"]),
        "ci95": between.get(b["headline"]),
        "out_of": b["out_of"],
        "n": b["n"],
        "failed": b["unparsed"],
        "sub": sub,
        "sub_ci95": between,
        "withheld": b["withheld"] or None,
        "notes": [*notes, *b["notes"]],
    }


def _interval(estimate: Mapping[str, Any]) -> list[float] | None:
    return None if estimate["low"] is None else [estimate["low"], estimate["high"]]


def unparsed(records: Sequence[Record]) -> int:
    """Answers that could not be parsed; `Measures.unparsed` says what the benchmark does with them."""
    return sum(record.parsed is None for record in records)
