"""JSON files of gigabytes, element by element: lists, JSON Lines, and objects of lists (COCO).

It never holds more than one element and a buffer in memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sharecap.errors import SharecapError

CHUNK = 1 << 20
"""Characters read at a time."""

MAX_ELEMENT = 64 << 20
"""Characters of one element; a longer one is no row but a mistake."""

NONSENSE = 100
"""Bad lines before any good one, after which a file is no JSON Lines."""

_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of JSON Lines that is no JSON."""

    number: int  # from 1
    what: str


def elements(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element): the elements of a list under "", those of an object's lists under the list's key.

    Values of an object that are no lists come as one element. `SharecapError` if the file is no JSON. Of JSON
    Lines each line stands for itself: a bad one comes as `BadLine`, and the rest goes on.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            yield from (("", value) for value in _lines(path))
            return
        with open(path, encoding="utf-8-sig") as file:
            text = _Text(file)
            if text.peek() == "[":
                yield from (("", value) for value in text.items())
            else:
                yield from _members(text)
            if text.peek():
                raise ValueError("more after the end")
    except OSError as error:
        raise SharecapError(f"cannot read the list ({error.strerror})", where=path) from None
    except (ValueError, RecursionError) as error:
        raise SharecapError(f"not whole JSON ({str(error)[:200]})", where=path) from None


def _lines(path: Path) -> Iterator[Any]:
    """The lines' values. Bad lines wait until one is good: where none is, the file is something else."""
    number, waiting, good = 0, list[BadLine](), False
    with open(path, "rb") as file:
        while line := file.readline(MAX_ELEMENT):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                if len(line) == MAX_ELEMENT and not line.endswith(b"\n"):
                    while (more := file.readline(CHUNK)) and not more.endswith(b"\n"):
                        pass
                    raise ValueError(f"longer than {MAX_ELEMENT:,} bytes")
                value = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                bad = BadLine(number, f"not JSON ({_why(error)})")
                if good:
                    yield bad
                    continue
                waiting.append(bad)
                if len(waiting) >= NONSENSE:
                    break
                continue
            if not good:
                good = True
                yield from waiting
            yield value
    if waiting and not good:
        raise ValueError(f"no line is; line {waiting[0].number}: {waiting[0].what}")


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]


def first_character(path: Path) -> str:
    """What the JSON at `path` begins with; "" if it is empty or can't be read."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return _Text(file).peek()
    except OSError:
        return ""


def _members(text: "_Text") -> Iterator[tuple[str, Any]]:
    text.expect("{")
    while text.peek() != "}":
        key = text.value()
        if not isinstance(key, str):
            raise ValueError("a key is no text")
        text.expect(":")
        if text.peek() == "[":
            yield from ((key, value) for value in text.items())
        else:
            yield key, text.value()
        if text.peek() != "}":
            text.expect(",")
    text.expect("}")


class _Text:
    """A text that is read forwards."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Step over `character`."""
        if self.peek() != character:
            raise ValueError(f"no {character!r} where one should be")
        self._at += 1

    def items(self) -> Iterator[Any]:
        """The elements of a list."""
        self.expect("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.expect(",")
                if self.peek() == "]":
                    raise ValueError("a comma too many")
        self.expect("]")

    def value(self) -> Any:
        """One JSON value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if len(self._text) - self._at > MAX_ELEMENT or not self._more():
                    raise
                continue
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        # Doubling what is held keeps a long element from being decoded over and over.
        read = self._file.read(max(CHUNK, len(self._text) - self._at))
        if not read:
            return False
        self._text, self._at = self._text[self._at :] + read, 0
        return True
