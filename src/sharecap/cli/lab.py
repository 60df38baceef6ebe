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

        found = [recipe for one in experiments for recipe in recipes_of(one, size)]
        show({"recipes": [recipe.name for recipe in found]}, as_json, command_lines(found))
        return
    from sharecap.scenes import lab_report
    from sharecap.scenes.lab import Bench, name_of, run
    from sharecap.scenes.lab_scores import outcome
    from sharecap.scenes.quickstart import QuickstartSpec

    root = to.resolve()
    numbers = range(first_seed, first_seed + seeds)
    benches = {seed: Bench(root / f"seed-{seed}", QuickstartSpec(seed=seed)) for seed in numbers}
    designs = {name_of(design): design for one in experiments for design in one.designs}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for bench in benches.values():
        run(bench, list(designs.values()), jobs=jobs or cores)
    done = [outcome(one, benches) for one in experiments]
    pages = [lab_report.write(found, root) for found in done]
    told = [
        line
        for found, page in zip(done, pages, strict=True)
        for line in (*lab_report.lines(found), f"  {page}")
    ]
    show({"experiments": [lab_report.as_data(found) for found in done]}, as_json, told)
