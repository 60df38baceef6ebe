"""What of a table is there already, world by world. Looks at finished stages only, and starts nothing.

Whether a finished stage is the one that is asked for now (its key), running it finds out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sharecap.artifact import MANIFEST
from sharecap.recipes.design import Experiment
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_captions import COMPARED
from sharecap.scenes.quickstart import QuickstartSpec

SEED = "seed-"
"""Directories of worlds begin so."""


def bench_of(root: Path, seed: int) -> Bench:
    """The world of a seed."""
    return Bench(root / f"{SEED}{seed}", QuickstartSpec(seed=seed))


def benches_in(root: Path) -> dict[int, Bench]:
    """All worlds that lie there, whatever is finished in them."""
    numbers = (path.name.removeprefix(SEED) for path in root.glob(f"{SEED}*") if path.is_dir())
    return {seed: bench_of(root, seed) for seed in sorted(int(n) for n in numbers if n.isdecimal())}


def missing(experiment: Experiment, bench: Bench) -> list[str]:
    """Names of the rows that a world has no result of yet."""
    if experiment.captioners:
        there = (bench.root / COMPARED / MANIFEST).is_file()
        return [] if there else list(experiment.captioners)
    return [
        design.name for design in experiment.designs if not (bench.exam_path(design) / MANIFEST).is_file()
    ]


def missing_lines(experiments: Sequence[Experiment], benches: Mapping[int, Bench]) -> Iterator[str]:
    """For people: nothing, one line a world, or one line a table of a world that has some of it."""
    for seed, bench in benches.items():
        lacking = {one: missing(one, bench) for one in experiments}
        if not any(lacking.values()):
            continue
        if not bench.root.is_dir():
            yield f"world {seed}: nothing is there yet"
            continue
        for one, names in lacking.items():
            rows = len(one.designs) or len(one.captioners)
            where = f"world {seed}, {one.name}"
            if len(names) == rows:
                yield f"{where}: nothing is there yet"
            elif names:
                yield f"{where}: {rows - len(names)} of {rows} are there, missing: {', '.join(names)}"
