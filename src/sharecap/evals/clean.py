"""Scores without the pictures that a training dataset holds: the clean part of a benchmark beside the whole.

A picture that the dataset was never compared with is not clean, it is unknown; then there is no clean score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sharecap.errors import SharecapError
from sharecap.evals.comparison import Model, RunComparison, compare_all
from sharecap.evals.results import Run
from sharecap.evals.tables import comparison_lines, figure
from sharecap.statistics import Comparison, Score, compare, scaled


@dataclass(frozen=True)
class CleanScore:
    """One model's headline on a benchmark: the whole, the clean part, and the whole less the clean part."""

    model: str
    benchmark: str
    metric: str
    out_of: float
    items: int
    clean_items: int
    score: Comparison  # a: the whole, b: the clean part; resampled together


@dataclass(frozen=True)
class Clean:
    """All models without what the dataset holds."""

    scores: list[CleanScore]
    comparisons: list[RunComparison]  # on the clean part alone


def clean_models(models: Sequence[Model], seen: Mapping[str, bool]) -> Clean:
    """`seen` tells of every picture, by digest, whether the dataset holds it or one like it."""
    parts = [Model(model.name, tuple(_clean(run, seen) for run in model.runs)) for model in models]
    scores = [one for whole, part in zip(models, parts, strict=True) for one in _beside(whole, part)]
    return Clean(scores, compare_all(parts) if len(parts) > 1 else [])


def _clean(run: Run, seen: Mapping[str, bool]) -> Run:
    kept = {}
    for task, records in run.records.items():
        unknown = {image for r in records for image in r.images if image not in seen}
        if unknown:
            pictures = {image for r in records for image in r.images}
            what = (
                f"{len(unknown):,} of {len(pictures):,} pictures of {task} were not compared with the dataset"
            )
            todo = "take runs of `sharecap eval`, and `sharecap check DATASET --against` this benchmark"
            raise SharecapError(what, where=run.name, todo=todo)
        kept[task] = [r for r in records if not any(seen[image] for image in r.images)]
        if not kept[task]:
            raise SharecapError(
                f"the dataset holds every picture of {task}: nothing is clean", where=run.name
            )
    return replace(run, records=kept)


def _beside(whole: Model, part: Model) -> list[CleanScore]:
    pairs: dict[str, tuple[Score, Score]] = {}
    about = {}
    for task in whole.runs[0].records:
        if not all(task in run.records for run in whole.runs):
            continue
        sides: list[list[Score]] = [[], []]
        for side, model in zip(sides, (whole, part), strict=True):
            for run in model.runs:
                found = run.measures[task](run.records[task])
                if found.withheld:
                    raise SharecapError(f"{run.name} has no score on {task}: {found.withheld}")
                side.append(scaled(found.scores[found.headline], 1 / len(model.runs)))
        about[task] = (found.headline, found.out_of)
        full, clean = (tuple(mean for score in side for mean in score) for side in sides)
        pairs[task] = (full, clean)
    compared = compare(pairs)
    return [
        CleanScore(
            whole.name,
            task,
            *about[task],
            items=len(whole.runs[0].records[task]),
            clean_items=len(part.runs[0].records[task]),
            score=compared[task],
        )
        for task in pairs
    ]


def clean_lines(found: Clean) -> list[str]:
    """For people."""
    lines = ["without the pictures that the dataset holds:"]
    for one in found.scores:
        line = f"  {one.model}, {one.benchmark} {one.metric} (of {one.out_of:g}): whole {figure(one.score.a)}"
        line += f", clean {figure(one.score.b)}, whole less clean {figure(one.score.difference)}"
        lines.append(f"{line}; {one.clean_items:,} of {one.items:,} items are clean")
    return [*lines, *(comparison_lines(found.comparisons) if found.comparisons else [])]
