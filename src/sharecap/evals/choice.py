"""Multiple choice: how options are shown, and which one a text names.

Never picks an option for a text that names none or several: that is no answer.
"""

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGH"

_BARE = re.compile(r"[\s(\[]*([A-H])\s*[)\].:,]*\s*")
_LEADING = re.compile(r"[\s(\[]*([A-H])\s*[)\].:]\s*\S")
_STATED = re.compile(r"\b(?i:answer|option|choice)(?i: is)?:?\s*[(\[]?([B-H]\b|A\b(?!\s+\w))")
"""A before a word is taken as the article."""
_STATED_CN = re.compile(r"(?:答案|选项|选择|选)(?:应该)?(?:是|为|选)?\s*[:：]?\s*[(（\[]?([A-H])(?![A-Za-z])")


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by their letters."""
    return dict(zip(LETTERS, options, strict=False))


def shown(question: str, options: Mapping[str, str], hint: str = "") -> str:
    """Hint, question and lettered options, a line each."""
    lines = [question, *(f"{letter}. {text}" for letter, text in options.items())]
    return "\n".join([hint, *lines] if hint else lines)


def named(options: Mapping[str, str], raw: str) -> str | None:
    """The letter that the text names: bare, leading, "the answer is X", or by the option's own words."""
    letter = _BARE.fullmatch(raw) or _LEADING.match(raw)
    found = {letter.group(1)} if letter else set(_STATED.findall(raw)) | set(_STATED_CN.findall(raw))
    if len(found) == 1:
        return one if (one := found.pop()) in options else None
    words = _plain(raw)
    same = [letter for letter, text in options.items() if _plain(text) == words]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip().lower()
