"""Token ids and masks are those of LLaVA's published rules, wherever those rules give labels at all.

They hide a whole row, and say so only on the screen, when they lose count: after an empty turn, with `</s>`
or " ASSISTANT: " in a text. They also keep one image of several in a turn. A row here has exact labels and
all its images then, or one error names it (an empty answer, a special token in a text).

They were made for Llama's tokenizer with its legacy space, one after each special token, and are compared on
it. Without that space they need a correction that depends on the vocabulary; what is right then is what plain
transformers makes of the whole text (test_tokenise.py).
"""

import random
from collections import Counter

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sharecap.chat.templates import CHATML, PLAIN, VICUNA_V0, VICUNA_V1
from sharecap.chat.tokenise import Cutter, Document
from sharecap.errors import SharecapError
from sharecap.records import Conversation, Turn
from tests.chat import published
from tests.chat.llama import llama
from tests.model.tiny import byte_level

PLACES = 5
WORDS = [
    *("What", "is", "the", "red", "circle", "3", "12,5", "it's", "(left)", '"so"', "**bold**", "x", "a_b"),
    *(
        "café",
        "naïve",
        "日本語の",
        "文字",
        "Привет",
        "سلام",
        "🙂",
        "👩‍🚀",
        "e\u0301",
        "ß",
        "\u200b",
        "…",
        "½",
    ),
    *("###", "USER:", "ASSISTANT", "<s", "/s>", "<image", "{text}", "{{ x }}", "\\n", "</p>", "[INST]"),
]
BETWEEN = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\t", " \n ", ", ", ". ", ""]


def words(rng: random.Random, most: int) -> str:
    """A text with odd spaces inside and, at times, around it."""
    text = "".join(rng.choice(WORDS) + rng.choice(BETWEEN) for _ in range(rng.randint(1, most)))
    around = rng.choice(["{}"] * 6 + [" {}", "{} ", "\n{}", "{}\n", "   {}  "])
    return around.format(text.strip() or "x")


def row(number: int, rng: random.Random) -> Conversation:
    """One to four rounds about no image, one, or two (in two turns)."""
    rounds = rng.randint(1, 4)
    shown = sorted(rng.sample(range(rounds), min(rounds, rng.choice([0, 1, 1, 2]))))
    turns = []
    for i in range(rounds):
        asked = words(rng, 12)
        if i in shown:
            where = rng.choice(
                ["<image>\n{}", "{}\n<image>", "<image>{}", "{} <image>", " <image> \n {} ", "<image>"]
            )
            asked = where.replace("{}", asked)
        turns += [Turn("user", asked), Turn("assistant", words(rng, 30))]
    return Conversation(f"made {number}", tuple(f"{i}.png" for i in shown), tuple(turns))


NASTY: list[tuple[list[str], str, str]] = [
    # the turns, what the published rules do, and the error here ("": every answer is learned)
    (["Q", ""], "hide", "empty answer"),
    (["Q", "A", "Q", "", "Q", "A"], "pass over", "empty answer"),
    (["Q", "It ends with </s> always."], "hide", "an answer holds the special token </s>"),
    (["Q", "<s>struck out</s>"], "hide", "an answer holds the special token <s>"),
    (["What is </s>?", "A", "Q", "A"], "hide", "a question holds the special token </s>"),
    (["<image>\n</s>", "A"], "hide", "a question holds the special token </s>"),
    (["", "A"], "hide", ""),
    (["Q", "A", "", "Still here."], "hide", ""),
    (["Say ASSISTANT: twice", "A"], "hide", ""),
    (["Q", "He wrote USER: hi ASSISTANT: ho", "Q", "A"], "hide", ""),
    (["<image>\n<image>\nWhich is red?", "The second."], "lose an image", ""),
    (["In <image> and <image>, what moved?", "A"], "lose an image", ""),
]


def spoken(document: Document, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The learned tokens as text, one string per unbroken run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], document.learned, [0]])))
    return [tokenizer.decode(document.ids[a:b]) for a, b in edges.reshape(-1, 2)]


