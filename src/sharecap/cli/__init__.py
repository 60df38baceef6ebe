"""The command line: parse, call, print. No logic lives here; nothing heavy is imported before it is used."""

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from sharecap import __version__
from sharecap.cli import (
    captioner,
    captioning,
    comparing,
    datasets,
    evaluation,
    judging,
    lab,
    layers,
    mixing,
    quality,
    scenes,
    training,
    web,
)
from sharecap.errors import SharecapError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Better captions, better multimodal models: caption images, train on the captions, prove the gain.",
)


def say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sharecap {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=say_version, help="Say which version this is."),
    ] = False,
) -> None:
    """What may stand before a command."""


# In the order of `--help`, which is that of the work.
app.command("add")(datasets.add)
app.command("check")(datasets.check)
app.command("caption")(captioning.caption)
app.command("stats")(layers.stats)
app.command("diff")(layers.diff)
app.command("quality")(quality.quality)
app.command("curate")(quality.curate)
app.command("judge")(judging.judge)
app.command("prefer")(judging.prefer)
app.command("merge")(layers.merge)
app.command("edit")(layers.edit)
app.command("fuse")(captioning.fuse)
app.command("export")(layers.export)
app.command("drop")(datasets.drop)
app.command("card")(layers.card)
app.command("mix")(mixing.mix)
app.command("quickstart")(scenes.quickstart)
app.command("draw-exam")(scenes.draw_exam)
app.command("simulate-teacher")(scenes.simulate_teacher)
app.command("plan")(training.plan)
app.command("train")(training.train)
app.add_typer(captioner.app, name="captioner")
app.command("convert")(training.convert)
app.command("eval")(evaluation.evaluate_model)
app.command("score")(evaluation.score)
app.command("upload")(evaluation.upload)
app.command("compare")(comparing.compare)
app.command("gain")(comparing.gain)
app.command("lab")(lab.lab)
app.command("view")(web.view)
app.command("ask")(web.ask)
app.add_typer(evaluation.benchmarks, name="benchmarks")

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait cost 5 to 10 times on shared cores
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own keeps what it freed: 35 MiB of a captioning run
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # to find none, it reads the metadata of all that is installed
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # stderr is for our own progress; what a bar is worth is checked
}
"""What libraries read when they are imported, here and in worker processes; the user's own word wins."""

INTERRUPTED = 130
"""What Typer makes of a Ctrl-C that the command has not made an `Interrupted` of."""


def main() -> None:
    """Entry point: every `SharecapError` becomes one line on stderr and its exit code."""
    gc.set_threshold(100_000)  # at every 700th object, the default, a tenth of the start-up went into looking
    atexit.register(gc.freeze)  # nor does it pay to look through all once more at the end, for 0.1 s
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except SharecapError as error:
        # One line, whatever a file's name holds: line ends and terminal codes are spelled out.
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(error))
        print(f"sharecap: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("sharecap: interrupted. run the same command again to go on", file=sys.stderr)
        raise
