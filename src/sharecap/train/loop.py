"""Training, from rows to a finished model folder: data, then step, then effect.

A step's loss is the mean over all tokens that are learned in it, however its rows were packed and however
many processes share it. A killed run goes on from its last checkpoint and ends with the same bits. It must
never go on after a loss is no number.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from sharecap.artifact import STATE, plain, write_atomically
from sharecap.data.loading import Step
from sharecap.errors import UsageError
from sharecap.model import folder, liger, trainable
from sharecap.model.attention import check
from sharecap.model.blocks import at_rest, computing
from sharecap.model.build import Llava
from sharecap.model.trainable import Trainable
from sharecap.records import Conversation
from sharecap.train import gradients
from sharecap.train.checkpoint import Checkpoints
from sharecap.train.config import TrainConfig
from sharecap.train.guards import Watch
from sharecap.train.metrics import LOSS, QUALITY, Log, Meter, Progress, looks_in_vain, summary, worth_of
from sharecap.train.objective import Learner, Objective, picture_alone
from sharecap.train.parallel import World, gather, joined, shard
from sharecap.train.rows import batches, digest, held_out, prepare

TABLE, MODEL, BEST = "trainable.json", "model", "best"

Judge = Callable[[Llava], float]
"""What a model is worth, larger is better. It may answer and be looked at, never changed."""


def train(
    config: TrainConfig,
    start: Llava | Path,
    rows: Sequence[Conversation],
    directory: Path,
    progress: Progress | None = None,
    *,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Train and save to `directory`/model; returns the run's metrics. A model given in memory is changed.

    Goes on from what a killed run with the same configuration and rows left in `directory`/state, which
    stays: who calls removes it when all is done, as `artifact.stage` does. Every `eval_every` steps the loss
    on rows that are held out is taken, and the `judge` asked; it has the last word on which model is best. If
    that is another than the last one, `directory`/best is it.
    Under torchrun all processes call this alike, with a directory that they share; the first one writes.
    `SharecapError` for rows that can't be cut exactly or are too long, for pictures that can't be read, for a
    loss that is no number.
    """
    clock = time.monotonic()
    world = joined(config.device)
    llava = folder.load(start) if isinstance(start, Path) else start
    model: Any = llava.model
    check(config.attention, world.device, torch.bfloat16 if config.precision == "bf16" else model.dtype)
    documents = prepare(config, llava, rows, directory, world)
    total = config.steps_for(len(documents.learned), documents.learned.sizes.total)
    learns = trainable.resolve(model, config.rules)
    if world.first:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / TABLE, json.dumps(plain(learns), indent=1))
    dtype = model.dtype
    learner, meter = arranged(config, llava, learns, world)
    learning, optimizer = optimised(config, model, learns)
    kept = Checkpoints(directory / STATE, digest(config, documents), config.keep_last, world)
    done = kept.restore(learning, optimizer)
    trained = Llava(model, llava.processor, config.template)
    look = Look(trained, learner, held_out(config, llava, documents, world), judge)
    model.train()
    with (
        Log(directory, kept.run, done, config.log_to, world.first) as log,
        computing(model, config.attention, config.checkpointing, config.compile, config.liger),
    ):
        watch = Watch(directory, config.spike, learning, [line["loss"] for line in log.lines])
        for step in meter.waiting(batches(config, llava, documents.learned, world, first=done, last=total)):
            number = step.number + 1
            scale = rate_scale(step.number, total, config.warmup_ratio)
            set_rates(optimizer, scale)
            count = meter.count(step, learner.learn(step))
            if step.number == 0 and step.packs:
                gradients.check(model)
            norm, norms = gradients.finish(learning, config.clip, world)
            watch.look(number, count, norm, norms)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            line = meter.line(step, count) | {
                "gradient_norm": norm,
                "gradient_norms": norms,
                "rates": {f"{x.part} {x.blocks}".strip(): x.learning_rate * scale for x in learns.table},
            }
            if number % config.eval_every == 0 or number == total:
                line |= look()
            log.write(line)
            if progress is not None and world.first:
                progress(line, total)
            due = number % config.checkpoint_every == 0 or kept.outdone(worth_of(line))
            if due and number < total:
                log.flush()
                kept.save(number, learning, optimizer, worth_of(line))
            if config.patience is not None and looks_in_vain(log.lines) >= config.patience:
                break
    kept.wait()
    made = summary(log.lines)
    gather(model, world)
    if world.first:
        save(trained, dtype, directory, made.get("best_step", made["steps"]), kept)
    world.wait()
    return made | {
        "seconds": time.monotonic() - clock,
        "dropped_rows": documents.dropped,
        "cut_rows": documents.cut,
        "parameters": {f"{x.part} {x.blocks}".strip(): x.parameters for x in learns.table},
    }


