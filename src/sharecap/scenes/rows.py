"""Rows made from scenes: the text that the language model starts from, and the instruction rows of all arms.

Instruction rows are questions about training pictures, in the very forms that the benchmarks ask; a share of
rows asks for details instead, which the paper's substitution experiment replaces (Fig. 2).
"""

import random
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sharecap.captions.prompts import load_pack
from sharecap.records import IMAGE_TOKEN, Conversation, Turn
from sharecap.scenes.language import TOPICS, blind_detail, describe
from sharecap.scenes.questions import ask, turn
from sharecap.scenes.world import Truth, WorldSpec, imagine

FORMS = ("short", "short", "short", "short", "yes_no", "yes_no", "yes_no", "letter")
"""Of the questions in instruction rows: half of them open. Options to choose from are rare, as in the paper's
instruction data; they take more than twice the tokens of any other form."""


@cache
def unified() -> str:
    """The captioner's one instruction, as its prompt pack has it: no source needs its own any more."""
    default = load_pack("unified").default
    assert default is not None
    return default.strip()


def conversation(name: str, images: tuple[str, ...], turns: Iterable[tuple[str, str]]) -> Conversation:
    """A row from (question, answer) pairs; the images stand before the first question."""
    parts: list[Turn] = []
    for question, answer in turns:
        marks = (IMAGE_TOKEN + "\n") * len(images) if not parts else ""
        parts += [Turn("user", marks + question), Turn("assistant", answer)]
    return Conversation(name, images, tuple(parts))


def text_rows(spec: WorldSpec, indices: range, turns: int) -> list[Conversation]:
    """Conversations without any picture: descriptions of scenes, and questions about a description.

    What the language model brings along, as Vicuna does: words, and how to answer from what it reads.
    """
    rows = []
    for index in indices:
        rng = random.Random(f"text/{spec.seed}/{index}")
        scene = imagine(spec, index)
        text = describe(scene, TOPICS, rng)
        if rng.random() < 0.5:
            pairs = [(unified(), text)]
        else:
            asked = list(ask(scene, spec, rng))[:turns]
            pairs = [turn(question, rng.choice(FORMS), rng) for question in asked]
            pairs[0] = (f"{text}\n{pairs[0][0]}", pairs[0][1])
        rows.append(conversation(f"text-{index}", (), pairs))
    return rows


def question_rows(world: Path, truths: Sequence[Truth], spec: WorldSpec, turns: int) -> list[Conversation]:
    """One row a picture, with up to `turns` questions of different kinds."""
    rows = []
    for truth in truths:
        rng = random.Random(f"questions/{spec.seed}/{truth.file}")
        asked = list(ask(truth.scene, spec, rng))[:turns]
        pairs = [turn(question, rng.choice(FORMS), rng) for question in asked]
        rows.append(conversation(truth.file, (str(world / truth.file),), pairs))
    return rows


def blind_rows(world: Path, truths: Sequence[Truth], spec: WorldSpec) -> list[Conversation]:
    """One row a picture that asks for details; the answer was written from the short caption, unseen."""
    rows = []
    for truth in truths:
        rng = random.Random(f"details/{spec.seed}/{truth.file}")
        image = (str(world / truth.file),)
        rows.append(conversation(truth.file, image, [(unified(), blind_detail(truth.short, rng))]))
    return rows
