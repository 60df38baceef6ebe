"""LLaVA-7B (arXiv 2304.08485) and LLaVA-1.5 (2310.03744): what the paper's models are compared with.

The values are those of the papers and their scripts: AdamW, cosine, 3 % warm-up, no weight decay.
"""

from dataclasses import replace

from sharecap.model.build import Parts
from sharecap.model.trainable import Rule
from sharecap.recipes import paper, published
from sharecap.recipes.recipe import Recipe, Stage

CLIP_224, CLIP_336 = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
VICUNA_7B, VICUNA_13B = "lmsys/vicuna-7b-v1.5", "lmsys/vicuna-13b-v1.5"
PARTS_7B = Parts(CLIP_336, VICUNA_7B, dtype="bfloat16")  # saved so; what learns is held in float32
PARTS_13B = replace(PARTS_7B, language=VICUNA_13B)


def llava_7b() -> Recipe:
    """The first LLaVA: pictures of 224 pixels, one matrix as projector, 158K instruction rows three times.

    Its authors began with a Vicuna that is no longer given away whole; this starts from version 1.3.
    """
    parts = Parts(CLIP_224, "lmsys/vicuna-7b-v1.3", projector="linear", dtype="bfloat16")
    align = replace(paper.align(), rules=(Rule("projector", 2e-3),), batch_rows=128)
    sft = replace(paper.sft(), batch_rows=32, epochs=3)
    return Recipe(
        "llava_7b",
        parts,
        (
            Stage("align", align, (published.LLAVA_CC3M_595K,)),
            Stage("sft", sft, (published.LLAVA_INSTRUCT_158K,), start="align"),
        ),
    )


def llava_1_5_7b() -> Recipe:
    """Pictures of 336 pixels, a projector of two layers, 665K instruction rows."""
    return Recipe(
        "llava_1_5_7b",
        PARTS_7B,
        (
            Stage("align", paper.align(), (published.LLAVA_LCS_558K,)),
            Stage("sft", paper.sft(), (published.LLAVA_MIX_665K,), start="align"),
        ),
    )


def llava_1_5_13b() -> Recipe:
    """The same with Vicuna-13B."""
    return replace(llava_1_5_7b(), name="llava_1_5_13b", parts=PARTS_13B)
