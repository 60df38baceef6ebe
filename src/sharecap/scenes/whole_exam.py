"""The paper's whole table over scenes: eleven axes in ten benchmarks' official files (paper, Table 3).

MME is two axes, perception and cognition. Of cognition the scenes know one subtask: a number in the picture
is reckoned with. The evaluation reads these files as it reads the real ones.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sharecap.scenes.benchmark_files import Question, YesNoPair, write_mmbench, write_mme, write_vqav2
from sharecap.scenes.choice_files import in_chinese, write_qbench, write_scienceqa, write_seed
from sharecap.scenes.language import NUMBERS, TOPICS, describe
from sharecap.scenes.open_files import (
    UNANSWERABLE,
    WildQuestion,
    write_llava_bench,
    write_mm_vet,
    write_vizwiz,
)
from sharecap.scenes.questions import ask, options, yes_no
from sharecap.scenes.world import Scene, Truth, WorldSpec, make_world

UNSEEN = 90_000
"""Index of the first scene that is drawn: no part of the quickstart is taught or asked about these."""

DESCRIBE = "Describe the picture in detail."
WILD_PICTURES = 20
"""Pictures of LLaVA-Bench, with three questions each: sixty, as in the original."""


def draw_exam(directory: Path, spec: WorldSpec, pictures: int) -> Path:
    """Draw unseen scenes into `directory/world`, ask about them in `directory/benchmarks`; returns that."""
    truths = make_world(directory / "world", spec, range(UNSEEN, UNSEEN + pictures))
    write_whole_exam(directory / "world", truths, spec, directory / "benchmarks")
    return directory / "benchmarks"


def write_whole_exam(world: Path, truths: Sequence[Truth], spec: WorldSpec, directory: Path) -> None:
    """Write the ten benchmarks below `directory`, in folders as `sharecap eval --benchmarks` wants them."""
    pairs: list[YesNoPair] = []
    choices: list[Question] = []
    opened: list[Question] = []
    blind: list[Question] = []
    for number, truth in enumerate(truths):
        rng = random.Random(f"whole exam/{spec.seed}/{truth.file}")
        image = world / truth.file
        for place, asked in enumerate(ask(truth.scene, spec, rng)):
            name = f"{number}-{asked.kind}"
            pairs.append(YesNoPair(image, asked.kind, yes_no(asked, True, rng), yes_no(asked, False, rng)))
            if place == 0:
                offered, _ = options(asked, 4, rng)
                choices.append(Question(name, image, asked.kind, asked.text, asked.answer, offered))
            if asked.kind != "existence":
                opened.append(Question(name, image, asked.kind, asked.text, asked.answer))
        pairs.append(_reckoned(image, truth.scene, rng))
        blind.append(_of_a_blind_person(number, image, truth.scene, opened[-1]))
    write_mme(pairs, directory / "mme")
    write_mmbench(choices, directory / "mmbench" / "scenes_dev.tsv")
    write_mmbench([in_chinese(q) for q in choices], directory / "mmbench" / "scenes_dev_cn.tsv")
    write_seed(choices, directory / "seed-bench")
    write_qbench([_yes_or_no(q, number) for number, q in enumerate(choices)], directory / "qbench")
    write_scienceqa(choices, directory / "scienceqa")
    write_vqav2(opened, directory / "vqav2")
    write_vizwiz(blind, directory / "vizwiz")
    contexts = {world / truth.file: _told(truth.scene, spec) for truth in truths}
    write_mm_vet(_graded(opened, contexts), directory / "mm-vet")
    wild = dict(list(contexts.items())[:WILD_PICTURES])
    write_llava_bench(_wild(opened, wild), wild, directory / "llava-bench")


def _told(scene: Scene, spec: WorldSpec) -> str:
    """The whole truth in words."""
    return describe(scene, TOPICS, random.Random(f"told/{spec.seed}"))


def _reckoned(image: Path, scene: Scene, rng: random.Random) -> YesNoPair:
    """MME's numerical calculation: the number of objects and some more."""
    more = rng.randint(1, 2)
    right = len(scene.things) + more
    text = f"Is the number of objects in the picture plus {NUMBERS[more]} equal to {{}}?"
    return YesNoPair(image, "sum", text.format(NUMBERS[right]), text.format(NUMBERS[right - 1]))


def _yes_or_no(question: Question, number: int) -> Question:
    """Every third question of Q-Bench is a yes/no one: of the first option, which may be the right one."""
    if number % 3:
        return question
    offered = question.options[0]
    text = f"{question.text} Is it {offered}?"
    answer = "Yes" if offered == question.answer else "No"
    return replace(question, text=text, answer=answer, options=("Yes", "No"))


def _of_a_blind_person(number: int, image: Path, scene: Scene, asked: Question) -> Question:
    """Every fourth person asks for what can't be seen."""
    if number % 4 or scene.word:
        return replace(asked, id=str(number))
    return Question(str(number), image, "text", "Which word is on the sign?", UNANSWERABLE)


def _graded(opened: Sequence[Question], contexts: dict[Path, str]) -> list[Question]:
    """MM-Vet's: one question of a picture, two of them in one, or the whole of it, in turn."""
    by_image: dict[Path, list[Question]] = {}
    for question in opened:
        by_image.setdefault(question.image, []).append(question)
    found = []
    for number, (image, some) in enumerate(by_image.items()):
        one, two = some[0], some[1]
        if number % 3 == 0:
            found.append(Question("", image, "detail", DESCRIBE, contexts[image]))
        elif number % 3 == 1:
            both = f"{one.text} {two.text}"
            found.append(Question("", image, one.kind, both, f"{one.answer}<AND>{two.answer}"))
        else:
            found.append(one)
    return found


def _wild(opened: Sequence[Question], contexts: dict[Path, str]) -> list[WildQuestion]:
    """LLaVA-Bench's: of each picture a question, the whole of it, and two questions in one."""
    found = []
    for image, context in contexts.items():
        one, two = [q for q in opened if q.image == image][:2]
        both = f"{one.text} {two.text}"
        found.append(WildQuestion(image, "conv", one.text, one.answer))
        found.append(WildQuestion(image, "detail", DESCRIBE, context))
        found.append(WildQuestion(image, "complex", both, f"{one.answer}<AND>{two.answer}"))
    return found
