"""The command that runs the paper's experiments: lab."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import UsageError


def lab(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Experiments, `all`, or FILE.py:FUNCTION of your own."),
    ] = None,
    *,
    size: Annotated[str, typer.Option(help="scenes (runs here), small (one GPU) or paper.")] = "scenes",
    seeds: Annotated[int, typer.Option(min=1, help="Worlds to repeat everything in.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Number of the first world.")] = 0,
    to: Annotated[Path, typer.Option(help="Where models, exams and pages go.")] = Path("lab"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models that learn at a time (default: a core each).")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Name the experiments and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run tables of the paper: models, exams, verdicts. Interrupted, the same command goes on."""
    from sharecap.recipes.find import find_experiments, listed_lines

    if listed:
        show(None, False, listed_lines())
        return
    if not names:
        raise UsageError("name an experiment", todo="sharecap lab --list names them")
    experiments = find_experiments(names)
    if size != "scenes":
        from sharecap.recipes.at_size import command_lines, recipes_of

        typed = [one.name for one in experiments] if names == ["all"] else names
        lines = [
            line
            for name, one in zip(typed, experiments, strict=True)
            for line in command_lines(name, one, size)
        ]
        found = [recipe.name for one in experiments for recipe in recipes_of(one, size)]
        show({"recipes": found}, as_json, lines)
        return
    from sharecap.scenes import lab_report
    from sharecap.scenes.lab import check_place, run
    from sharecap.scenes.lab_captions import compare
    from sharecap.scenes.lab_index import write_index
    from sharecap.scenes.lab_missing import bench_of, missing_lines
    from sharecap.scenes.quickstart import say

    root = to.resolve()
    check_place(root, experiments)
    benches = {seed: bench_of(root, seed) for seed in range(first_seed, first_seed + seeds)}
    for line in missing_lines(experiments, benches):
        say(line)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for bench in benches.values():
        run(bench, experiments, jobs=jobs or cores)
        if any(one.captioners for one in experiments):
            compare(bench)
    told, data = [], []
    for one in experiments:
        came, spent = lab_report.read(one, benches)
        page = lab_report.write(came, spent, root)
        told += [*lab_report.lines(came, spent), f"  {page}"]
        data.append(lab_report.as_data(came, spent))
    index = write_index(root)
    show({"experiments": data, "index": str(index)}, as_json, [*told, f"all: {index}"])
