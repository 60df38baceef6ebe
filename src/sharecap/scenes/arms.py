"""What the arms are: the paper's three stages at the size of the embedded world, and each arm's rows.

All arms have the same start, pictures, steps and instruction rows. The arm without captions spends its
caption steps on the instruction rows, with the same parts trained: a control for training longer.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from sharecap.data.rows import read_rows
from sharecap.data.substitution import substitute
from sharecap.model.trainable import Rule
from sharecap.recipes import paper
from sharecap.records import Conversation
from sharecap.scenes.parts import TowerSpec
from sharecap.scenes.rows import blind_rows, question_rows
from sharecap.train.config import TrainConfig

if TYPE_CHECKING:
    from sharecap.scenes.quickstart import ArmSpec, Story

BLOCKS = TowerSpec().blocks
LATTER_HALF = 0.5
"""Share of the tower's blocks that learns beside the rest."""

BETAS = (0.9, 0.98)
"""AdamW's; the usual 0.999 looks back over more steps than there are here."""


def stages(spec: "ArmSpec", arm: str, seed: int) -> dict[str, TrainConfig]:
    """The paper's three stages, in order, at this size."""
    small = {
        "batch_rows": spec.batch_rows,
        "epochs": None,
        "precision": "fp32",
        "centre_crop": False,  # scenes are square
        "seed": seed,
        "betas": BETAS,
    }
    captions = {"template": "vicuna_v1"} if arm == "none" else {}
    return {
        "align": replace(
            paper.align(),
            rules=(Rule("projector", spec.align_rate),),
            steps=spec.align_steps,
            **small,  # type: ignore[arg-type]
            **captions,  # type: ignore[arg-type]
        ),
        "pretrain": replace(
            paper.pretrain(),
            rules=all_parts(spec, LATTER_HALF),
            steps=spec.pretrain_steps,
            **small,  # type: ignore[arg-type]
            **captions,  # type: ignore[arg-type]
        ),
        "sft": replace(
            paper.sft(),
            rules=talking_parts(spec),
            steps=spec.sft_steps,
            **small,  # type: ignore[arg-type]
        ),
    }


def captioner(spec: "ArmSpec", looking: int, answering: int, seed: int) -> tuple[TrainConfig, TrainConfig]:
    """The captioner learns to look in the bare template, then to answer its one instruction."""
    look = TrainConfig(
        template="plain",
        rules=all_parts(spec, LATTER_HALF),
        batch_rows=spec.batch_rows,
        steps=looking,
        betas=BETAS,
        seed=seed,
    )
    return look, replace(
        look, template="vicuna_v1", rules=talking_parts(spec), steps=answering, seed=seed + 1
    )


def all_parts(spec: "ArmSpec", tower: float) -> tuple[Rule, ...]:
    """Projector, language model and that share of the tower's blocks, from the last on.

    The projector is slow here: one that learns as fast as the language model amplifies what is learned first
    (the colours) and drowns the rest (the shapes), which is then never learned.
    """
    first = round((1 - tower) * BLOCKS)
    # Features are taken before the last block, so that one alone is as good as none: it never learns.
    vision = (Rule("vision", spec.vision_rate, from_block=first),) if first < BLOCKS - 1 else ()
    return (*vision, Rule("projector", spec.vision_rate), Rule("language", spec.rate))


def talking_parts(spec: "ArmSpec") -> tuple[Rule, ...]:
    """Projector and language model, as in the paper's instruction tuning."""
    return (Rule("projector", spec.vision_rate), Rule("language", spec.sft_rate))


def instruction_rows(story: "Story", *, teacher: bool, details: int) -> list[Conversation]:
    """The rows of instruction tuning; so many ask for details, which only the `teacher` can see."""
    spec, world = story.spec, story.root / "world"
    questions = question_rows(
        world / "large", story.truths("large")[: spec.question_rows], spec.world, spec.turns
    )
    blind = blind_rows(world / "first", story.truths("first")[:details], spec.world)
    rows = [*questions, *blind]
    if not teacher:
        return rows
    better = read_rows(story.root / "first" / "teacher.json")
    return list(substitute(rows, range(len(questions), len(rows)), better, seed=spec.seed).rows)
