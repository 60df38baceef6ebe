"""The command that puts rows of several files together for training."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show

PART = "FILE[,images=DIR][,count=N][,weight=W][,only=PATTERN]"


def mix(
    parts: Annotated[list[str], typer.Argument(metavar="PART...", help=f"Files of rows: {PART}")],
    *,
    to: Annotated[Path, typer.Option(help="New directory for the mixture.")],
    rows: Annotated[int | None, typer.Option(min=1, help="Rows that the weights share out.")] = None,
    replace: Annotated[Path | None, typer.Option(help="File of rows of the mixture to be replaced.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help=f"What replaces them, one for one (may be repeated): {PART}")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which rows are drawn depends on it.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write all rows as one LLaVA JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mix rows of several files by count or weight; replace some one for one, by image where it goes."""
    from sharecap.data.mixture import Mixture, Swap, keep, mixed_lines, open_rows, part_of
    from sharecap.data.rows import replaceable, write_rows
    from sharecap.errors import UsageError
    from sharecap.images.dataset import disk_errors

    if (replace is None) != (not by):
        raise UsageError("give both --replace and --by, or none")
    mixture = Mixture(
        tuple(map(part_of, parts)),
        rows,
        None if replace is None else Swap(replace, tuple(map(part_of, by or []))),
        seed,
    )
    if out is not None and out.resolve() in {file.resolve() for file in mixture.files}:
        raise UsageError("rows are read from this file", where=out, todo="choose another --out")
    if out is not None and not replaceable(out):
        raise UsageError("what is there is no file of rows", where=out, todo="choose another --out")
    with disk_errors(to):
        made = keep(mixture, to)
    if out is not None:
        write_rows(out, open_rows(to))
    show(made.metrics, as_json, mixed_lines(made))
