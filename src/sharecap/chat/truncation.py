"""Rows with more tokens than there is room for: refused, dropped, or cut where no label becomes a lie. Pure.

A row is cut after its last whole answer that fits; if none fits, within its first answer, whose stop is then
not learned. It must never cut an image, nor keep a row that has no answer left; what it did is counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sharecap.chat.tokenise import Document
from sharecap.errors import SharecapError

TooLong = Literal["refuse", "drop", "cut"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The rows that fit, in their order, and what became of the others."""

    documents: list[Document]
    counts: Mapping[str, int]  # "dropped" and the kinds of `Document.cut` -> rows
    learned_tokens_lost: int  # in all of these rows

    def __str__(self) -> str:
        """What was done, in one line; "" if nothing was."""
        told = ", ".join(f"{rows:,} {what.replace('_', ' ')}" for what, rows in self.counts.items())
        return f"rows too long: {told}; {self.learned_tokens_lost:,} tokens to learn lost" if told else ""


def fit(documents: Sequence[Document], room: int, too_long: TooLong) -> Fitted:
    """The documents with at most `room` tokens; `SharecapError` names the longest if they are refused."""
    long = [document for document in documents if len(document) > room]
    if long and too_long == "refuse":
        worst = max(long, key=len)
        what = f"{len(long)} of {len(documents)} rows have more than {room} tokens, the longest {len(worst)}"
        todo = (
            "raise pack_tokens (up to what the model can take), "
            "or drop or cut such rows with too_long='drop' or too_long='cut'"
        )
        raise SharecapError(what, where=f"row {worst.id}", todo=todo)
    kept: list[Document] = []
    counts: Counter[str] = Counter()
    for document in documents:
        short = shortened(document, room) if too_long == "cut" else document
        if len(short) > room:
            counts["dropped"] += 1
        else:
            kept.append(short)
            counts[short.cut] += bool(short.cut)
    lost = sum(int(d.learned.sum()) for d in documents) - sum(int(d.learned.sum()) for d in kept)
    return Fitted(kept, +counts, lost)


def shortened(document: Document, room: int) -> Document:
    """The document cut to at most `room` tokens, or as it is if no answer would be left of it."""
    assert len(document.image_starts) == len(document.images), "an image is kept whole: where does it start?"
    learned = document.learned
    if len(document) <= room or not learned[:room].any():
        return document
    ends = np.flatnonzero(learned & ~np.append(learned[1:], False)) + 1  # of each answer, its stop included
    whole = ends[ends <= room]
    size = int(whole[-1]) if len(whole) else room
    starts = tuple(start for start in document.image_starts if start < size)
    return replace(
        document,
        ids=document.ids[:size],
        learned=learned[:size],
        images=document.images[: len(starts)],
        image_starts=starts,
        cut="after_an_answer" if len(whole) else "within_an_answer",
    )
