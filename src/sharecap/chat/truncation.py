"""Rows with more tokens than there is room for: refused, dropped, or cut where no label becomes a lie. Pure.

A row is cut after its last whole answer that fits; if none fits, within its first answer, whose stop is then
not learned. It must never cut an image, nor keep a row that has no answer left; what it did is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharecap.chat.tokenise import Document
from sharecap.errors import SharecapError

TooLong = Literal["refuse", "drop", "cut"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The rows that fit, in their order, and what became of the others."""

    documents: list[Document]
    dropped: int = 0  # rows that are gone
    cut_after_an_answer: int = 0  # rows that lost later turns
    cut_within_an_answer: int = 0  # rows that lost the end of their one answer, and its stop
    tokens_lost: int = 0  # learned tokens, of all of these rows

    def __str__(self) -> str:
        """What was done, in one line; "" if nothing was."""
        done = {
            "dropped": self.dropped,
            "cut after an answer": self.cut_after_an_answer,
            "cut within an answer": self.cut_within_an_answer,
        }
        told = ", ".join(f"{count} {what}" for what, count in done.items() if count)
        return f"rows too long: {told}; {self.tokens_lost} learned tokens lost" if told else ""


def fit(documents: Sequence[Document], room: int, too_long: TooLong) -> Fitted:
    """The documents with at most `room` tokens; `SharecapError` names the longest if they are refused."""
    long = [document for document in documents if len(document) > room]
    if long and too_long == "refuse":
        worst = max(long, key=len)
        what = f"{len(long)} of {len(documents)} rows have more than {room} tokens, the longest {len(worst)}"
        todo = (
            "raise pack_tokens (up to what the model can take), "
            "or shorten or drop such rows with too_long='cut' or too_long='drop'"
        )
        raise SharecapError(what, where=f"row {worst.id}", todo=todo)
    kept: list[Document] = []
    after = within = lost = 0
    for document in documents:
        short = (
            document if len(document) <= room else shortened(document, room) if too_long == "cut" else None
        )
        lost += int(document.learned.sum()) - (0 if short is None else int(short.learned.sum()))
        if short is None:
            continue
        kept.append(short)
        if short is not document:
            whole = not document.learned[len(short)]  # an answer that goes on was cut within
            after, within = after + whole, within + (not whole)
    return Fitted(kept, len(documents) - len(kept), after, within, lost)


def shortened(document: Document, room: int) -> Document | None:
    """The document cut to at most `room` tokens; None if no answer would be left of it."""
    assert len(document.image_starts) == len(document.images), (
        "places of images are needed to keep them whole"
    )
    learned = document.learned
    ends = (
        np.flatnonzero(learned & ~np.append(learned[1:], False)) + 1
    )  # where each answer, stop included, ends
    begins = int(learned.argmax()) if len(ends) else len(learned)
    fitting = ends[ends <= room]
    if len(fitting):
        size = int(fitting[-1])
    elif begins < room:
        size = room
    else:
        return None
    starts = tuple(start for start in document.image_starts if start < size)
    return Document(document.id, document.ids[:size], learned[:size], document.images[: len(starts)], starts)
