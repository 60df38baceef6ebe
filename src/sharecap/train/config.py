"""What a training run is: every choice that changes the result, in one frozen record."""

from dataclasses import dataclass
from typing import Literal

from sharecap.errors import UsageError
from sharecap.model.trainable import Rule


@dataclass(frozen=True)
class TrainConfig:
    """One stage (align, pretrain or SFT): which parts learn from rows written in which template, for how long."""

    template: str  # "plain" or "vicuna_v1": how rows become text
    rules: tuple[Rule, ...]  # which parts learn, at which peak rate
    batch_rows: int  # rows of one optimiser step
    steps: int | None = None  # optimiser steps; exactly one of steps and epochs
    epochs: float | None = None  # passes over the rows; the last step is filled up from the next pass
    pack_tokens: int = 4096  # places of one pack; bounds memory, changes no result but by rounding
    warmup_ratio: float = 0.03  # share of the steps in which the rate rises; then a cosine down to 0
    weight_decay: float = 0.0  # AdamW's, on all that learns
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    clip: float = 1.0  # largest norm of a step's whole gradient
    precision: Literal["fp32", "bf16"] = "fp32"  # of the computation; weights keep theirs
    too_long: Literal["refuse", "drop"] = (
        "refuse"  # rows that fill more than a pack; dropped ones are counted
    )
    seed: int = 0  # of the order of rows
    checkpoint_every: int = 200  # steps; what a kill can cost
    keep_template: bool = False  # save the model with the template that it came with, not with this stage's

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UsageError("give either steps or epochs", where="training config")
        for name in ("batch_rows", "pack_tokens", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1", where="training config")
        if (self.steps is not None and self.steps < 1) or (self.epochs is not None and self.epochs <= 0):
            raise UsageError("there must be at least one step", where="training config")

    def steps_for(self, rows: int) -> int:
        """Optimiser steps over `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, -int(-rows * self.epochs // self.batch_rows))
