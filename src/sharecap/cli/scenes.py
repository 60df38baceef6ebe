"""Commands of the embedded world: quickstart, draw-exam, simulate-teacher."""

import time
from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show


def quickstart(
    *,
    to: Annotated[
        Path | None, typer.Option(help="Where everything goes; quickstart/, or quickstart-SEED/ with a seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
    as_json: AsJson = False,
) -> None:
    """The whole story on the embedded world, with a report. Interrupted, the same command goes on."""
    from sharecap.scenes.quickstart import QuickstartSpec, Story
    from sharecap.scenes.summary import read_results, result_lines

    clock = time.monotonic()
    # Another seed in the same place would replace, stage by stage, what took minutes to make.
    to = to or Path(f"quickstart-{seed}" if seed else "quickstart")
    page = Story(to.resolve(), QuickstartSpec(seed=seed)).run()
    results = read_results(page) | {"report": str(page), "run_seconds": time.monotonic() - clock}
    show(results, as_json, result_lines(results))


def draw_exam(
    to: Annotated[Path, typer.Argument(help="Where world/ and benchmarks/ go; a new directory.")],
    *,
    pictures: Annotated[int, typer.Option(min=20, help="Scenes that are asked about.")] = 60,
    seed: Annotated[int, typer.Option(help="The world's seed; a quickstart's, to examine its models.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write questions about scenes in the official files of the paper's eleven benchmarks."""
    from sharecap.errors import UsageError
    from sharecap.images.dataset import disk_errors
    from sharecap.scenes.whole_exam import draw_exam as draw
    from sharecap.scenes.world import WorldSpec

    if to.exists():
        raise UsageError("this place is taken", where=to, todo="choose a new directory")
    with disk_errors(to):
        made = draw(to, WorldSpec(seed=seed), pictures)
    truth = to / "world" / "truth.jsonl"
    lines = [f"benchmarks: {made}", f"a judge who knows the truth: sharecap simulate-teacher --truth {truth}"]
    show({"benchmarks": str(made), "truth": str(truth)}, as_json, lines)


def simulate_teacher(
    *,
    truth: Annotated[list[Path] | None, typer.Option(help="truth.jsonl of a drawn world.")] = None,
    answers: Annotated[list[Path] | None, typer.Option(help="Recorded answers (JSON Lines).")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 0,
    latency_ms: Annotated[float, typer.Option(help="Time that every answer takes.")] = 0.0,
    mistakes: Annotated[float, typer.Option(help="Chance that an attribute is told wrong.")] = 0.0,
    judge_errors: Annotated[
        float, typer.Option(help="Asked as a judge: chance that a verdict is a wrong one.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, other words and other faults.")] = 0,
    faults: Annotated[str, typer.Option(help='Probabilities per request: "429=0.05,drop=0.01".')] = "",
    retry_after_s: Annotated[float, typer.Option(help="What a 429 asks its sender to wait.")] = 1.0,
    require_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key to be sent.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="One JSON line per request: digests and status.")] = None,
    batches: Annotated[
        Path | None, typer.Option(help="Offer a Batch API too, and keep its files in this directory.")
    ] = None,
    batch_faults: Annotated[
        str, typer.Option(help='busy, vanish, crowded, expire, error, lost: "expire=0.5,error=0.01".')
    ] = "",
    batch_line_ms: Annotated[float, typer.Option(help="Time that every line of a batch takes.")] = 0.0,
) -> None:
    """Answer like a teacher's endpoint on this machine, without a key or a network, with faults on demand."""
    from sharecap.scenes.batch_files import check_batch_faults
    from sharecap.scenes.faults import parse_faults
    from sharecap.scenes.simulator import Settings, serve

    settings = Settings(
        truth=tuple(truth or ()),
        answers=tuple(answers or ()),
        port=port,
        latency_ms=latency_ms,
        mistakes=mistakes,
        judge_errors=judge_errors,
        seed=seed,
        faults=parse_faults(faults),
        retry_after_s=retry_after_s,
        require_key_env=require_key_env,
        log=log,
        batches=batches,
        batch_faults=parse_faults(batch_faults, check_batch_faults),
        batch_line_ms=batch_line_ms,
    )
    serve(settings)
