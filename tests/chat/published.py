"""LLaVA's published rules, stated again and on purpose in its own way: first the whole text, then its masks.

Nothing here uses sharecap's templates. A rule gives the ids (an image is IMAGE, once) and which of them are
learned; where LLaVA's code would print "tokenization mismatch (ignored)", nothing is learned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sharecap.records import Conversation

IMAGE = -200
V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
V0 = V1.replace("curious user", "curious human").replace("the user's", "the human's")


@dataclass(frozen=True)
class Labelled:
    """A text's tokens and which of them are learned."""

    ids: NDArray[np.int64]
    learned: NDArray[np.bool_]

    def expanded(self, image_id: int, places: int) -> "Labelled":
        """With each image in its `places` places of the language model, as the model sees it."""
        times = np.where(self.ids == IMAGE, places, 1)
        ids = np.where(self.ids == IMAGE, image_id, self.ids)
        return Labelled(np.repeat(ids, times), np.repeat(self.learned, times))


Rule = Callable[[Conversation, PreTrainedTokenizerFast], Labelled]


def turns(row: Conversation) -> list[str]:
    """The turns' texts as training sees them: one image mark at most, in front, whatever the file has."""
    texts = []
    for turn in row.turns:
        words = turn.text
        if "<image>" in words:
            words = ("<image>\n" + words.replace("<image>", "").strip()).strip()
        texts.append(words)
    return texts


def tokens(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What lies between images is tokenised as a text of its own; its start token stays only at the front."""
    ids: list[int] = []
    for number, stretch in enumerate(text.split("<image>")):
        found = tokenizer(stretch)["input_ids"]
        start = [tokenizer.bos_token_id] if found[:1] == [tokenizer.bos_token_id] else []
        ids += ([IMAGE] if number else start) + found[len(start) :]
    return ids


def vicuna_v1(row: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    """`preprocess_v1`: rounds end with </s>, and a round is not learned up to " ASSISTANT: "."""
    text = V1 + " "
    for number, words in enumerate(turns(row)):
        role, end = (("USER", " "), ("ASSISTANT", "</s>"))[number % 2]
        text += f"{role}: {words}{end}" if words else f"{role}:"
    ids = tokens(text, tokenizer)
    learned = np.ones(len(ids), bool)
    at = 1  # the start token; each further round's own one stands for the </s> before it
    learned[0] = False
    for spoken in text.split("</s>"):
        asked = spoken.partition(" ASSISTANT: ")[0]
        if not spoken or spoken.count(" ASSISTANT: ") != 1:
            break
        given = len(tokens(asked + " ASSISTANT: ", tokenizer)) - 2  # the start and the last space
        learned[at : at + given] = False
        at += len(tokens(spoken, tokenizer))
    learned[at:] = False
    if at != len(ids):
        learned[:] = False  # (ignored)
    return Labelled(np.array(ids), learned)


def plain(row: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    """`preprocess_plain`: the image, the caption, the end of the line; all after the image is learned."""
    assert len(row.turns) == 2
    ids = tokens("<image>" + turns(row)[1] + "\n", tokenizer)
    learned = np.ones(len(ids), bool)
    learned[: len(tokens("<image>", tokenizer))] = False
    return Labelled(np.array(ids), learned)


def vicuna_v0(row: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    """`preprocess`: each turn is "### Role: words\\n"; of a human's, all but the first two tokens is hidden.

    Those two are the "###" that ends what was said before (and, the first time, what was not).
    """
    header = V0 + "\n\n"
    said = [f"### {('Human', 'Assistant')[number % 2]}: {words}\n" for number, words in enumerate(turns(row))]
    ids = tokens(header + "".join(said) + "### ", tokenizer)
    learned = np.ones(len(ids), bool)
    at = len(tokens(header, tokenizer))
    learned[:at] = False
    for number, words in enumerate(said):
        size = len(tokens(words, tokenizer))
        if number % 2 == 0:
            learned[at + 2 : at + size] = False
        at += size
    return Labelled(np.array(ids), learned)


def chatml(row: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    """`preprocess_mpt` in the words of chatml_direct: rounds end with <|im_end|>, hidden up to the answer."""
    end, asks, says = "<|im_end|>", "<|im_start|>user\n", "<|im_start|>assistant\n"
    system = "<|im_start|>system\nAnswer the questions." + end
    texts = turns(row)
    rounds = [asks + texts[i] + end + says + texts[i + 1] for i in range(0, len(texts), 2)]
    rounds[0] = system + rounds[0]
    ids = tokens("".join(text + end for text in rounds), tokenizer)
    learned = np.ones(len(ids), bool)
    at = 0
    for text in rounds:
        given = text[: text.index(end + says) + len(end + says)]
        learned[at : at + len(tokens(given, tokenizer))] = False
        at += len(tokens(text, tokenizer)) + len(tokens(end, tokenizer))
    assert at == len(ids)
    return Labelled(np.array(ids), learned)
