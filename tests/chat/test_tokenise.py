"""Labels are the assistant's words, to the letter, whatever the tokenizer and the template."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sharecap.chat.dialogue import images_first
from sharecap.chat.templates import CHATML, PLAIN, VICUNA_V1, Template, question, template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.errors import SharecapError, UsageError
from sharecap.records import Conversation, Turn
from tests.model.tiny import byte_level, sentencepiece

KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": byte_level,
    "bytes with a start token": lambda: byte_level(bos=True),
    "pieces": sentencepiece,
    "pieces, not legacy": lambda: sentencepiece(legacy=False),
}
MADE: dict[str, PreTrainedTokenizerFast] = {}


def cutter(kind: str, template: Template, image_tokens: int = 3) -> Cutter:
    if kind not in MADE:
        MADE[kind] = KINDS[kind]()
        MADE[kind].add_special_tokens({"extra_special_tokens": ["<image>"]})
    return Cutter(MADE[kind], template, image_tokens)


def row(*texts: str, images: int = 1) -> Conversation:
    turns = tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    return Conversation("r", ("a.png",) * images, turns)


def spoken(document: Document, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The learned tokens as text, one string per unbroken run."""
    runs: list[list[int]] = [[]]
    for token, learned in zip(document.ids.tolist(), document.learned.tolist(), strict=True):
        if learned:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs if run]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_learns_the_caption_and_its_line_end_and_drops_the_question(kind: str) -> None:
    cut = cutter(kind, PLAIN)
    caption = "There is a red circle, 3 small stars: nothing else."
    (document,) = cut.documents([row("<image>\nDescribe the image.", caption)])
    assert spoken(document, MADE[kind]) == [caption + "\n"]
    given_ = document.ids[~document.learned].tolist()
    assert given_ == cut.start + [cut.image_id] * 3
    assert document.ids[-1] == cut.stop


@pytest.mark.parametrize("kind", KINDS)
def test_vicuna_learns_each_answer_and_its_stop(kind: str) -> None:
    cut = cutter(kind, VICUNA_V1)
    (document,) = cut.documents(
        [row("<image>\nIs there a circle?", "Yes.", "How many squares?", "3, or  more\n")]
    )
    # A prefix-space tokenizer's decoder takes the first space of what it is given.
    assert [text.removeprefix(" ") for text in spoken(document, MADE[kind])] == [
        "Yes.</s>",
        "3, or  more\n</s>",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_the_whole_text_in_one_piece(kind: str) -> None:
    cut = cutter(kind, VICUNA_V1)
    (document,) = cut.documents(
        [row("<image>\nIs there a circle?", "Yes.", "How many squares?", "There are 3.")]
    )
    text = (
        VICUNA_V1.system + "USER: " + "<image>" * 3 + "\nIs there a circle? ASSISTANT: Yes.</s>"
        "USER: How many squares? ASSISTANT: There are 3.</s>"
    )
    assert document.ids.tolist() == MADE[kind](text)["input_ids"]


@pytest.mark.parametrize("template", [PLAIN, VICUNA_V1], ids=lambda t: t.name)
@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1).filter(str.strip))
def test_any_text_comes_back_from_its_labels(template: Template, text: str) -> None:
    cut = cutter("bytes", template)
    try:
        text.encode()
        (document,) = cut.documents([row("<image>", text)])
    except UnicodeEncodeError:
        return  # half a character can't be in a file
    stop = "\n" if template is PLAIN else "</s>"
    assert spoken(document, MADE["bytes"]) == [template.answer.replace("{text}", text) + stop]


def test_words_that_the_tokenizer_cannot_give_back_raise() -> None:
    with pytest.raises(SharecapError, match=r"does not give an answer's words back: 'half.*full'"):
        cutter("pieces", PLAIN).documents([row("<image>", "half▁full")])


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (("<image>\nQ", "stop</s>here"), "an answer holds the special token </s>: row r"),
        (("<image>\nQ</s>", "A"), "a question holds the special token </s>: row r"),
        (("<image>\nQ", "  \n"), "empty answer: row r"),
        (("Q", "A"), "0 <image> in the text for 1 images: row r"),
        (("<image><image>", "A"), "2 <image> in the text for 1 images: row r"),
        (("Q", "an <image>"), "<image> in an answer: row r"),
        ((), "0 <image>"),
    ],
)
def test_rows_that_cannot_be_exact_are_refused_by_name(texts: tuple[str, ...], why: str) -> None:
    with pytest.raises(SharecapError, match=why):
        cutter("bytes", VICUNA_V1).documents([row(*texts)])


def test_turns_must_alternate_and_plain_takes_one_caption() -> None:
    twice = Conversation("r", (), (Turn("user", "Q"), Turn("user", "Q")))
    with pytest.raises(SharecapError, match="turns must alternate, a user's first: row r"):
        cutter("bytes", VICUNA_V1).documents([twice])
    with pytest.raises(SharecapError, match=r"template plain takes one caption a row: row r\. use vicuna_v1"):
        cutter("bytes", PLAIN).documents([row("<image>", "A", "Q", "A")])


@pytest.mark.parametrize(
    "text", ["<image>\nWhat is it?", "What is it?\n<image>", "What is <image>it?", "What is it?<image>"]
)
def test_the_image_comes_first_wherever_the_file_has_it(text: str) -> None:
    assert images_first(row(text, "A")).turns[0].text == "<image>\nWhat is it?"


def test_a_query_ends_where_the_answer_begins() -> None:
    cut = cutter("bytes", VICUNA_V1)
    (prompt,) = cut.documents([question(["a.png", "b.png"], "Which is red?")])
    assert not prompt.learned.any()
    text = MADE["bytes"].decode(prompt.ids)
    assert text == VICUNA_V1.system + "USER: " + "<image>" * 6 + "\nWhich is red? ASSISTANT:"


def test_many_rows_are_cut_as_each_alone_would_be() -> None:
    cut = cutter("pieces", VICUNA_V1)
    rows = [
        row("<image>\nQ", "A red circle."),
        row("Is there a star?", "No.", images=0),
        row("<image>\nQ", "No."),
    ]
    together = cut.documents(rows)
    alone = [cut.documents([r])[0] for r in rows]
    assert [d.ids.tolist() for d in together] == [d.ids.tolist() for d in alone]
    assert [d.images for d in together] == [("a.png",), (), ("a.png",)]


def test_an_unknown_template_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(
        UsageError, match=r"unknown template 'v1'\. choose one of plain, vicuna_v0, vicuna_v1, chatml, own"
    ):
        template_named("v1")


def test_a_tokenizer_without_what_a_template_needs_is_refused() -> None:
    bare = byte_level()
    bare.add_special_tokens({"extra_special_tokens": ["<image>"]})
    bare.eos_token = None
    with pytest.raises(SharecapError, match="no end-of-sequence token"):
        Cutter(bare, VICUNA_V1, 3)
    with pytest.raises(SharecapError, match="<image> is not one token"):
        Cutter(byte_level(), PLAIN, 3)
    with pytest.raises(SharecapError, match=r"<\|im_start\|> is not one token\. add it as special token"):
        Cutter(bare, CHATML, 3)
