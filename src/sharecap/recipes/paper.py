"""The three stages of the paper (section 4.2) with the values of the authors' scripts.

Align teaches the projector alone; pre-training trains projector, language model and the latter half of the
vision tower on the captioner's captions; instruction tuning freezes the tower again. The first two see the
middle square of each picture, the last one all of it, padded.
"""

from sharecap.model.trainable import Rule
from sharecap.train.config import TrainConfig

LATTER_HALF = 12
"""First of the 24 blocks of CLIP ViT-L/14 that is trained (Table 6: half of them does best)."""


def align() -> TrainConfig:
    """Stage 0: the projector learns from short captions (LLaVA-1.5's own first stage; 558K rows)."""
    rules = (Rule("projector", 1e-3),)
    return TrainConfig(
        template="plain", rules=rules, batch_rows=256, epochs=1, precision="bf16", centre_crop=True
    )


def pretrain() -> TrainConfig:
    """Stage 1: 1.2M detailed captions; every part learns, the tower from its latter half on."""
    rules = (Rule("vision", 2e-5, from_block=LATTER_HALF), Rule("projector", 2e-5), Rule("language", 2e-5))
    return TrainConfig(
        template="plain", rules=rules, batch_rows=256, epochs=1, precision="bf16", centre_crop=True
    )


def sft() -> TrainConfig:
    """Stage 2: 665K instruction rows; the tower is frozen.

    A few conversations are longer than the model reads: the authors cut them off, here they are left out.
    """
    rules = (Rule("projector", 2e-5), Rule("language", 2e-5))
    return TrainConfig(
        template="vicuna_v1", rules=rules, batch_rows=128, epochs=1, precision="bf16", too_long="drop"
    )
