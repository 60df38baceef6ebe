"""Rows with more tokens than there is room for, cut where no label becomes a lie. Pure.

A row is cut after its last whole answer that fits; if none fits, within its first answer, whose stop is then
not learned. It must never cut an image, nor leave a row without an answer; a document says where it was cut.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from sharecap.chat.tokenise import Cutter, Document
from sharecap.records import Conversation


@dataclass(frozen=True)
class Shortening:
    """A cutter whose documents are cut to `room` tokens where an answer is left of them."""

    cutter: Cutter
    room: int

    def documents(self, conversations: Iterable[Conversation]) -> list[Document]:
        """Each conversation as tokens; one of which nothing would be left is as long as it is."""
        return [shortened(document, self.room) for document in self.cutter.documents(conversations)]


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
