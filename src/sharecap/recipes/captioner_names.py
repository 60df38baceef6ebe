"""How sure a captioner must be of a name to give it, found on pictures that it never learned from.

The teacher's caption is the truth here: a name that it doesn't give of the picture was invented. What is
found is one number, of which the captioner's folder keeps a note.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharecap.captions.names import Name, names_in
from sharecap.model.generation import Reply

NEVER = 2.0
"""No name is so probable: none is given where none can be trusted."""


@dataclass(frozen=True)
class Sureness:
    """Names in captions of held-out pictures, all of them and those whose sentences stay."""

    least: float  # probability from which on a name is given
    given: int
    invented: int  # of these
    kept: int
    kept_invented: int


def sureness(replies: Sequence[Reply], teacher: Sequence[str], wrong: float) -> Sureness:
    """The smallest probability from which on at most the share `wrong` of the names is invented.

    `replies` tell their tokens' chances, `teacher` what is said of the same pictures.
    """
    given = sorted(
        (
            (least, is_given(name, words))
            for reply, words in zip(replies, teacher, strict=True)
            for name, least in with_sentences(reply)
        ),
        reverse=True,
    )
    best, invented = (NEVER, 0, 0), 0
    for number, (chance, right) in enumerate(given, 1):
        invented += not right
        last = number == len(given) or given[number][0] < chance  # equal ones are kept together
        if last and invented <= wrong * number:
            best = (chance, number, invented)
    return Sureness(best[0], len(given), invented, best[1], best[2])


def with_sentences(reply: Reply) -> Iterator[tuple[Name, float]]:
    """Each name, and how probable the least probable one of its sentence is: they stay together or go."""
    names = list(names_in(reply.text, reply.chances))
    for name in names:
        yield name, min(one.chance for one in names if one.sentence == name.sentence)


def is_given(name: Name, text: str) -> bool:
    """The text has this name, word for word, in any case."""
    return re.search(rf"(?<!\w){re.escape(name.text)}(?!\w)", text, re.IGNORECASE) is not None
