"""How sure a captioner must be of a name to give it, found on pictures that it never learned from.

The teacher's caption is the truth here: a name that it doesn't give of the picture was invented. What is
found is one number, of which the captioner's folder keeps a note. The share that is asked for is a promise
about other pictures: it must never be read off these alone, of which a lucky few would always do.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sharecap.captions.names import Name, names_in
from sharecap.model.generation import Reply
from sharecap.quality.shares import wilson_bounds
from sharecap.statistics import Estimate

NEVER = 2.0
"""No name is so probable: none is given where nothing can be promised of any."""


@dataclass(frozen=True)
class Sureness:
    """Names in captions of held-out pictures, all of them and those whose sentences stay."""

    least: float  # probability from which on a name is given
    given: int
    invented: int  # of these
    kept: int
    kept_invented: int
    share: Estimate | None = None  # of invented ones among the kept; None: none are kept


def sureness(replies: Sequence[Reply], teacher: Sequence[str], wrong: float) -> Sureness:
    """The smallest probability from which on at most the share `wrong` of the names is invented.

    The upper end of the share's interval has to be within `wrong`, not the share itself: of many
    probabilities the smallest that does is one that did well by chance. `NEVER` where none does, be it that
    the names can't be trusted or that they are too few to tell (34 of 34 right ones don't do for a tenth).
    `replies` tell their tokens' chances, `teacher` what is said of the same pictures.
    """
    given = sorted(
        (
            (least, is_given(name, words), picture)
            for picture, (reply, words) in enumerate(zip(replies, teacher, strict=True))
            for name, least in with_sentences(reply)
        ),
        reverse=True,
    )
    found = Sureness(NEVER, len(given), sum(not right for _, right, _ in given), 0, 0)
    invented, pictures = 0, set[int]()
    for number, (chance, right, picture) in enumerate(given, 1):
        invented += not right
        pictures.add(picture)
        last = number == len(given) or given[number][0] < chance  # equal ones are kept together
        if last and invented <= wrong * number:
            share = share_of(invented, number, len(pictures))
            if share.high is not None and share.high <= wrong:
                found = replace(found, least=chance, kept=number, kept_invented=invented, share=share)
    return found


def share_of(invented: int, names: int, pictures: int) -> Estimate:
    """The share of invented names with its 95 % interval; those of one picture are no independent ones."""
    share = invented / names
    return Estimate(share, *wilson_bounds(share, pictures))


def with_sentences(reply: Reply) -> Iterator[tuple[Name, float]]:
    """Each name, and how probable the least probable one of its sentence is: they stay together or go."""
    names = list(names_in(reply.text, reply.chances))
    for name in names:
        yield name, min(one.chance for one in names if one.sentence == name.sentence)


def is_given(name: Name, text: str) -> bool:
    """The text has this name, word for word, in any case."""
    return re.search(rf"(?<!\w){re.escape(name.text)}(?!\w)", text, re.IGNORECASE) is not None
