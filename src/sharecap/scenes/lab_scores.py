"""What a table's exams say of its claims: paired differences over questions and seeds, a verdict for each.

A verdict needs its interval: above zero agrees, below contradicts, anything else can't tell. It is never
given from a difference alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from sharecap import artifact
from sharecap.evals.comparison import RunComparison, compare_runs
from sharecap.evals.results import Run, overall, read_run
from sharecap.recipes.design import Claim, Design, Experiment
from sharecap.scenes.benchmark_files import KIND_NAMES
from sharecap.scenes.lab import Bench
from sharecap.statistics import Estimate, intervals
from sharecap.student import quantile

Verdict = Literal["agrees", "contradicts", "can't tell"]

MARGIN = 2.0
"""Points of 100 within which two scores are about the same, for claims that say so."""


@dataclass(frozen=True)
class Tried:
    """A claim, and what came out."""

    claim: Claim
    difference: Estimate  # mean over seeds, points of 100
    seeds: tuple[Estimate, ...]  # each seed's own, over its pictures
    kinds: Mapping[str, float]  # question kind -> mean difference, points

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the claim."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "can't tell"
        if self.claim.equal:
            inside, outside = low > -MARGIN and high < MARGIN, low > MARGIN or high < -MARGIN
            return "agrees" if inside else "contradicts" if outside else "can't tell"
        return "agrees" if low > 0 else "contradicts" if high < 0 else "can't tell"


@dataclass(frozen=True)
class Row:
    """One model of a table."""

    design: Design
    score: Estimate  # overall, mean over seeds
    seeds: tuple[float, ...]
    kinds: Mapping[str, float]  # per cent right, mean over seeds
    seconds: float  # mean over seeds of the work on this row alone: pre-training, tuning, exam


@dataclass(frozen=True)
class Outcome:
    """A whole table."""

    experiment: Experiment
    rows: tuple[Row, ...]
    tried: tuple[Tried, ...]
    questions: int  # of one seed
    seeds: tuple[int, ...]


def outcome(experiment: Experiment, benches: Mapping[int, Bench]) -> Outcome:
    """Read the exams of every row in every seed's world; `SharecapError` if one is missing."""
    runs = {
        seed: {design.name: read_run(bench.exam_path(design)) for design in experiment.designs}
        for seed, bench in benches.items()
    }
    one = next(iter(next(iter(runs.values())).values()))
    return Outcome(
        experiment,
        tuple(row_of(design, benches, runs) for design in experiment.designs),
        tuple(tried(claim, runs) for claim in experiment.claims),
        sum(map(len, one.records.values())),
        tuple(benches),
    )


def row_of(design: Design, benches: Mapping[int, Bench], runs: Mapping[int, Mapping[str, Run]]) -> Row:
    """One model's scores."""
    mine = [found[design.name] for found in runs.values()]
    each = [intervals({"": overall(run.measured())})[""] for run in mine]
    compared = [compare_runs(run, run, resamples=2, names=KIND_NAMES) for run in mine]
    kinds = {kind: fmean(c.kinds[kind].a.value for c in compared) for kind in compared[0].kinds}
    spent = [sum(map(seconds, bench.own_paths(design))) for bench in benches.values()]
    return Row(design, over_seeds(each), tuple(e.value for e in each), kinds, fmean(spent))


def seconds(directory: Path) -> float:
    """Working time of a finished stage."""
    return artifact.read(directory).seconds


def tried(claim: Claim, runs: Mapping[int, Mapping[str, Run]]) -> Tried:
    """A claim's paired difference in each seed, and over all."""
    compared: list[RunComparison] = [
        compare_runs(found[claim.row], found[claim.than], names=KIND_NAMES) for found in runs.values()
    ]
    differences = tuple(c.overall.difference for c in compared)
    kinds = {kind: fmean(c.kinds[kind].difference.value for c in compared) for kind in compared[0].kinds}
    return Tried(claim, over_seeds(differences), differences, kinds)


def over_seeds(each: Sequence[Estimate]) -> Estimate:
    """Mean of several seeds' values with Student's interval over the seeds; one seed's own over its pictures.

    Seeds are whole worlds with their own pictures, models and questions, so what questions add to the
    uncertainty is in their spread.
    """
    if len(each) == 1:
        return each[0]
    values = [one.value for one in each]
    half = quantile(0.975, len(each) - 1) * stdev(values) / len(each) ** 0.5
    return Estimate(fmean(values), fmean(values) - half, fmean(values) + half)
