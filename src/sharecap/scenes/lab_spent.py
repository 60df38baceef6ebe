"""What a table took: stages, core-minutes, the teacher's price. Read from manifests of finished stages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sharecap import artifact
from sharecap.artifact import MANIFEST, Artifact
from sharecap.recipes.design import Experiment
from sharecap.report.tables import dollars, number
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_captions import COMPARED
from sharecap.scenes.lab_scores import Detail
from sharecap.scenes.summary_course import cost_of


@dataclass(frozen=True)
class Spent:
    """What all that a table needs took, over all its worlds."""

    stages: int
    core_minutes: float  # working time of the stages by the clock, one core each
    teacher_usd: float | None  # at the price of the settings, as if paid; None where no teacher was asked


def spent(experiment: Experiment, benches: Iterable[Bench]) -> Spent:
    """Add up every stage that the table's rows were made by, shared ones once in each world."""
    stages = [stage for bench in benches for stage in behind(last_stages(experiment, bench), bench.root)]
    costs = [cost for stage in stages if (cost := cost_of(stage)) is not None]
    return Spent(len(stages), sum(one.seconds for one in stages) / 60, sum(costs) if costs else None)


def last_stages(experiment: Experiment, bench: Bench) -> list[Path]:
    """The stages that the table is read from, and those that no manifest after them names."""
    if experiment.captioners:
        return [bench.root / COMPARED]
    return list(dict.fromkeys(path for design in experiment.designs for path in bench.own_paths(design)))


def behind(last: Iterable[Path], root: Path) -> list[Artifact]:
    """These stages and all that they were made from, found by the digests in their manifests."""
    known = {one.digest: one for one in stages_in(root)}
    found: dict[Path, Artifact] = {}
    todo = [artifact.read(path) for path in last]
    while todo:
        one = todo.pop()
        if one.path not in found:
            found[one.path] = one
            todo += [known[digest] for digest in one.inputs.values() if digest in known]
    return list(found.values())


def stages_in(root: Path) -> list[Artifact]:
    """Every finished stage of a world."""
    places = [*root.iterdir(), *root.glob("lab/*"), *root.glob("lab/*/*")]
    return [artifact.read(place) for place in places if (place / MANIFEST).is_file()]


def told(found: Spent, worlds: int) -> str:
    """For people."""
    paid = "no teacher was asked"
    if found.teacher_usd is not None:
        paid = f"the teacher's answers would have cost {dollars(found.teacher_usd)}"
    return (
        f"All that this page needs took {number(found.core_minutes, 0)} core-minutes in {found.stages} "
        f"stages of {worlds} world{'s' * (worlds > 1)}; {paid}. Stages that other tables need too are "
        "counted in each. Minutes are by the clock, one core a stage, on a machine that may have done other "
        "work beside."
    )


def by_model(experiment: Experiment, benches: Mapping[int, Bench]) -> Detail:
    """What each model took beside what all share: from pre-training on, mean over the worlds."""
    rows = []
    for design in experiment.designs:
        each = [[artifact.read(path) for path in bench.own_paths(design)] for bench in benches.values()]
        trained = [[one.metrics for one in stages if one.kind == "model"] for stages in each]
        cells = (
            fmean(sum(one.seconds for one in stages) / 60 for stages in each),
            fmean(sum(one["flops"] for one in stages) / 1e12 for stages in trained),
            fmean(sum(one["learned_tokens"] for one in stages) / 1e3 for stages in trained),
        )
        rows.append((design.name, cells))
    columns = ("Model", "Core-minutes", "Operations, 10¹²", "Tokens learned from, thousands")
    note = (
        "Pre-training, tuning and exam, mean over the worlds; alignment and what is before it is shared. "
        "Operations are counted, and the same on any machine."
    )
    return Detail("Time of each model", columns, tuple(rows), note)
