"""A recipe for trying out: the paper's three stages in a hundred steps, on rows and models of one's own.

The default models are small enough for a laptop; `--set parts.vision=` and `parts.language=` name others.
"""

from sharecap.model.build import Parts
from sharecap.model.trainable import Rule
from sharecap.recipes.recipe import Recipe, Source, Stage
from sharecap.train.config import TrainConfig

CAPTIONS, INSTRUCTIONS = Source("captions.json"), Source("instructions.json")


def tiny() -> Recipe:
    """Align, pre-train with half of a tower of 12 blocks, tune; 100 steps in all, of 8 rows each."""
    pretrain = (Rule("vision", 2e-5, from_block=6), Rule("projector", 2e-4), Rule("language", 2e-4))
    return Recipe(
        "tiny",
        Parts(vision="openai/clip-vit-base-patch32", language="HuggingFaceTB/SmolLM2-135M"),
        (
            Stage("align", few_steps("plain", (Rule("projector", 1e-3),), 20), (CAPTIONS,)),
            Stage("pretrain", few_steps("plain", pretrain, 40), (CAPTIONS,), start="align"),
            Stage("sft", few_steps("vicuna_v1", pretrain[1:], 40), (INSTRUCTIONS,), start="pretrain"),
        ),
    )


def few_steps(template: str, rules: tuple[Rule, ...], steps: int) -> TrainConfig:
    """A short stage."""
    return TrainConfig(
        template=template, rules=rules, batch_rows=8, steps=steps, pack_tokens=2048, checkpoint_every=20
    )
