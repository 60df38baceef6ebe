"""Words from outside in a Markdown page: names of sources, models and licences must never become markup."""

import html
import json
import re
from collections.abc import Sequence

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")


def one_line(text: str) -> str:
    """`text` without line ends and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown(text: str) -> str:
    """`text` as words that neither Markdown nor HTML takes for markup."""
    return _MARKUP.sub(r"\\\1", html.escape(one_line(text), quote=False))


def yaml_text(text: str) -> str:
    """`text` as a double-quoted YAML scalar; JSON's quoting is one of YAML's."""
    return json.dumps(one_line(text), ensure_ascii=False)


def table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns, the second of numbers if the columns have names. Cells are markup already."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|" if head[0] else "|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} |" for a, b in rows)])
