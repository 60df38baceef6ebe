"""Equal substitution: some rows of a mixture replaced one for one by rows with other captions.

Implements the paper's SFT experiment (its Figure 2): the detailed captions of the base data give way to
as many new ones, on the same images or at least the same sources where possible. Nothing else may change.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharecap.errors import UsageError
from sharecap.records import Conversation


@dataclass(frozen=True)
class Substitution:
    """The new mixture, in the order of the old one, and how well the replacements matched."""

    rows: tuple[Conversation, ...]
    same_image: int  # replaced by a row about the same image
    same_source: int  # by a row of another image from the same source
    other_source: int  # by whatever was left


def folder_of(row: Conversation) -> str:
    """A row's source where nothing better is known: the name of its image's folder, "" without an image."""
    return Path(row.images[0]).parent.name if row.images else ""


def substitute(
    base: Sequence[Conversation],
    replaced: Collection[str],
    replacements: Sequence[Conversation],
    *,
    seed: int,
    source: Callable[[Conversation], str] = folder_of,
) -> Substitution:
    """Replace the rows of `base` whose ids are in `replaced`; no replacement is used twice.

    `UsageError` if there are fewer replacements than rows to replace, or an id is not in the base.
    """
    wanted = set(replaced)
    places = [i for i, row in enumerate(base) if row.id in wanted]
    if len({base[i].id for i in places}) < len(wanted):
        absent = min(wanted - {row.id for row in base})
        raise UsageError(f"{absent!r} is to be replaced but is no row of the base")
    if len(replacements) < len(places):
        todo = "make more captions or replace fewer rows"
        raise UsageError(f"{len(replacements)} replacements for {len(places)} rows", todo=todo)
    order = list(range(len(replacements)))
    random.Random(seed).shuffle(order)
    left = dict.fromkeys(order)  # an ordered set
    chosen: dict[int, int] = {}

    def take(key: Callable[[Conversation], object]) -> int:
        """Give each place that has none the next unused replacement of equal key; returns how many."""
        waiting: dict[object, list[int]] = defaultdict(list)
        for number in reversed(left):
            waiting[key(replacements[number])].append(number)
        before = len(chosen)
        for place in places:
            if place not in chosen and waiting[key(base[place])]:
                chosen[place] = waiting[key(base[place])].pop()
                del left[chosen[place]]
        return len(chosen) - before

    counts = [take(lambda row: row.images or row.id), take(source), take(lambda _: None)]
    rows = tuple(replacements[chosen[i]] if i in chosen else row for i, row in enumerate(base))
    return Substitution(rows, *counts)