@dataclass(frozen=True)
class Look:
    """A look at what is held out, in the middle of training; leaves the model as it was."""

    model: Llava
    learner: Learner
    rows: Step | None
    judge: Judge | None

    def __post_init__(self) -> None:
        if self.judge is not None and self.learner.world.size > 1:
            raise UsageError("only one process can judge a model", todo="train without torchrun")

    def __call__(self) -> dict[str, float]:
        """What the step's line says of it."""
        found = {} if self.rows is None else {LOSS: self.learner.held_out_loss(self.rows)}
        if self.judge is None:
            return found
        with at_rest(self.model.model):
            found[QUALITY] = self.judge(self.model)
        self.model.model.train()
        return found


def arranged(config: TrainConfig, llava: Llava, learns: Trainable, world: World) -> tuple[Learner, Meter]:
    """Made ready: what learns, in which precision, on which device, in which shards, in this order."""
    model: Any = llava.model
    if config.liger:
        liger.check(world.device)
    trainable.apply(model, learns)
    for parameter in model.parameters():
        if parameter.requires_grad or config.precision == "fp32":
            parameter.data = parameter.data.float()
    meter = Meter(model, world, config.precision)
    objective = Objective(model, world.device, config.precision, config.compile)
    if world.size > 1 and config.parallel == "fsdp":
        shard(objective, world, config.precision)
        return Learner(objective, world, config.seed, spare=picture_alone(llava.config)), meter
    model.to(world.device)
    return Learner(objective, world, config.seed, spare=None), meter


def optimised(
    config: TrainConfig, model: nn.Module, learns: Trainable
) -> tuple[dict[str, nn.Parameter], AdamW]:
    """What learns, by name, those of one rate together; and what changes it."""
    parameters = dict(model.named_parameters())
    rates = dict.fromkeys(learns.rates.values())
    names = {rate: [name for name, own in learns.rates.items() if own == rate] for rate in rates}
    groups = [{"params": [parameters[n] for n in names[rate]], "lr": rate, "peak": rate} for rate in rates]
    optimizer = AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    return {name: parameters[name] for rate in rates for name in names[rate]}, optimizer


def set_rates(optimizer: AdamW, scale: float) -> None:
    """Every group learns at this share of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale


def rate_scale(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on the peak rate at step 0, 1, ...: a linear rise, then a cosine down to 0."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def save(llava: Llava, dtype: torch.dtype, directory: Path, best: int, kept: Checkpoints) -> None:
    """Save the model in the precision that it came in, and that of step `best` if a checkpoint holds it."""
    learning = {name: p for name, p in llava.model.named_parameters() if p.requires_grad}
    last = {name: parameter.data for name, parameter in learning.items()}
    if kept.place(best).exists():
        for parameter in learning.values():
            parameter.data = torch.empty_like(parameter)
        kept.load_weights(best, learning)
        in_precision(llava.model, dtype)
        folder.save(llava, directory / BEST)
    for name, parameter in learning.items():
        parameter.data = last[name]
    in_precision(llava.model, dtype)
    folder.save(llava, directory / MODEL)


def in_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Put all parameters in this precision; buffers keep theirs."""
    model.train(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
