"""What a training run is: every choice that changes the result, in one frozen record."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from sharecap.data.plan import row_steps, token_steps
from sharecap.errors import UsageError
from sharecap.model.attention import Attention
from sharecap.model.blocks import Checkpointing
from sharecap.model.trainable import Rule

Bad = Literal[
    "malformed",
    "wrong_role",
    "no_image",
    "no_place",
    "empty_answer",
    "no_answer",
    "uncuttable",
    "missing",
    "unreadable",
    "not_a_file",
    "empty",
]
"""What can be wrong with a row, as far as it is seen before training (data/check.py)."""

HOW = {
    *("pack_tokens", "pack_images", "workers", "device", "parallel", "attention", "checkpointing", "compile"),
    *("liger", "checkpoint_every", "keep_last", "spike", "log_to"),
}
"""Fields of the configuration that change a result by rounding at most: a run may go on with others."""


Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """One stage (align, pretrain or SFT): what learns, from rows written in which template, for how long."""

    template: str  # how rows become text, such as "vicuna_v1"; the saved model is talked to in it
    rules: tuple[Rule, ...]  # which parts learn, at which peak rate
    batch_rows: int | None = None  # rows of one optimiser step; exactly one of batch_rows and batch_tokens
    batch_tokens: int | None = None  # tokens of one step, pictures' places among them; on average
    steps: int | None = None  # optimiser steps; exactly one of steps and epochs
    epochs: float | None = None  # passes over the rows; the last step is filled up from the next pass
    pack_tokens: int = 4096  # places of one pack; bounds memory, changes the result only by rounding
    pack_images: int | None = None  # pictures of one pack, likewise; None: no bound
    grouped: bool = (
        False  # the authors' way: a step's rows all with or all without images, padded, not packed
    )
    warmup_ratio: float = 0.03  # share of the steps in which the rate rises; then a cosine down to 0
    weight_decay: float = 0.0  # AdamW's, on all that learns
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    clip: float = 1.0  # largest norm of a step's whole gradient
    precision: Precision = "fp32"  # of the computation; what learns is held in fp32 always
    attention: Attention = "sdpa"  # kernel of the language model; "flex" and "varlen" need a GPU
    checkpointing: Checkpointing = "none"  # "selective" and "full" save memory and cost time
    compile: bool = False  # blocks and loss through torch.compile: a minute's start, then faster
    liger: bool = False  # Liger's kernels in the language model, where there are a GPU and its package
    centre_crop: bool = False  # the middle square of each picture; else as the model has it: ours pad
    too_long: Literal["refuse", "drop", "cut"] = "refuse"  # rows that don't fit a pack; all are counted
    leave_out: tuple[Bad, ...] = ()  # kinds of other bad rows that are left out and counted; all else stops
    seed: int = 0  # of the order of rows
    workers: int = 0  # processes that prepare rows, for each rank; 0: a thread, best on few cores
    device: str = "auto"  # "cpu", "cuda"; auto: a GPU where there is one
    checkpoint_every: int = 200  # steps; what a kill can cost
    keep_last: int = 1  # checkpoints that stay until the run ends, beside the best one
    eval_rows: int = 0  # rows that are never learned and give the held-out loss; 0: none, and no best one
    eval_every: int = 200  # steps between two looks at what is held out
    patience: int | None = None  # stop after so many such looks without a better one; None: never
    spike: float | None = None  # stop at a loss above this many times the last ones' median; None: never
    parallel: Literal["fsdp", "ddp"] = "fsdp"  # of several processes: weights in shards, or whole in each
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()  # beside the lines in metrics.jsonl

    def __post_init__(self) -> None:
        where = "training configuration"
        for one, other in (("steps", "epochs"), ("batch_rows", "batch_tokens")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise UsageError(f"give either {one} or {other}", where=where)
        if not 0 < (self.steps or self.epochs or 0) < math.inf:
            raise UsageError("there must be at least one step", where=where)
        if self.grouped and self.batch_rows is None:
            raise UsageError("grouped batches are counted in rows", where=where, todo="give batch_rows")
        for name in (
            "batch_rows",
            "batch_tokens",
            "pack_tokens",
            "pack_images",
            "checkpoint_every",
            "keep_last",
            "eval_every",
            "patience",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1", where=where)
        for name in ("eval_rows", "workers", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0", where=where)
        # Written so that nan, which is neither above nor below anything, is refused.
        for sound, what in (
            (self.spike is None or self.spike > 1, "spike must be above 1, such as 3"),
            (0 <= self.warmup_ratio <= 1, "warmup_ratio must be 0 to 1"),
            (self.clip > 0, "clip must be above 0 (inf: no clipping)"),
            (0 <= self.weight_decay < math.inf, "weight_decay must be a number of at least 0"),
            (all(0 <= beta < 1 for beta in self.betas), "betas must be at least 0 and below 1"),
        ):
            if not sound:
                raise UsageError(what, where=where)

    def steps_for(self, rows: int, tokens: float) -> int:
        """Optimiser steps over `rows` rows that have so many tokens together."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        if self.batch_rows is not None:
            return row_steps(rows, self.batch_rows, self.epochs, self.grouped)
        assert self.batch_tokens is not None
        return token_steps(tokens, self.batch_tokens, self.epochs)

    def share_of_step(self, rows: int, tokens: float) -> float:
        """What share of a pass over the rows one step takes."""
        if self.batch_rows is not None:
            return self.batch_rows / rows
        assert self.batch_tokens is not None
        return self.batch_tokens / tokens

    def decides(self) -> dict[str, Any]:
        """What decides the result beside rows and start: what a run's key and its checkpoints hang on.

        Later fields count where they are given: what was trained before they existed is still known.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in HOW}
        later = {"batch_tokens": None, "centre_crop": False}
        return {k: v for k, v in found.items() if k not in later or v != later[k]}
