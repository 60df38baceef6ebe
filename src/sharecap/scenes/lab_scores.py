"""What a table's exams say of its claims: paired differences over questions and seeds, a verdict for each.

A verdict needs its interval: above zero agrees, below contradicts, anything else can't tell; a claim of
"about the same" agrees when the whole interval is within the margin of its measure, which was fixed before.
It is never given from a difference alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from sharecap import artifact
from sharecap.errors import SharecapError
from sharecap.evals.comparison import RunComparison, compare_runs
from sharecap.evals.results import Run, overall, read_run
from sharecap.recipes.design import Claim, Design, Experiment
from sharecap.scenes.benchmark_files import KIND_NAMES
from sharecap.scenes.lab import Bench
from sharecap.statistics import Estimate, intervals
from sharecap.student import quantile, two_sided

Verdict = Literal["agrees", "contradicts", "can't tell"]


@dataclass(frozen=True)
class Tried:
    """A claim, and what came out."""

    claim: Claim
    difference: Estimate  # mean over seeds, points of 100
    seeds: tuple[Estimate, ...]  # each seed's own, over its pictures
    p: float | None = None  # of no difference: Student's over the seeds; of one seed over its pictures

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the claim."""
        low, high, margin = self.difference.low, self.difference.high, self.claim.margin
        if low is None or high is None:
            return "can't tell"
        if self.claim.equal:
            inside, outside = low > -margin and high < margin, low > margin or high < -margin
            return "agrees" if inside else "contradicts" if outside else "can't tell"
        return "agrees" if low > 0 else "contradicts" if high < 0 else "can't tell"


@dataclass(frozen=True)
class Row:
    """One model of a table, or one captioner."""

    name: str
    score: Estimate  # mean over seeds
    seeds: tuple[float, ...]
    kinds: Mapping[str, float]  # the score in parts, mean over seeds; per cent


Cell = Estimate | float | str | None


@dataclass(frozen=True)
class Detail:
    """A table behind the first two, as plain data: pages, JSON and Markdown are made of it."""

    title: str
    columns: tuple[str, ...]  # the first is of the rows' names
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str
    digits: int = 1
    signed: bool = False  # differences


@dataclass(frozen=True)
class Outcome:
    """A whole table."""

    experiment: Experiment
    rows: tuple[Row, ...]
    tried: tuple[Tried, ...]
    seeds: tuple[int, ...]
    measure: str  # what a row's score is, for people
    asked: str  # of how much the scores are made, for people
    details: tuple[Detail, ...]
    against: tuple[str, ...] = ()  # benchmarks that say the opposite of an overall verdict, in words


def outcome(experiment: Experiment, benches: Mapping[int, Bench]) -> Outcome:
    """Read the exams of every row in every seed's world; `SharecapError` if one is missing."""
    runs = {
        seed: {design.name: read_run(bench.exam_path(design)) for design in experiment.designs}
        for seed, bench in benches.items()
    }
    compared = {claim: compare(claim, runs) for claim in experiment.claims}
    asked = sorted({sum(map(len, run.records.values())) for found in runs.values() for run in found.values()})
    return Outcome(
        experiment,
        tuple(row_of(design, runs) for design in experiment.designs),
        tuple(tried(claim, found) for claim, found in compared.items()),
        tuple(benches),
        "overall score of 100",
        f"{' to '.join(f'{n:,}' for n in dict.fromkeys((asked[0], asked[-1])))} questions to each model",
        (by_benchmark(compared),) if compared else (),
        tuple(against(compared)),
    )


def row_of(design: Design, runs: Mapping[int, Mapping[str, Run]]) -> Row:
    """One model's scores."""
    mine = [found[design.name] for found in runs.values()]
    each = [intervals({"": overall(run.measured())})[""] for run in mine]
    compared = [compare_runs(run, run, resamples=2, names=KIND_NAMES) for run in mine]
    kinds = {kind: fmean(c.kinds[kind].a.value for c in compared) for kind in compared[0].kinds}
    return Row(design.name, over_seeds(each, PER_CENT), tuple(e.value for e in each), kinds)


def compare(claim: Claim, runs: Mapping[int, Mapping[str, Run]]) -> list[RunComparison]:
    """A claim's two models on the same questions, seed by seed."""
    return [compare_runs(found[claim.row], found[claim.than], names=KIND_NAMES) for found in runs.values()]


def tried(claim: Claim, compared: Sequence[RunComparison]) -> Tried:
    """A claim's paired difference in each seed, and over all."""
    differences = tuple(c.overall.difference for c in compared)
    p = compared[0].overall.p if len(compared) == 1 else p_of([one.value for one in differences])
    return Tried(claim, over_seeds(differences, APART), differences, p)


def by_benchmark(compared: Mapping[Claim, Sequence[RunComparison]]) -> Detail:
    """Every claim's difference on each benchmark, on the benchmark's own scale."""
    headlines = next(iter(compared.values()))[0].headlines
    rows = [(f"{c.row} − {c.than}", tuple(on_each(found).values())) for c, found in compared.items()]
    columns = ("Difference", *(f"{task}, of {full:,g}" for task, (_, full) in headlines.items()))
    note = "The same questions to both, on each benchmark's own scale."
    return Detail("Benchmark by benchmark", columns, tuple(rows), note, signed=True)


def on_each(found: Sequence[RunComparison]) -> dict[str, Estimate]:
    """A claim's difference on each benchmark's headline."""
    return {
        task: over_seeds([one.benchmarks[task][metric].difference for one in found])
        for task, (metric, _) in found[0].headlines.items()
    }


def against(compared: Mapping[Claim, Sequence[RunComparison]]) -> Iterator[str]:
    """Where a benchmark's own interval contradicts a claim that the overall score doesn't contradict."""
    for claim, found in compared.items():
        if claim.equal or tried(claim, found).verdict == "contradicts":
            continue
        for task, difference in on_each(found).items():
            if difference.high is not None and difference.high < 0:
                yield f"on {task} alone “{claim.row}” is worse than “{claim.than}”"


PER_CENT = (0.0, 100.0)
APART = (-100.0, 100.0)
"""What two shares of 100 can differ by."""

ANY = (-math.inf, math.inf)


def over_seeds(each: Sequence[Estimate], bounds: tuple[float, float] = ANY) -> Estimate:
    """Mean of several seeds' values with Student's interval over the seeds; one seed's own over its pictures.

    Seeds are whole worlds with their own pictures, models and questions, so what questions add to the
    uncertainty is in their spread. An interval ends at the `bounds` of what the values can be.
    """
    if len(each) == 1:
        return each[0]
    values = [one.value for one in each]
    half = quantile(0.975, len(each) - 1) * stdev(values) / len(each) ** 0.5
    low, high = max(fmean(values) - half, bounds[0]), min(fmean(values) + half, bounds[1])
    return Estimate(fmean(values), low, high)


def p_of(values: Sequence[float]) -> float:
    """Chance of a mean that far from zero, were there no difference: Student's t over two seeds or more."""
    error = stdev(values) / len(values) ** 0.5
    if not error:
        return 0.0 if fmean(values) else 1.0
    return two_sided(fmean(values) / error, len(values) - 1)


def is_finished(directory: Path) -> bool:
    """Whether a stage has ended there; whether it is the one that is asked for, running it tells."""
    try:
        artifact.read(directory)
    except SharecapError:
        return False
    return True
