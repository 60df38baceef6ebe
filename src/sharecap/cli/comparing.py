"""Commands that set runs beside each other: compare, and gain, which tells how much the images give."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import UsageError


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="Runs of `sharecap eval` or `sharecap score --to`; several of one model: NAME=RUN,RUN.",
        ),
    ],
    *,
    plot: Annotated[Path | None, typer.Option(help="Draw the differences into this .png or .svg.")] = None,
    seen: Annotated[
        Path | None,
        typer.Option(help="The training dataset: also score without the pictures that it holds."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the first model with each other one, item by item: differences with paired 95 % intervals."""
    from sharecap.artifact import plain
    from sharecap.evals.clean import clean_lines, clean_models
    from sharecap.evals.comparison import compare_all, read_models
    from sharecap.evals.tables import comparison_lines
    from sharecap.images.overlap import seen_images
    from sharecap.report.differences import check_plot, draw_differences

    if len(models) < 2 and (plot or not seen):
        todo = "name the runs to compare it with, or a training dataset with --seen"
        raise UsageError("one model alone", todo=todo)
    if plot:
        check_plot(plot)
    read = read_models(models)
    found = compare_all(read) if len(read) > 1 else []
    result = {"comparisons": plain(found)}
    lines = comparison_lines(found) if found else []
    if seen:
        clean = clean_models(read, seen_images(seen))
        result |= {"clean": plain(clean.scores), "clean_comparisons": plain(clean.comparisons)}
        lines += clean_lines(clean)
    if plot:
        result |= {"plot": str(draw_differences(found, plot))}
        lines.append(f"picture: {plot}")
    show(result, as_json, lines)


def gain(
    seen: Annotated[Path, typer.Argument(help="A run of `sharecap eval`.")],
    blind: Annotated[Path, typer.Argument(help="The same model's run with --blind.")],
    *,
    language: Annotated[
        Path | None, typer.Option(help="The run of its language model alone, for the leakage.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Multi-modal gain and leakage: what the score owes to the images, and what to questions known before."""
    from sharecap.artifact import plain
    from sharecap.evals.gain import gain_lines, gains
    from sharecap.evals.results import read_run

    found = gains(read_run(seen), read_run(blind), read_run(language) if language else None)
    show(plain(found), as_json, gain_lines(found))
