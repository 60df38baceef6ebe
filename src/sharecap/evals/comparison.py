"""Compares models on the items that all of their runs answered: paired differences, with what they can show.

A model is one run or several (training seeds, judges): then its score is their mean, and the spread between
them is in every interval. Runs are compared on the same items of the same data, scored by the same rule, or
not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import variance

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.results import Run, by_kind, overall, read_run, unparsed
from sharecap.evals.significance import McNemar, holm, mcnemar
from sharecap.evals.task import Measures, Record
from sharecap.statistics import LEVEL, RESAMPLES, Comparison, Noise, Score, compare, scaled, value

_Name = tuple[str, str]
"""Task (or "kind", or "" for the overall score) and metric."""


@dataclass(frozen=True)
class Model:
    """What is compared: one run, or several of one model."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class RunComparison:
    """Two models on the benchmarks that both have; every difference is a - b, paired."""

    a: str
    b: str
    overall: Comparison
    benchmarks: Mapping[str, Mapping[str, Comparison]]  # task -> metric
    kinds: Mapping[str, Comparison]  # per cent right per question kind, mean over the tasks that ask it
    headlines: Mapping[str, tuple[str, float]]  # task -> its headline metric and full marks
    unparsed: Mapping[str, tuple[int, int]]  # task -> answers that could not be parsed, of a and of b
    items: Mapping[str, int]
    only_in_one: Sequence[str] = field(default=())  # tasks that one of them has and the other has not
    level: float = LEVEL
    runs: tuple[int, int] = (1, 1)
    spread: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Task -> standard deviation of the headline over the runs, of a and of b; None of a single run."""
    mcnemar: Mapping[str, McNemar] = field(
        default_factory=dict
    )  # of headlines that are shares of right units
    corrected: Mapping[str, float] = field(default_factory=dict)
    """Task -> the headline's p after Holm's correction over all benchmarks and models compared at once."""


def read_models(texts: Sequence[str]) -> list[Model]:
    """Models as `read_model` has them; those of one name are told apart by what was given."""
    models = [read_model(text) for text in texts]
    names = [model.name for model in models]
    found = [
        replace(model, name=text) if names.count(model.name) > 1 else model
        for model, text in zip(models, texts, strict=True)
    ]
    if len({model.name for model in found}) < len(found):
        raise UsageError("a model stands there twice", todo="name each once")
    return found


def read_model(text: str) -> Model:
    """`RUN`, or several runs of one model: `RUN,RUN`, with a name before them if wanted: `NAME=RUN,RUN`."""
    if Path(text).exists():
        run = read_run(Path(text))
        # Predictions from elsewhere are called by their path, which is long and often the same.
        return Model(Path(text).resolve().name if "/" in run.name else run.name, (run,))
    name, named, rest = text.partition("=")
    places = (rest if named else text).split(",")
    if not all(places) or (named and not name):
        raise UsageError(f"not runs: {text!r}", todo="write NAME=RUN,RUN")
    if len({Path(place).resolve() for place in places}) < len(places):
        raise UsageError(f"a run stands there twice: {text!r}", todo="name each seed's run once")
    runs = tuple(read_run(Path(place)) for place in places)
    return Model(name if named else runs[0].name, runs)


def compare_runs(
    a: Run,
    b: Run,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
) -> RunComparison:
    """a - b with paired intervals on every metric of the benchmarks that both runs have.

    `names` renames kinds of questions, see `by_kind`.
    """
    return compare_models(
        Model(a.name, (a,)), Model(b.name, (b,)), resamples=resamples, seed=seed, names=names
    )


def compare_all(models: Sequence[Model], *, resamples: int = RESAMPLES, seed: int = 0) -> list[RunComparison]:
    """The first model with each of the others, corrected for all of these looks."""
    first, *others = models
    found = [compare_models(first, other, resamples=resamples, seed=seed) for other in others]
    family = {
        (i, task): p
        for i, one in enumerate(found)
        for task, (metric, _) in one.headlines.items()
        if (p := one.benchmarks[task][metric].p) is not None
    }
    corrected = holm(family)
    return [
        replace(one, corrected={task: corrected[i, task] for task in one.headlines if (i, task) in corrected})
        for i, one in enumerate(found)
    ]


def compare_models(
    a: Model,
    b: Model,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
) -> RunComparison:
    """The same of two models with one run or several each."""
    everyone = [*a.runs, *b.runs]
    tasks = [task for task in a.runs[0].records if all(task in run.records for run in everyone)]
    if not tasks:
        raise SharecapError(f"{a.name} and {b.name} have no benchmark in common")
    lead = a.runs[0]
    paired = [
        replace(run, records={task: _paired(lead.records[task], run.records[task]) for task in tasks})
        for run in everyone
    ]
    measures = [_measured(run) for run in paired]
    scores = [_scores(run, m, names) for run, m in zip(paired, measures, strict=True)]
    left, right = scores[: len(a.runs)], scores[len(a.runs) :]
    # One run may lack a part that another has: no precision where a model never says yes.
    common = [name for name in scores[0] if all(name in one for one in scores)]
    found = compare(
        {name: (_mean([s[name] for s in left]), _mean([s[name] for s in right])) for name in common},
        noise={name: (_noise(left, name), _noise(right, name)) for name in common},
        resamples=resamples,
        seed=seed,
    )
    headlines = {task: (m.headline, m.out_of) for task, m in measures[0].items()}
    single = len(everyone) == 2
    tests = {
        task: mcnemar(left[0][task, name], right[0][task, name]) for task, (name, _) in headlines.items()
    }
    sides = (paired[: len(a.runs)], paired[len(a.runs) :])
    return RunComparison(
        a=a.name,
        b=b.name,
        overall=found["", "overall"],
        benchmarks={task: {name: c for (t, name), c in found.items() if t == task} for task in tasks},
        kinds={name: c for (where, name), c in found.items() if where == "kind"},
        headlines=headlines,
        unparsed={task: (_unparsed(sides[0], task), _unparsed(sides[1], task)) for task in tasks},
        items={task: len(lead.records[task]) for task in tasks},
        only_in_one=[name for name in _all_tasks(everyone) if name not in tasks],
        runs=(len(a.runs), len(b.runs)),
        spread={
            task: (_spread(left, (task, n)), _spread(right, (task, n))) for task, (n, _) in headlines.items()
        },
        mcnemar={task: test for task, test in tests.items() if test and single},
    )


def _all_tasks(runs: Sequence[Run]) -> dict[str, None]:
    return {task: None for run in runs for task in run.records}


def _unparsed(runs: Sequence[Run], task: str) -> int:
    return sum(unparsed(run.records[task]) for run in runs)


def _measured(run: Run) -> dict[str, Measures]:
    found = run.measured()
    for task, m in found.items():
        if m.withheld:
            raise SharecapError(f"{run.name} has no score on {task}: {m.withheld}")
    return found


def _scores(
    run: Run, measures: Mapping[str, Measures], names: Mapping[str, str] | None
) -> dict[_Name, Score]:
    """All that a run is measured by."""
    found: dict[_Name, Score] = {("", "overall"): overall(measures)}
    found |= {("kind", kind): score for kind, score in by_kind(run, names).items()}
    return found | {(task, name): s for task, m in measures.items() for name, s in m.scores.items()}


def _mean(scores: Sequence[Score]) -> Score:
    return tuple(mean for score in scores for mean in scaled(score, 1 / len(scores)))


def _noise(runs: Sequence[Mapping[_Name, Score]], name: _Name) -> Noise | None:
    """How far the mean over these runs lies from that over all that there could be; None of a single run.

    Some of the spread between runs is chance on these very images, which the resamples have as well: the
    interval errs on the wide side.
    """
    if len(runs) == 1:
        return None
    return Noise(variance([value(run[name]) for run in runs]) / len(runs), len(runs) - 1)


def _spread(runs: Sequence[Mapping[_Name, Score]], name: _Name) -> float | None:
    return None if len(runs) == 1 else variance([value(run[name]) for run in runs]) ** 0.5


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
