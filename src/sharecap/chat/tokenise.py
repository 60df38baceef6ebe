"""Conversation -> token ids and which of them are to be learned, exact by construction.

Every piece is cut on its own and carries its own label; an answer that doesn't decode back to the assistant's
words raises. It must never mask a row silently, and never find answers by searching in tokenised text.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sharecap.chat.dialogue import Exchange
from sharecap.chat.own import control_tokens
from sharecap.chat.templates import AnyTemplate, exchanges
from sharecap.errors import SharecapError
from sharecap.records import IMAGE_TOKEN, Conversation

if TYPE_CHECKING:  # planning from lengths must not wait for transformers to load
    from transformers import PreTrainedTokenizerBase

BATCH = 4096
"""Pieces that are cut in one call: the tokenizer's threads are kept busy, memory stays small."""


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation as tokens. An image is the image token's id, once for each of its places."""

    id: str
    ids: NDArray[np.int32]  # [T]
    learned: NDArray[np.bool_]  # [T], True where the token is the assistant's or ends its answer
    images: tuple[str, ...]
    image_starts: tuple[int, ...] = ()  # first place of each image in `ids`

    def __len__(self) -> int:
        return len(self.ids)


class Cutter:
    """Cuts conversations for one tokenizer and one template.

    `image_tokens` is the number of places that an image takes in the language model: one number for all, or a
    function of the image's name in `Conversation.images`. `ending` are the tokens that end an answer (one,
    but for vicuna_v0), `stop` the last of them.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: AnyTemplate,
        image_tokens: int | Callable[[str], int],
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.image_tokens = image_tokens if callable(image_tokens) else lambda _: image_tokens
        self.image_id = single_id(tokenizer, template.image)
        for mark in template.marks:
            single_id(tokenizer, mark)
        self.start = [tokenizer.bos_token_id] if template.starts and starts_with_bos(tokenizer) else []
        if template.stop is None and tokenizer.eos_token is None:
            raise SharecapError("the tokenizer has no end-of-sequence token", where=named(tokenizer))
        self.stop_text = str(tokenizer.eos_token) if template.stop is None else template.stop
        self.ending = tuple(self.after("a", [self.stop_text])[0])
        self.stop = self.ending[-1]
        self.joint = self.cut([template.joint])[0] if template.joint else []
        self.reserved = re.compile("|".join(map(re.escape, control_tokens(tokenizer))) or "(?!)")

    def check_model(self, embeddings: int, image_id: int) -> None:
        """Raise unless the tokenizer fits a model with that many embeddings and images at `image_id`."""
        highest = max(self.tokenizer.get_vocab().values())
        if highest >= embeddings:
            what = f"the tokenizer's ids go up to {highest}, the model has {embeddings} embeddings"
            todo = "use the model's own tokenizer, or resize its embeddings"
            raise SharecapError(what, where=named(self.tokenizer), todo=todo)
        if image_id != self.image_id:
            what = f"{self.template.image} is token {self.image_id}, the model expects images at {image_id}"
            raise SharecapError(what, where=named(self.tokenizer), todo="use the model's own tokenizer")

    def cut(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, nothing added at its borders."""
        if not texts:
            return []
        return list(
            self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        )

    def decode(self, ids: list[list[int]]) -> list[str]:
        """The text of each, to the letter."""
        return list(
            self.tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def after(self, joint: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as they go on from `joint`: the space before a word belongs to the word.

        Generation begins after `joint`, so no token may reach across. Where the tokenizer would make one (two
        line ends, say), the text is cut alone; `SharecapError` if that is not the same text.
        """
        head = self.cut([joint])[0] if joint else []
        found = [
            ids[len(head) :] if ids[: len(head)] == head else None
            for ids in self.cut([joint + t for t in texts])
        ]
        across = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        alone = dict(zip(across, self.cut(across), strict=True))
        if across:
            before, *back = self.decode([head, *(head + alone[text] for text in across)])
            for text, whole in zip(across, back, strict=True):
                if whole != before + text:
                    what = f"the tokenizer joins {joint!r} with what follows it ({text[:20]!r})"
                    raise SharecapError(what, where=named(self.tokenizer), todo="use another template")
        return [alone[text] if ids is None else ids for text, ids in zip(texts, found, strict=True)]

    def documents(self, conversations: Iterable[Conversation]) -> list[Document]:
        """Each conversation as tokens; `SharecapError` names the first row that can't be cut exactly."""
        made: list[Document] = []
        waiting: list[tuple[Conversation, list[Exchange]]] = []
        for conversation in conversations:
            waiting.append((conversation, exchanges(self.template, conversation)))
            self.check_words(conversation)
            if len(waiting) == BATCH:
                made += self.batch(waiting)
                waiting = []
        return made + self.batch(waiting)

    def check_words(self, conversation: Conversation) -> None:
        """Raise if a turn's words hold what the tokenizer would take for a special token."""
        for turn in conversation.turns:
            found = self.reserved.search(turn.text.replace(IMAGE_TOKEN, " "))
            if found:
                name = {"user": "a question", "assistant": "an answer", "system": "a system prompt"}[
                    turn.role
                ]
                what = f"{name} holds the special token {found[0]}"
                raise SharecapError(what, where=f"row {conversation.id}", todo="clean the text")

    def batch(self, rows: Sequence[tuple[Conversation, list[Exchange]]]) -> list[Document]:
        opening = list({pieces[0].given for _, pieces in rows})
        later = list({piece.given for _, pieces in rows for piece in pieces[1:]})
        said = list({piece.said for _, pieces in rows for piece in pieces if piece.said is not None})
        first = dict(zip(opening, self.cut(opening), strict=True))
        next_ = dict(zip(later, self.after(self.stop_text, later), strict=True))
        answers = dict(zip(said, self.after(self.template.joint, said), strict=True))
        self.check(answers)
        return [self.assemble(row, pieces, first, next_, answers) for row, pieces in rows]

    def check(self, answers: dict[str, list[int]]) -> None:
        """Raise unless each answer's ids decode to its text, to the letter."""
        before, *decoded = self.decode([self.joint, *(self.joint + ids for ids in answers.values())])
        for text, back in zip(answers, decoded, strict=True):
            if back != before + text:
                what = f"the tokenizer does not give an answer's words back: {text[:60]!r}"
                todo = "clean the text or use a tokenizer that keeps every character"
                raise SharecapError(what, where=named(self.tokenizer), todo=todo)

    def assemble(
        self,
        row: Conversation,
        pieces: Sequence[Exchange],
        first: dict[str, list[int]],
        later: dict[str, list[int]],
        answers: dict[str, list[int]],
    ) -> Document:
        ids: list[int] = list(self.start)
        learned: list[bool] = [False] * len(ids)
        starts: list[int] = []
        for i, piece in enumerate(pieces):
            given = (first if i == 0 else later)[piece.given]
            if given.count(self.image_id) != piece.images:
                found = given.count(self.image_id)
                what = f"{found} {self.template.image} among the tokens of {piece.images} images"
                raise SharecapError(what, where=f"row {row.id}", todo="use another template")
            if self.tokenizer.unk_token_id in given:
                what = "the tokenizer lacks a character of a question"
                raise SharecapError(what, where=f"row {row.id}", todo="clean the text")
            for token in given:
                if token == self.image_id:
                    places = self.image_tokens(row.images[len(starts)])
                    starts.append(len(ids))
                    ids += [token] * places
                else:
                    ids.append(token)
            learned += [False] * (len(ids) - len(learned))
            if piece.said is not None:
                ids += [*answers[piece.said], *self.ending]
                learned += [True] * (len(ids) - len(learned))
        return Document(row.id, np.array(ids, dtype=np.int32), np.array(learned), row.images, tuple(starts))


def single_id(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    """Id of a token that must be one; `SharecapError` if the tokenizer splits it."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise SharecapError(
            f"{token} is not one token", where=named(tokenizer), todo="add it as special token"
        )
    return int(ids[0])


def starts_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer itself puts its start token before a text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def named(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Where the tokenizer came from, for errors."""
    return tokenizer.name_or_path or None
