"""A cutter that needs no tokenizer: one token a character, an image two. For tests of what is around it."""

from collections.abc import Iterable

import numpy as np

from sharecap.chat.tokenise import Document
from sharecap.errors import SharecapError
from sharecap.records import IMAGE_TOKEN, Conversation, Turn


class Letters:
    """Refuses rows with "!" in an answer."""

    def documents(self, conversations: Iterable[Conversation]) -> list[Document]:
        made = []
        for row in conversations:
            ids: list[int] = [1]
            learned = [False]
            for turn in row.turns:
                if turn.role == "assistant" and "!" in turn.text:
                    raise SharecapError("an answer holds !")
                new = [0] * 2 * turn.text.count(IMAGE_TOKEN) + [
                    ord(c) for c in turn.text.replace(IMAGE_TOKEN, "")
                ]
                ids += new
                learned += [turn.role == "assistant"] * len(new)
            made.append(Document(row.id, np.array(ids, np.int32), np.array(learned), row.images))
        return made


def row(name: str, *images: str, asked: str = "Q", answer: str = "yes") -> Conversation:
    """One question about all images, and its answer."""
    marks = IMAGE_TOKEN * len(images)
    return Conversation(name, images, (Turn("user", marks + asked), Turn("assistant", answer)))
