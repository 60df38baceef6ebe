"""ShareGPT4V-7B and -13B: the paper's models (section 4), and the changes that its ablations make to them.

Align, pre-train with the latter half of the vision tower, tune. The authors start pre-training from
LLaVA-1.5's published projector; here the stage that makes it runs first.
"""

from dataclasses import replace

from sharecap.model.trainable import Rule
from sharecap.recipes import paper, published
from sharecap.recipes.llava import PARTS_7B, PARTS_13B
from sharecap.recipes.recipe import Recipe, Stage
from sharecap.train.config import TrainConfig

BLOCKS = 24
"""Of CLIP ViT-L/14."""


def sharegpt4v_7b() -> Recipe:
    """LLaVA-1.5's architecture, 1.2M detailed captions before the instruction rows, 23K of them in these."""
    return Recipe(
        "sharegpt4v_7b",
        PARTS_7B,
        (
            Stage("align", paper.align(), (published.LLAVA_LCS_558K,)),
            Stage("pretrain", paper.pretrain(), (published.SHAREGPT4V_PT,), start="align"),
            Stage("sft", paper.sft(), (published.SHAREGPT4V_MIX_665K,), start="pretrain"),
        ),
    )


def sharegpt4v_13b() -> Recipe:
    """The same with Vicuna-13B (in the authors' repository, not in the paper)."""
    return replace(sharegpt4v_7b(), name="sharegpt4v_13b", parts=PARTS_13B)


def unfrozen_from(recipe: Recipe, block: int) -> Recipe:
    """Table 6: pre-training trains the vision tower from this block on; 24 freezes it."""
    stage = recipe.stage("pretrain")
    return recipe.with_stage(replace(stage, train=tower_from(stage.train, block)))


def tower_from(train: TrainConfig, block: int) -> TrainConfig:
    """The same training with the vision tower learning from this block on; 24 freezes it."""

    def changed(rule: Rule) -> Rule:
        if rule.part != "vision":
            return rule
        return replace(rule, from_block=block) if block < BLOCKS else Rule("vision", 0.0)

    return replace(train, rules=tuple(map(changed, train.rules)))
