"""A lab's directory as Markdown: every table with its figures, verdicts and time, and the pictures beside it.

Reads what is finished in the worlds below it, whatever version made them, and trains nothing; a table enters
with all worlds that have every row of it, and what is missing is said on stderr. A world whose captions
have not been compared yet is given that (`lab/compared`, seconds).
`python benchmarks/lab_results.py lab --pictures docs/lab > tables.md`
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sharecap.artifact import MANIFEST
from sharecap.recipes.design import Experiment
from sharecap.recipes.experiments import EXPERIMENTS
from sharecap.report.tables import dollars, number
from sharecap.scenes import lab_report, lab_spent
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_captions import compare
from sharecap.scenes.lab_index import write_index
from sharecap.scenes.lab_missing import benches_in, missing, missing_lines
from sharecap.scenes.lab_report import between
from sharecap.scenes.lab_scores import Cell, Detail, Outcome
from sharecap.statistics import Estimate

LARGEST = 40_000
"""Bytes that a picture in the repository may have."""


def markdown(found: Outcome, spent: lab_spent.Spent, picture: str) -> Iterator[str]:
    """One table of the paper as a section."""
    experiment, worlds = found.experiment, len(found.seeds)
    seeds = ", ".join(map(str, found.seeds))
    yield f"### {experiment.title} ({experiment.where or 'beyond the paper'}): `{experiment.name}`"
    yield experiment.claim
    yield ""
    parts = list(found.rows[0].kinds)
    yield from table(
        ("row", found.measure, "seed by seed", *parts),
        [
            (
                row.name,
                between(row.score, signed=False),
                " / ".join(map(number, row.seeds)),
                *(number(row.kinds[part]) for part in parts),
            )
            for row in found.rows
        ],
    )
    yield from table(
        ("claim", "difference", "p", "the paper's", "verdict"),
        [
            (
                f"{one.claim.row} {'≈' if one.claim.equal else '>'} {one.claim.than}"
                + (f" ({one.claim.measure}, ±{one.claim.margin:g})" if one.claim.equal else ""),
                between(one.difference),
                "" if one.p is None else number(one.p, 3),
                one.claim.paper,
                f"**{one.verdict}**",
            )
            for one in found.tried
        ],
    )
    for line in lab_report.beside(found):
        yield line
        yield ""
    for one in found.details:
        yield f"{one.title}. {one.note}"
        yield ""
        yield from table(one.columns, [(name, *(told(c, one) for c in cells)) for name, cells in one.rows])
    if picture:
        yield f"![{experiment.title}: every row with its interval]({picture})"
        yield ""
    paid = "" if spent.teacher_usd is None else f"; the teacher would have cost {dollars(spent.teacher_usd)}"
    intervals = "Student's over the worlds" if worlds > 1 else "over this world's pictures"
    yield f"{found.asked.capitalize()}, seed{'s' * (worlds > 1)} {seeds}; 95 % intervals, {intervals}."
    yield f"{number(spent.core_minutes, 0)} core-minutes of stages, shared ones included{paid}."
    yield ""
    yield f"What follows: {lab_report.follows(found)}"
    yield ""
    if experiment.note:
        yield f"How this small world differs: {experiment.note}"
        yield ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and the empty line behind it."""
    for row in (columns, ["---"] * len(columns), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def told(cell: Cell, of: Detail) -> str:
    """A cell in words."""
    if isinstance(cell, Estimate):
        return between(cell, signed=of.signed, digits=of.digits)
    return number(cell, of.digits) if isinstance(cell, float) else cell or "–"


def whole(experiment: Experiment, benches: Mapping[int, Bench]) -> dict[int, Bench]:
    """The worlds that have every row of the table."""
    return {seed: bench for seed, bench in benches.items() if not missing(experiment, bench)}


def total(benches: Mapping[int, Bench]) -> str:
    """What all finished stages of all worlds took, each once."""
    stages = [one for bench in benches.values() for one in lab_spent.stages_in(bench.root)]
    seconds = sum(one.seconds for one in stages)
    worlds = f"{len(benches)} world{'s' * (len(benches) > 1)}"
    return (
        f"All {len(stages)} stages of {worlds}: {number(seconds / 60, 0)} core-minutes of working time by "
        "the clock, one core a stage."
    )


def main() -> None:
    """Print the tables; write pages, pictures and the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("lab", type=Path, help="what `sharecap lab --to` named")
    parser.add_argument("--pictures", type=Path, help="where pictures go too, such as docs/lab")
    asked = parser.parse_args()
    benches = benches_in(asked.lab.resolve())
    experiments = [make() for make in EXPERIMENTS.values()]
    for bench in benches.values():
        if (bench.root / "probe" / MANIFEST).is_file():
            compare(bench)
    print(*missing_lines(experiments, benches), sep="\n", file=sys.stderr)
    for one in experiments:
        there = whole(one, benches)
        if not there:
            continue
        found, spent = lab_report.read(one, there)
        lab_report.write(found, spent, asked.lab)
        picture = ""
        if asked.pictures:
            asked.pictures.mkdir(parents=True, exist_ok=True)
            drawn = lab_report.draw(found, asked.pictures / f"{one.name}.png")
            assert drawn.stat().st_size < LARGEST, drawn
            picture = f"{asked.pictures.name}/{drawn.name}"
        print("\n".join(markdown(found, spent, picture)))
    print(total(benches))
    write_index(asked.lab)


if __name__ == "__main__":
    main()
