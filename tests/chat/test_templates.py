"""A saved model's chat template writes what we train on, for each template and whatever a row holds."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sharecap.chat.templates import CHATML, PLAIN, TEMPLATES, Template, jinja
from sharecap.chat.tokenise import Cutter
from sharecap.records import IMAGE_TOKEN, Conversation, Turn
from tests.chat.llama import llama
from tests.model.tiny import byte_level

IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def tokenizer_for(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = llama() if kind == "llama" else byte_level()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<|im_start|>", "<|im_end|>"]})
    return tokenizer


USERS: list[tuple[str, Any]] = [  # a user's turn in a row, and the same as a message
    ("Is there a circle?", "Is there a circle?"),
    ("Is it  {red} 'or' \"blue\"\\n?", [text("Is it  {red} 'or' \"blue\"\\n?")]),
    ("<image>\nIs there a circle?", [IMAGE, text("Is there a circle?")]),
    ("Is there a circle?\n<image>", [text("Is there a circle?"), IMAGE]),
    ("<image>", [IMAGE]),
    ("<image>\n<image>\nWhich is red?", [IMAGE, IMAGE, text("Which is red?")]),
    (
        "In <image> and <image>, what moved?",
        [text("In "), IMAGE, text(" and "), IMAGE, text(", what moved?")],
    ),
]


@pytest.mark.parametrize("kind", ["llama", "bytes"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.name)
def test_plain_apply_chat_template_gives_our_ids(template: Template, kind: str) -> None:
    tokenizer = tokenizer_for(kind)
    cutter = Cutter(tokenizer, template, image_tokens=1)
    for system in (None, "Answer in one word."):
        for number, (words, content) in enumerate(USERS):
            turns = [Turn("system", system)] if system else []
            messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
            rounds = [(words, content), USERS[number - 1]]
            for asked, part in rounds[:1] if template is PLAIN else rounds:
                turns += [Turn("user", asked), Turn("assistant", "There is 1, *red*.")]
                messages.append({"role": "user", "content": part})
                messages.append({"role": "assistant", "content": [text("There is 1, *red*.")]})
            images = ("i.png",) * sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
            (document,) = cutter.documents([Conversation("r", images, tuple(turns))])
            whole = tokenizer.apply_chat_template(messages, chat_template=jinja(template), tokenize=False)
            assert document.ids.tolist() == tokenizer(whole)["input_ids"], (whole, turns)
            (prompt,) = cutter.documents([Conversation("q", images, tuple(turns[:-1]))])
            asked = tokenizer.apply_chat_template(
                messages[:-1], chat_template=jinja(template), tokenize=False, add_generation_prompt=True
            )
            assert prompt.ids.tolist() == tokenizer(asked)["input_ids"]


def test_a_rows_own_system_prompt_takes_the_place_of_the_templates() -> None:
    tokenizer = tokenizer_for("bytes")
    turns = (Turn("system", "Answer in one word."), Turn("user", "How many?"), Turn("assistant", "3"))
    (document,) = Cutter(tokenizer, CHATML, 1).documents([Conversation("r", (), turns)])
    assert tokenizer.decode(document.ids) == (
        "<|im_start|>system\nAnswer in one word.<|im_end|>"
        "<|im_start|>user\nHow many?<|im_end|><|im_start|>assistant\n3<|im_end|>"
    )
