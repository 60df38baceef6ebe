"""ShareGPT4V-7B and -13B: the paper's models (section 4), and the changes that its ablations make to them.

Align, pre-train with the latter half of the vision tower, tune. The authors start pre-training from
LLaVA-1.5's published projector; here the stage that makes it runs first.
"""

from dataclasses import replace

from sharecap.recipes import paper, published
from sharecap.recipes.llava import PARTS_7B, PARTS_13B
from sharecap.recipes.recipe import Recipe, Stage


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
    rules = tuple(
        replace(r, learning_rate=0.0, from_block=0)
        if block == 24
        else replace(r, from_block=block)
        if r.part == "vision"
        else r
        for r in stage.train.rules
    )
    return recipe.with_stage(replace(stage, train=replace(stage.train, rules=rules)))


def without_sft_captions(recipe: Recipe) -> Recipe:
    """Table 4: LLaVA-1.5's own instruction rows, without ShareGPT4V's captions."""
    return recipe.with_stage(replace(recipe.stage("sft"), rows=(published.LLAVA_MIX_665K,)))


def without_pretraining(recipe: Recipe) -> Recipe:
    """Table 4: instruction tuning straight after alignment."""
    sft = replace(recipe.stage("sft"), start="align")
    return replace(recipe, stages=(recipe.stage("align"), sft))
