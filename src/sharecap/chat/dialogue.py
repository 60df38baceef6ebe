"""A row as questions and answers, checked, its images where LLaVA puts them: what every template writes.

A row that can't be learned from exactly (roles out of order, an empty answer, an image without its mark)
raises with its name. It must never repair a row by dropping words.
"""

import re
from dataclasses import dataclass

from sharecap.errors import SharecapError
from sharecap.records import IMAGE_TOKEN, Conversation, Turn

LEADING = re.compile(rf"\s*(?:{re.escape(IMAGE_TOKEN)}\s*)+")
"""The images at the front of a text, with the white space around them."""


@dataclass(frozen=True, slots=True)
class Round:
    """A question and its answer, in the row's own words."""

    asked: str  # with `<image>` once per image
    answer: str | None  # None: not yet known, it is to be generated

    @property
    def images(self) -> int:
        """Images that the question shows."""
        return self.asked.count(IMAGE_TOKEN)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A checked row. Only the last answer may be None."""

    row: str  # its id, for errors
    system: str | None  # the row's own system prompt, if it has one
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One round as a template writes it: what is given, and what is to be said (None: not yet known)."""

    given: str  # from the start, or from the previous answer's stop, to where the answer begins
    said: str | None  # without the stop
    images: int  # places of images in `given`


def dialogue_of(conversation: Conversation) -> Dialogue:
    """The row's rounds. A first turn of role "system" is its system prompt.

    `SharecapError` names the row when turns do not alternate, an answer is empty, or `<image>` does not occur
    once per image, in users' turns.
    """
    where = f"row {conversation.id}"
    turns = images_first(conversation).turns
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if marks != len(conversation.images):
        raise SharecapError(
            f"{marks} {IMAGE_TOKEN} in the text for {len(conversation.images)} images", where=where
        )
    system = turns[0].text if turns and turns[0].role == "system" else None
    spoken = turns[1:] if system is not None else turns
    if not spoken or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(spoken)):
        raise SharecapError("turns must alternate, a user's first", where=where)
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip():
            raise SharecapError("empty answer", where=where)
        if turn.role != "user" and IMAGE_TOKEN in turn.text:
            name = "an answer" if turn.role == "assistant" else "a system prompt"
            raise SharecapError(f"{IMAGE_TOKEN} in {name}", where=where)
    asked = [turn.text for turn in spoken[::2]]
    answers: list[str | None] = [turn.text for turn in spoken[1::2]]
    if len(answers) < len(asked):
        answers.append(None)
    return Dialogue(conversation.id, system, tuple(map(Round, asked, answers)))


def images_first(conversation: Conversation) -> Conversation:
    """The row with each user turn's image before its words (`in_front`)."""
    turns = (
        Turn(turn.role, in_front(turn.text)) if turn.role == "user" else turn for turn in conversation.turns
    )
    return Conversation(conversation.id, conversation.images, tuple(turns))


def in_front(text: str) -> str:
    """A user's text with its image on a line of its own before the words: "<image>\\nQuestion".

    LLaVA's files have the image before or after the question, and its training moves it. Of several images
    only those that stand in front are put on that line; the others stay where the words speak of them.
    """
    marks = text.count(IMAGE_TOKEN)
    if marks == 1:
        words = text.replace(IMAGE_TOKEN, "").strip()
        return f"{IMAGE_TOKEN}\n{words}".strip()
    leading = LEADING.match(text)
    if leading is None:
        return text
    first = IMAGE_TOKEN * leading[0].count(IMAGE_TOKEN)
    return f"{first}\n{text[leading.end() :].strip()}".strip()
