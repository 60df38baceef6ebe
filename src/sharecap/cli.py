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
