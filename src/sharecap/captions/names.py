"""Names in captions, how sure the captioner was of each, and captions without those that it was not sure of.

A captioner has seen that some things are called by a name, and calls others so too: it invents the name of a
thing that it never learned, but is less sure of it than of one that it knows. The sentence that gives it is
left out, as a teacher leaves it out who doesn't know the name. Pure; for scripts with capital letters.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharecap.captions.sentences import pieces

Chances = Sequence[tuple[int, float]]
"""Of each token of a text: where it ends, and how probable it was to the captioner."""

_WORD = re.compile(r"[^\W\d_](?:[\w'’-]*\w)?")
_NO_NAME = re.compile(r"I(?:['’](?:m|d|ve|ll))?")


@dataclass(frozen=True)
class Name:
    """One name, as it stands in a caption."""

    text: str
    sentence: int  # 0 is the first
    chance: float  # of its least probable token


def names_in(text: str, chances: Chances) -> Iterator[Name]:
    """Words with a capital inside a sentence; those that follow each other are one name.

    The first word of a sentence is none: it has its capital anyway.
    """
    at = 0
    for number, (sentence, gap) in enumerate(pieces(text)):
        words = list(_WORD.finditer(text, at, at + len(sentence)))[1:]
        start = end = -1
        for word in words:
            capital = word[0][0].isupper() and not _NO_NAME.fullmatch(word[0])
            if end >= 0 and not (capital and text[end : word.start()].isspace()):
                yield Name(text[start:end], number, _chance(chances, start, end))
                start = end = -1
            if capital:
                start, end = (word.start() if end < 0 else start), word.end()
        if end >= 0:
            yield Name(text[start:end], number, _chance(chances, start, end))
        at += len(sentence) + len(gap)


def _chance(chances: Chances, start: int, end: int) -> float:
    """The smallest probability of a token between these places; 0 where none is told."""
    begins = [0, *(end for end, _ in chances)]
    own = [p for (stop, p), begin in zip(chances, begins, strict=False) if stop > start and begin < end]
    return min(own, default=0.0)


def sure_of(text: str, chances: Chances, least: float) -> str:
    """The text without the sentences that give a name less probable than `least`."""
    doubtful = {name.sentence for name in names_in(text, chances) if name.chance < least}
    if not doubtful:
        return text
    kept = (a + b for number, (a, b) in enumerate(pieces(text)) if number not in doubtful)
    return "".join(kept).strip()