def same(conversation: Conversation, theirs: published.Labelled, cutter: Cutter) -> None:
    (ours,) = cutter.documents([conversation])
    theirs = theirs.expanded(cutter.image_id, PLACES)
    assert ours.ids.tolist() == theirs.ids.tolist(), conversation
    assert ours.learned.tolist() == theirs.learned.tolist(), conversation
    assert ours.learned.any()


def test_vicuna_v1_equals_the_published_rules() -> None:
    tokenizer, rng, images = llama(), random.Random(4), Counter[int]()
    cutter = Cutter(tokenizer, VICUNA_V1, PLACES)
    for number in range(200 - len(NASTY)):
        conversation = row(number, rng)
        same(conversation, published.vicuna_v1(conversation, tokenizer), cutter)
        images[len(conversation.images)] += 1
    assert min(images[n] for n in (0, 1, 2)) > 20


@pytest.mark.parametrize(("texts", "theirs_do", "error"), NASTY)
def test_where_the_published_rules_lose_count_labels_are_exact_or_an_error_names_the_row(
    texts: list[str], theirs_do: str, error: str
) -> None:
    tokenizer = llama()
    turns = tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    images = ("i.png",) * "".join(texts).count("<image>")
    conversation = Conversation("odd", images, turns)
    theirs = published.vicuna_v1(conversation, tokenizer)
    lost = len(images) - theirs.ids.tolist().count(published.IMAGE)
    assert theirs_do == ("lose an image" if lost else "pass over" if theirs.learned.any() else "hide")
    cutter = Cutter(tokenizer, VICUNA_V1, PLACES)
    if error:
        with pytest.raises(SharecapError, match=f"{error}: row odd"):
            cutter.documents([conversation])
        return
    (ours,) = cutter.documents([conversation])
    assert [text.removeprefix(" ") for text in spoken(ours, tokenizer)] == [
        text + "</s>" for text in texts[1::2]
    ]
    assert ours.ids.tolist().count(cutter.image_id) == PLACES * len(images)


def test_plain_equals_the_published_rules() -> None:
    tokenizer, rng = llama(), random.Random(6)
    cutter = Cutter(tokenizer, PLAIN, PLACES)
    for number in range(50):
        turns = (Turn("user", f"{words(rng, 5)}\n<image>"), Turn("assistant", words(rng, 40)))
        conversation = Conversation(f"caption {number}", ("i.png",), turns)
        same(conversation, published.plain(conversation, tokenizer), cutter)


def test_vicuna_v0_equals_the_published_rules_but_for_words_that_the_template_always_gives() -> None:
    """They also train the model to say "### Assistant:", and "###" before anything was said."""
    tokenizer, rng = llama(), random.Random(7)
    cutter = Cutter(tokenizer, VICUNA_V0, PLACES)
    for number in range(50):
        conversation = row(number, rng)
        theirs = published.vicuna_v0(conversation, tokenizer).expanded(cutter.image_id, PLACES)
        (ours,) = cutter.documents([conversation])
        assert [*ours.ids.tolist(), tokenizer.convert_tokens_to_ids("▁")] == theirs.ids.tolist()
        more = theirs.learned[:-1] & ~ours.learned
        assert not (ours.learned & ~theirs.learned[:-1]).any()
        rounds = len(conversation.turns) // 2
        assert tokenizer.decode(ours.ids[more]) == "###" + "### Assistant:" * rounds
        assert len(cutter.ending) == 3  # the end of the line, ## and #


def test_chatml_equals_the_published_rules() -> None:
    tokenizer, rng = byte_level(), random.Random(8)  # they are for tokenizers without a start token
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<|im_start|>", "<|im_end|>"]})
    cutter = Cutter(tokenizer, CHATML, PLACES)
    for number in range(50):
        conversation = row(number, rng)
        same(conversation, published.chatml(conversation, tokenizer), cutter)
