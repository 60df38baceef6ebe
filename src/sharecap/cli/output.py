"""How commands print: for people, or as JSON; never what would steer a terminal."""

import json
import re
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable results.")]

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What names of files and captions must not do to a terminal; spelled out, it is JSON as before."""


def show(result: Any, as_json: bool, lines: list[str]) -> None:
    """Print `result` as JSON, or `lines` for people."""
    text = json.dumps(result, ensure_ascii=False, indent=1) if as_json else "\n".join(lines)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
