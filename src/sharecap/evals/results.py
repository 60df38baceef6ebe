"""Reads finished runs back, and turns their items into scores, intervals and comparisons.

Two runs are compared on the same items of the same data, scored by the same rule, or not at all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.errors import SharecapError
from sharecap.evals.suite import MEASURES
from sharecap.evals.task import Measure, Measures, Record, item_mean
from sharecap.statistics import (
    LEVEL,
    RESAMPLES,
    Comparison,
    Estimate,
    Score,
    compare,
    intervals,
    scaled,
)

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


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the benchmarks that both have; every difference is a - b, paired."""

    a: str
    b: str
    overall: Comparison
    benchmarks: Mapping[str, Mapping[str, Comparison]]  # task -> metric
    kinds: Mapping[str, Comparison]  # per cent right per question kind, mean over the tasks that ask it
    headlines: Mapping[str, tuple[str, float]]  # task -> its headline metric and full marks
    unparsed: Mapping[str, tuple[int, int]]  # task -> answers that could not be parsed, of a and of b
    items: Mapping[str, int]
    only_in_one: Sequence[str] = field(default=())  # tasks that one run has and the other has not
    level: float = LEVEL


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
            records.append(Record(**{**fields, "images": tuple(fields["images"])}))
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


def compare_runs(
    a: Run,
    b: Run,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
) -> RunComparison:
    """a - b with paired intervals on every metric of the benchmarks that both runs have."""
    tasks = [task for task in a.records if task in b.records]
    if not tasks:
        raise SharecapError(f"{a.name} and {b.name} have no benchmark in common")
    left = replace(a, records={task: a.records[task] for task in tasks})
    right = replace(b, records={task: _paired(a.records[task], b.records[task]) for task in tasks})
    measures = [left.measured(), right.measured()]
    for run, found_measures in zip((a, b), measures, strict=True):
        for task, m in found_measures.items():
            if m.withheld:
                raise SharecapError(f"{run.name} has no score on {task}: {m.withheld}")
    kinds = [by_kind(run, names) for run in (left, right)]
    pairs: dict[tuple[str, str], tuple[Score, Score]] = {
        ("", "overall"): (overall(measures[0]), overall(measures[1]))
    }
    pairs |= {("kind", kind): (kinds[0][kind], kinds[1][kind]) for kind in kinds[0]}
    for task in tasks:
        one, other = measures[0][task].scores, measures[1][task].scores
        # One run may lack a part that the other has: no precision where a model never says yes.
        pairs |= {(task, name): (one[name], other[name]) for name in one if name in other}
    found = compare(pairs, resamples=resamples, seed=seed)
    return RunComparison(
        a=a.name,
        b=b.name,
        overall=found["", "overall"],
        benchmarks={task: {name: c for (t, name), c in found.items() if t == task} for task in tasks},
        kinds={name: c for (where, name), c in found.items() if where == "kind"},
        headlines={task: (m.headline, m.out_of) for task, m in measures[0].items()},
        unparsed={task: (unparsed(left.records[task]), unparsed(right.records[task])) for task in tasks},
        items={task: len(left.records[task]) for task in tasks},
        only_in_one=[name for name in {**a.records, **b.records} if name not in tasks],
    )


def _paired(a: Sequence[Record], b: Sequence[Record]) -> list[Record]:
    """b's records in a's order, with a's image ids; `SharecapError` unless both answered the same items."""
    task = a[0].task
    theirs = {record.id: record for record in b}
    missing = [r.id for r in a if r.id not in theirs]
    extra = theirs.keys() - {r.id for r in a}
    if missing or extra:
        first = missing[0] if missing else min(extra)
        what = f"the runs answered different items of {task}: {len(missing) + len(extra)} are in one run only"
        raise SharecapError(f"{what} (first: {first})", todo="evaluate both on the same data")
    for mine in a:
        other = theirs[mine.id]
        if (mine.reference, dict(mine.labels)) != (other.reference, dict(other.labels)):
            what = f"the runs were scored on different data or by different rules: {task}, item {mine.id}"
            raise SharecapError(what, todo="evaluate both on the same data")
    return [replace(theirs[mine.id], images=mine.images) for mine in a]
