"""The command that tells how much of a score the images give."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show


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
