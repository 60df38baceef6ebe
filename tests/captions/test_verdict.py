"""Verdicts: garbage has a name, and real captions, repetitive ones too, are left alone."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.captioner import Answer
from sharecap.captions.prompts import load_pack
from sharecap.captions.verdict import KINDS, is_loop, verdict, words_of

from .server import LOOP

PROMPT = load_pack("sharegpt4v").default or ""
ANSWERS = Path(__file__).resolve().parents[2] / "examples" / "photographs" / "answers.jsonl"


def judged(text: str, finish: str = "stop", refusal: str = "") -> str | None:
    return verdict(Answer(text, finish, None, refusal), PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",
        "I am very sorry; the picture can't be described.",
        "Sorry, but I am unable to see the image.",
        "I cannot provide a description of this image.",
        "Unfortunately, I can't identify real people.",
        "I'm unable to view images.",
        "As an AI language model, I have no eyes.",
        "The message is empty.",
        "Please provide the image that you want described.",
        "I apologize, but there is no picture.",
    ],
)
def test_a_refusal_is_no_caption(text: str) -> None:
    assert judged(text) == "refusal"


def test_the_providers_own_refusal_field_counts() -> None:
    assert judged("", refusal="no") == "refusal"


@pytest.mark.parametrize("text", ["", "  \n", "...", "—"])
def test_an_answer_without_words_is_empty(text: str) -> None:
    assert judged(text) == "empty"


@pytest.mark.parametrize(
    "text",
    [
        LOOP,
        "The image shows a cat. " * 5,
        "A start. " + "no " * 30,
        "哈" * 150,
        "A wall with " + "!?" * 60,
        "这是一只红色的猫坐在蓝色的沙发上。" * 9,
        "这是一只红色的猫坐在蓝色的沙发上，" * 4,
        "图中有两只小猫和一只狗。" + "天空非常蓝而且没有云！船是红色的。" * 4,
        "赤い猫が青いソファに座っています。" * 4,
        " ".join(f"word{n}" for n in range(42)) + " " + " ".join(f"word{n}" for n in range(42)) * 8,
        "One boat is red, two are blue. Three are green here. " + "The sky is very blue. A boat is red. " * 4,
    ],
)
def test_going_round_in_circles_is_a_loop(text: str) -> None:
    assert judged(text) == "loop"


def test_a_loop_is_a_loop_even_where_the_length_ended_it() -> None:
    assert judged(LOOP, "length") == "loop"


def test_an_answer_cut_at_the_limit_is_truncated() -> None:
    assert judged("A red boat lies at the", "length") == "truncated"


def test_a_withheld_answer_is_the_content_filters() -> None:
    assert judged("A red", "content_filter") == "content_filter"


def test_handing_back_the_prompt_is_an_echo() -> None:
    assert judged(PROMPT) == "prompt_echo"
    assert judged("Sure! " + PROMPT + " A red boat.") == "prompt_echo"
    assert verdict(Answer("Describe this. A boat.", "stop"), "Describe this.") == "prompt_echo"


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here is a detailed description of the image:",
        "Certainly, here's a caption for this picture.",
        "Description:",
        "A boat.<|im_end|><|im_start|>user",
        "A boat on the water. [INST] And now?",
    ],
)
def test_an_announcement_or_a_templates_marks_are_boilerplate(text: str) -> None:
    assert judged(text) == "boilerplate"


@pytest.mark.parametrize(
    "text",
    [
        "A boat. The caption below it reads 'Sure!'.",
        "Here is a detailed description of the image: a red boat lies on calm water.",
        "A small red circle lies at the top left. A small red square lies at the top right. "
        "A small red ring lies at the bottom left. A small red star lies at the bottom right.",
        "There are two red circles. There are two red circles in the corner as well, and one blue ring.",
        "A sign reads 'I'm sorry' in white letters on a red ground.",
        "In this photograph a man says that he cannot help. He holds a large map.",
        "no no no: three words on a wall, painted in black.",
        "Eine Katze sitzt auf der Mauer und schaut in die Sonne.",
        "一只猫坐在墙上晒太阳，旁边有一棵树。",
        "左上角有一个小的红色圆形。右上角有一个小的红色方形。左下角有一个小的红色圆环。右下角有一个小的红色星形。",
        "有一个红色的圆，有一个红色的圆，还有一个红色的圆。背景是白色的，看起来很干净。",
        "画面中有一只狗。画面右边有一只狗。画面左边也有一只狗。三只狗都在草地上奔跑，远处是蓝天白云和一排高大的树。",
        "哈哈哈哈！他笑了。孩子们也笑了：“哈哈哈哈！”墙上写着“出口”两个字，下面写着“入口”两个字。",
        "赤い丸が左上に、赤い四角が右上に、赤い輪が左下に、赤い星が右下にあります。背景は白です。",
    ],
)
def test_a_caption_is_left_alone(text: str) -> None:
    assert judged(text) is None


def test_the_recorded_captions_of_photographs_are_captions() -> None:
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 12
    assert [row["file"] for row in rows if judged(row["answer"]) is not None] == []


@given(st.text(max_size=400), st.sampled_from(["stop", "length", "content_filter", "odd"]))
def test_every_text_gets_a_verdict(text: str, finish: str) -> None:
    assert verdict(Answer(text, finish), PROMPT) in (None, *KINDS)


@given(st.text(max_size=100) | st.text("aÄ.!?_ 1,\n\x1c\u2028", max_size=100))
def test_words_are_those_of_the_plain_search(text: str) -> None:
    assert words_of(text) == re.findall(r"\w+", text.lower())


letters = st.sampled_from("abcdefgh")


@given(
    st.lists(letters, min_size=1, max_size=30), st.lists(letters, max_size=40), st.lists(letters, max_size=40)
)
def test_any_block_that_repeats_long_enough_is_a_loop_wherever(
    block: list[str], before: list[str], after: list[str]
) -> None:
    times = max(3, math.ceil(24 / len(block)))
    assert is_loop(" ".join([*before, *block * times, *after]))
