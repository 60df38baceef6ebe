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
from sharecap.scenes.rows import blind_rows, question_rows
from sharecap.train.config import TrainConfig

if TYPE_CHECKING:
    from sharecap.scenes.quickstart import ArmSpec, Story

LATTER_HALF = 2
"""First of the tower's 4 blocks that is trained; features are taken before block 3."""

BETAS = (0.9, 0.98)
"""AdamW's; the usual 0.999 looks back over more steps than there are here."""


def stages(spec: "ArmSpec", arm: str, seed: int) -> dict[str, TrainConfig]:
    """The paper's three stages, in order, at this size."""
    small = {
        "batch_rows": spec.batch_rows,
        "epochs": None,
        "precision": "fp32",
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
            rules=all_parts(spec),
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
        rules=all_parts(spec),
        batch_rows=spec.batch_rows,
        steps=looking,
        betas=BETAS,
        seed=seed,
    )
    return look, replace(
        look, template="vicuna_v1", rules=talking_parts(spec), steps=answering, seed=seed + 1
    )


def all_parts(spec: "ArmSpec") -> tuple[Rule, ...]:
    """Projector, language model and the latter half of the tower.

    The projector is slow here: one that learns as fast as the language model amplifies what is learned first
    (the colours) and drowns the rest (the shapes), which is then never learned.
    """
    return (
        Rule("vision", spec.vision_rate, from_block=LATTER_HALF),
        Rule("projector", spec.vision_rate),
        Rule("language", spec.rate),
    )


def talking_parts(spec: "ArmSpec") -> tuple[Rule, ...]:
    """Projector and language model, as in the paper's instruction tuning."""
    return (Rule("projector", spec.vision_rate), Rule("language", spec.sft_rate))


def caption_rows(story: "Story", arm: str) -> list[Conversation]:
    """The rows of align and pretrain: the large set's pictures with this arm's captions."""
    if arm == "none":
        return instruction_rows(story, arm)
    return read_rows(story.root / {"short": "short/short.json", "detailed": "large/detailed.json"}[arm])


def instruction_rows(story: "Story", arm: str) -> list[Conversation]:
    """The rows of instruction tuning. The detailed arm's detailed rows are the teacher's, one for one."""
    spec, world = story.spec, story.root / "world"
    questions = question_rows(
        world / "large", story.truths("large")[: spec.question_rows], spec.world, spec.turns
    )
    details = blind_rows(world / "first", story.truths("first")[: spec.detail_rows], spec.world)
    rows = [*questions, *details]
    if arm != "detailed":
        return rows
    teacher = read_rows(story.root / "first" / "teacher.json")
    return list(substitute(rows, range(len(questions), len(rows)), teacher, seed=spec.seed).rows)
