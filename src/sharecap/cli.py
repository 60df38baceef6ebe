"""The command line: parse, call, print. No logic lives here, and nothing heavy is imported before a command runs."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sharecap.errors import SharecapError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Better captions, better multimodal models: caption images, train on the captions, prove the gain.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable results.")]


def show(result: Any, as_json: bool, lines: list[str]) -> None:
    """Print `result` as JSON, or `lines` for people."""
    print(json.dumps(result, ensure_ascii=False, indent=1) if as_json else "\n".join(lines))


@app.command("simulate-teacher")
def simulate_teacher(
    *,
    truth: Annotated[list[Path] | None, typer.Option(help="truth.jsonl of a drawn world.")] = None,
    answers: Annotated[list[Path] | None, typer.Option(help="Recorded answers (JSON Lines).")] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    latency_ms: Annotated[float, typer.Option(help="Time that every answer takes.")] = 0.0,
    mistakes: Annotated[float, typer.Option(help="Chance that an attribute is told wrong.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, other words and other faults.")] = 0,
    faults: Annotated[str, typer.Option(help='Probabilities per request: "429=0.05,drop=0.01".')] = "",
    retry_after_s: Annotated[float, typer.Option(help="What a 429 asks its sender to wait.")] = 1.0,
    require_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key to be sent.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="One JSON line per request: digests and status.")] = None,
) -> None:
    """Answer like a teacher's endpoint on this machine, without a key or a network, with faults on demand."""
    from sharecap.scenes.faults import parse_faults
    from sharecap.scenes.simulator import Settings, serve

    settings = Settings(
        truth=tuple(truth or ()),
        answers=tuple(answers or ()),
        port=port,
        latency_ms=latency_ms,
        mistakes=mistakes,
        seed=seed,
        faults=parse_faults(faults),
        retry_after_s=retry_after_s,
        require_key_env=require_key_env,
        log=log,
    )
    serve(settings)


def main() -> None:
    """Entry point: every `SharecapError` becomes one line on stderr and its exit code."""
    try:
        app()
    except SharecapError as error:
        print(f"sharecap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("sharecap: interrupted. Run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
