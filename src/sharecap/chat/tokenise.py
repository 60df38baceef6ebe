"""Conversation -> token ids and which of them are to be learned, exact by construction.

Every piece is cut on its own and carries its own label; an answer that doesn't decode back to the assistant's
words raises. It must never mask a row silently, and never find answers by searching in tokenised text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sharecap.chat.templates import Exchange, Template, exchanges
from sharecap.errors import SharecapError
from sharecap.records import IMAGE_TOKEN, Conversation

if TYPE_CHECKING:  # planning from lengths must not wait for transformers to load
    from transformers import PreTrainedTokenizerBase

BATCH = 4096
"""Pieces that are cut in one call: the tokenizer's threads are kept busy, memory stays small."""


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation as tokens. An image is `image_tokens` times the id of `<image>`."""

    id: str
    ids: NDArray[np.int32]  # [T]
    learned: NDArray[np.bool_]  # [T], True where the token is the assistant's or ends its answer
    images: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Cutter:
    """Cuts conversations for one tokenizer and one template.

    `image_tokens` is the number of places that one image takes in the language model.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Template, image_tokens: int) -> None:
        self.tokenizer, self.template, self.image_tokens = tokenizer, template, image_tokens
        self.image_id = single_id(tokenizer, IMAGE_TOKEN)
        self.start = [tokenizer.bos_token_id] if starts_with_bos(tokenizer) else []
        if template.stop is None and tokenizer.eos_token is None:
            raise SharecapError("the tokenizer has no end-of-sequence token", where=tokenizer.name_or_path)
        stop = [tokenizer.eos_token_id] if template.stop is None else self.after("a", [template.stop])[0]
        if len(stop) != 1:
            what = f"the tokenizer has no single token for {template.name}'s stop {template.stop!r}"
            raise SharecapError(what, where=tokenizer.name_or_path, todo="use another template")
        self.stop = int(stop[0])
        self.joint = self.cut([template.joint])[0] if template.joint else []
        self.special = {int(i) for i in tokenizer.all_special_ids} | {self.image_id}

    def cut(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, nothing added at its borders."""
        if not texts:
            return []
        return list(
            self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        )

    def after(self, joint: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as they continue `joint`: the space before a word belongs to the word."""
        head = self.cut([joint])[0] if joint else []
        found = self.cut([joint + text for text in texts])
        for ids, text in zip(found, texts, strict=True):
            if ids[: len(head)] != head:
                what = f"the tokenizer joins {joint!r} with what follows it ({text[:20]!r})"
                raise SharecapError(what, where=self.tokenizer.name_or_path, todo="use another template")
        return [ids[len(head) :] for ids in found]

    def documents(self, conversations: Iterable[Conversation]) -> list[Document]:
        """Each conversation as tokens; `SharecapError` names the first row that can't be cut exactly."""
        made: list[Document] = []
        waiting: list[tuple[Conversation, list[Exchange]]] = []
        for conversation in conversations:
            waiting.append((conversation, exchanges(self.template, conversation)))
            if len(waiting) == BATCH:
                made += self.batch(waiting)
                waiting = []
        return made + self.batch(waiting)

    def batch(self, rows: Sequence[tuple[Conversation, list[Exchange]]]) -> list[Document]:
        opening = list({pieces[0].given for _, pieces in rows})
        later = list({piece.given for _, pieces in rows for piece in pieces[1:]})
        said = list({piece.said for _, pieces in rows for piece in pieces if piece.said is not None})
        first = dict(zip(opening, self.cut(opening), strict=True))
        # A later turn follows the stop, a special token, and is cut as the whole text would be.
        stop = self.tokenizer.eos_token if self.template.stop is None else ""
        next_ = dict(zip(later, self.after(str(stop), later), strict=True))
        answers = dict(zip(said, self.after(self.template.joint, said), strict=True))
        self.check(answers)
        return [self.assemble(row, pieces, first, next_, answers) for row, pieces in rows]

    def check(self, answers: dict[str, list[int]]) -> None:
        """Raise unless each answer's ids decode to its text, to the letter, and hold no special token."""
        if not answers:
            return
        decoded = self.tokenizer.batch_decode(
            [self.joint + ids for ids in answers.values()],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        for (text, ids), back in zip(answers.items(), decoded, strict=True):
            if back != self.template.joint + text:
                what = f"the tokenizer does not give an answer's words back: {text[:60]!r}"
                todo = "clean the text or use a tokenizer that keeps every character"
                raise SharecapError(what, where=self.tokenizer.name_or_path, todo=todo)
            if not self.special.isdisjoint(ids):
                raise SharecapError(f"an answer holds a special token: {text[:60]!r}", todo="clean the text")

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
        for i, piece in enumerate(pieces):
            for token in (first if i == 0 else later)[piece.given]:
                if token == self.image_id:
                    ids += [token] * self.image_tokens
                elif token in self.special:
                    name = self.tokenizer.convert_ids_to_tokens(token)
                    raise SharecapError(f"a question holds the special token {name}", where=f"row {row.id}")
                else:
                    ids.append(token)
            learned += [False] * (len(ids) - len(learned))
            if piece.said is not None:
                ids += [*answers[piece.said], self.stop]
                learned += [True] * (len(ids) - len(learned))
        return Document(row.id, np.array(ids, dtype=np.int32), np.array(learned), row.images)


def single_id(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    """Id of a token that must be one; `SharecapError` if the tokenizer splits it."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise SharecapError(
            f"{token} is not one token", where=tokenizer.name_or_path, todo="add it as special token"
        )
    return int(ids[0])


def starts_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer itself puts its start token before a text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id
