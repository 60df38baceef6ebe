"""What a training run is: every choice that changes the result, in one frozen record."""

from dataclasses import dataclass
from typing import Literal

from sharecap.errors import UsageError
from sharecap.model.attention import Attention
from sharecap.model.blocks import Checkpointing
from sharecap.model.trainable import Rule


@dataclass(frozen=True)
class TrainConfig:
    """One stage (align, pretrain or SFT): what learns, from rows written in which template, for how long."""

    template: str  # "plain" or "vicuna_v1": how rows become text; the saved model is talked to in it
    rules: tuple[Rule, ...]  # which parts learn, at which peak rate
    batch_rows: int  # rows of one optimiser step
    steps: int | None = None  # optimiser steps; exactly one of steps and epochs
    epochs: float | None = None  # passes over the rows; the last step is filled up from the next pass
    pack_tokens: int = 4096  # places of one pack; bounds memory, changes the result only by rounding
    warmup_ratio: float = 0.03  # share of the steps in which the rate rises; then a cosine down to 0
    weight_decay: float = 0.0  # AdamW's, on all that learns
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    clip: float = 1.0  # largest norm of a step's whole gradient
    precision: Literal["fp32", "bf16"] = "fp32"  # of the computation; weights keep theirs
    attention: Attention = "sdpa"  # kernel of the language model; "flex" and "varlen" need a GPU
    checkpointing: Checkpointing = "none"  # "selective" and "full" save memory and cost time
    compile: bool = False  # blocks and loss through torch.compile: a minute's start, then faster
    too_long: Literal["refuse", "drop"] = "refuse"  # rows that don't fit a pack; dropped ones are counted
    seed: int = 0  # of the order of rows
    device: str = "auto"  # "cpu", "cuda"; auto: a GPU where there is one
    checkpoint_every: int = 200  # steps; what a kill can cost

    def __post_init__(self) -> None:
        where = "training configuration"
        if (self.steps is None) == (self.epochs is None):
            raise UsageError("give either steps or epochs", where=where)
        if (self.steps or self.epochs or 0) <= 0:
            raise UsageError("there must be at least one step", where=where)
        if min(self.batch_rows, self.pack_tokens, self.checkpoint_every) < 1:
            raise UsageError("batch_rows, pack_tokens and checkpoint_every must be at least 1", where=where)

    def steps_for(self, rows: int) -> int:
        """Optimiser steps over `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, -int(-rows * self.epochs // self.batch_rows))
