"""Equal substitution: some rows of a mixture replaced one for one by rows with other captions.

Implements the paper's SFT experiment (its Figure 2): the detailed captions of the base data give way to
as many new ones, on the same images or at least the same sources where possible. Nothing else may change.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharecap.data.mixed import Mixed
from sharecap.errors import UsageError
from sharecap.records import IMAGE_TOKEN, Conversation


@dataclass(frozen=True)
class Substitution:
    """The new mixture, in the order of the old one, and how well the replacements matched."""

    rows: Mixed
    same_image: int  # replaced by a row about the same image (the overlap: the paper has 9,599 of 23K)
    same_source: int  # by a row of another image from the same source
    other_source: int  # by whatever was left


def folder_of(row: Conversation) -> str:
    """A row's source where nothing better is known: the name of its image's folder, "" without an image."""
    return Path(row.images[0]).parent.name if row.images else ""


def asked(row: Conversation) -> tuple[str, str]:
    """What tells rows apart whose ids are equal, as LLaVA's are for one image: id and first question."""
    first = row.turns[0].text if row.turns else ""
    return row.id, "".join(first.split(IMAGE_TOKEN)).strip()


def places_of(base: Sequence[Conversation], wanted: Sequence[Conversation]) -> list[int]:
    """Where `wanted` rows stand in `base`, told by id and first question.

    `UsageError` if one of them is not there.
    """
    keys = {asked(row) for row in wanted}
    found, seen = [], set()
    for i, row in enumerate(base):
        if (key := asked(row)) in keys:
            found.append(i)
            seen.add(key)
    if absent := keys - seen:
        name, question = min(absent)
        what = f"{len(absent)} of {len(keys)} rows to be replaced are not in the base, first {name!r}"
        raise UsageError(f"{what} ({question[:40]!r})", todo="give the file that the base was made with")
    return found


def substitute(
    base: Sequence[Conversation],
    places: Collection[int],
    replacements: Sequence[Conversation],
    *,
    seed: int,
    source: Callable[[Conversation], str] = folder_of,
) -> Substitution:
    """Replace the rows of `base` at `places`; no replacement is used twice, rows are not held in memory.

    `UsageError` if there are fewer replacements than rows to replace.
    """
    if len(replacements) < len(places):
        todo = "make more captions or replace fewer rows"
        raise UsageError(f"{len(replacements)} replacements for {len(places)} rows", todo=todo)
    old = {place: base[place] for place in sorted(places)}
    sources = [(row.images, source(row)) for row in old.values()]
    images_wanted = {images for images, _ in sources if images}
    # Images are kept where they are wanted, sources once each: few words, however many rows there are.
    new = [
        (row.images if row.images in images_wanted else (), sys.intern(source(row))) for row in replacements
    ]
    order = list(range(len(new)))
    random.Random(seed).shuffle(order)
    left = dict.fromkeys(order)  # an ordered set
    chosen: dict[int, int] = {}

    def take(key: Callable[[tuple[tuple[str, ...], str]], object]) -> int:
        """Give each place that has none the next unused replacement of equal key; returns how many."""
        waiting: dict[object, list[int]] = defaultdict(list)
        for number in reversed(left):
            waiting[key(new[number])].append(number)
        before = len(chosen)
        for place, what in zip(old, sources, strict=True):
            if place not in chosen and key(what) != () and waiting[key(what)]:
                chosen[place] = waiting[key(what)].pop()
                del left[chosen[place]]
        return len(chosen) - before

    counts = [take(lambda x: x[0]), take(lambda x: x[1]), take(lambda _: None)]
    which, rows = np.zeros(len(base), dtype=np.uint16), np.arange(len(base))
    which[list(chosen)] = 1
    rows[list(chosen)] = list(chosen.values())
    return Substitution(Mixed([base, replacements], which, rows), *counts)
