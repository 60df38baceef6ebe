"""Training, from rows to a finished model folder: data, then step, then effect.

A step's loss is the mean over all tokens that are learned in it, however its rows were packed. A killed run
goes on from its last checkpoint and ends with the same bits. It must never go on after a loss is no number.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharecap.artifact import STATE, plain, write_atomically
from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.loading import PackTensors, Step, check_files, steps
from sharecap.errors import SharecapError
from sharecap.model import folder, trainable
from sharecap.model.attention import check, layout
from sharecap.model.blocks import computing
from sharecap.model.build import Llava
from sharecap.model.forward import packed_loss
from sharecap.model.pixels import Pixels
from sharecap.records import Conversation
from sharecap.train import checkpoint
from sharecap.train.config import TrainConfig

METRICS, TABLE, MODEL = "metrics.jsonl", "trainable.json", "model"

Progress = Callable[[dict[str, Any], int], None]
"""Called after each step with its line of metrics and the number of steps of the run."""


def train(
    config: TrainConfig,
    start: Llava | Path,
    rows: Sequence[Conversation],
    directory: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and save to `directory`/model; returns the run's metrics. A model given in memory is changed.

    Goes on from what a killed run with the same configuration and rows left in `directory`/state.
    `SharecapError` for rows that can't be cut exactly or are too long, for pictures that can't be read, for a
    loss that is no number.
    """
    clock = time.monotonic()
    llava = folder.load(start) if isinstance(start, Path) else start
    model: Any = llava.model.to(device_of(config))  # type: ignore[arg-type]
    check(config.attention, model.device, torch.bfloat16 if config.precision == "bf16" else model.dtype)
    documents, dropped = prepare(config, llava, rows)
    total = config.steps_for(len(documents))
    learns = trainable.resolve(model, config.rules)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / TABLE, json.dumps(plain(learns), indent=1))
    groups = trainable.apply(model, learns)
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups],
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    run, state = digest(config, documents), directory / STATE
    done = checkpoint.restore(state, run, model, optimizer)
    lines = cut_metrics(directory / METRICS, done)
    stream = steps(
        documents,
        Pixels(llava.processor.image_processor),
        batch_rows=config.batch_rows,
        pack_tokens=config.pack_tokens,
        seed=config.seed,
        first=done,
        last=total,
    )
    model.train()
    how = computing(model, config.attention, config.checkpointing, config.compile)
    with open(directory / METRICS, "a", encoding="utf-8") as log, how:
        asked = time.monotonic()
        for step in stream:
            begun = time.monotonic()
            scale = rate_scale(step.number, total, config.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            loss = learn(model, step, config.precision, config.compile)
            if step.number == 0:
                check_gradients(model)
            norm = float(nn.utils.clip_grad_norm_([p for _, ps in groups for p in ps], config.clip))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"step {step.number + 1}: loss {loss}, gradient {norm}"
                raise SharecapError(what, where=directory, todo="lower the learning rate")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            now = time.monotonic()
            line = {
                "step": step.number + 1,
                "loss": loss,
                "gradient_norm": norm,
                "rates": {f"{x.part} {x.blocks}".strip(): x.learning_rate * scale for x in learns.table},
                "tokens": step.tokens,
                "learned_tokens": step.learned,
                "tokens_per_s": step.tokens / (now - asked),
                "data_wait_s": begun - asked,
                "seconds": now - asked,
            }
            log.write(json.dumps(line) + "\n")
            lines.append(line)
            if progress is not None:
                progress(line, total)
            asked = time.monotonic()
            if (step.number + 1) % config.checkpoint_every == 0 and step.number + 1 < total:
                log.flush()
                checkpoint.save(state, run, step.number + 1, model, optimizer)
    folder.save(Llava(model.eval(), llava.processor, config.template), directory / MODEL)
    if state.exists():
        shutil.rmtree(state)  # three times the size of what learned, of no use any more
    return summary(lines, dropped, learns, time.monotonic() - clock)


def device_of(config: TrainConfig) -> torch.device:
    """Where to compute."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def prepare(config: TrainConfig, llava: Llava, rows: Sequence[Conversation]) -> tuple[list[Document], int]:
    """All rows as tokens, and how many were dropped for their length; what is cheap to check is checked."""
    cutter = Cutter(llava.tokenizer, template_named(config.template), llava.image_tokens)
    documents = cutter.documents(rows)
    for document in documents:
        if not document.learned.any():
            raise SharecapError("no answer to learn from", where=f"row {document.id}", todo="remove the row")
    room = min(config.pack_tokens, llava.config.text_config.max_position_embeddings)
    fitting = [d for d in documents if len(d) <= room]
    dropped = len(documents) - len(fitting)
    if dropped and config.too_long == "refuse":
        worst = max(documents, key=len)
        what = f"{dropped} of {len(documents)} rows have more than {room} tokens, the longest {len(worst)}"
        todo = "raise pack_tokens (up to what the model can take), or drop such rows with too_long='drop'"
        raise SharecapError(what, where=f"row {worst.id}", todo=todo)
    if not fitting:
        raise SharecapError("no rows to train on", todo="check the rows' file")
    check_files(fitting)
    return fitting, dropped


def digest(config: TrainConfig, documents: Sequence[Document]) -> str:
    """What a checkpoint belongs to: the configuration and the rows' tokens and pictures."""
    total = hashlib.sha256(repr(replace(config, checkpoint_every=1)).encode())
    for document in documents:
        total.update(document.ids.tobytes())
        total.update("\0".join(document.images).encode())
    return total.hexdigest()


def rate_scale(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on the peak rate at step 0, 1, ...: a linear rise, then a cosine down to 0."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def learn(model: Any, step: Step, precision: str, compiled: bool = False) -> float:
    """Gradients of one step's loss, pack by pack; returns that loss, the mean over the learned tokens."""
    device = model.device
    total = torch.zeros((), device=device)
    for pack in step.packs:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(model, pack, device, compiled) / step.learned
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(total)


def loss_of(model: Any, pack: PackTensors, device: torch.device, compiled: bool) -> Tensor:
    """Summed loss of a pack's learned positions."""
    pixels = None if pack.pixels is None else pack.pixels.to(device)
    where = layout(pack.lengths, device)
    ids, predict, targets = (x.to(device) for x in (pack.ids, pack.predict, pack.targets))
    return packed_loss(model, ids, where, pixels, predict=predict, targets=targets, compiled=compiled)


def check_gradients(model: nn.Module) -> None:
    """Stop unless all that is said to learn does: a part frozen by accident would show nowhere else."""
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if without:
        raise SharecapError(f"{len(without)} trainable parameters get no gradient", where=without[0])


def cut_metrics(path: Path, done: int) -> list[dict[str, Any]]:
    """Remove the lines of steps that will be done again; returns those that stay."""
    if not path.exists():
        return []
    kept = path.read_text(encoding="utf-8").splitlines()[:done]
    write_atomically(path, "".join(line + "\n" for line in kept))
    return [json.loads(line) for line in kept]


def summary(
    lines: Sequence[dict[str, Any]], dropped: int, learns: trainable.Trainable, seconds: float
) -> dict[str, Any]:
    """The run in a few numbers; `final_loss` is the mean over the last tenth of the steps."""
    tail = [line["loss"] for line in lines[-max(1, len(lines) // 10) :]]
    total = {
        key: sum(line[key] for line in lines)
        for key in ("tokens", "learned_tokens", "data_wait_s", "seconds")
    }
    return {
        "steps": len(lines),
        "final_loss": sum(tail) / len(tail),
        "tokens": total["tokens"],
        "learned_tokens": total["learned_tokens"],
        "tokens_per_s": total["tokens"] / total["seconds"],
        "data_wait_s": total["data_wait_s"],
        "step_seconds": total["seconds"],
        "seconds": seconds,
        "dropped_rows": dropped,
        "parameters": {f"{x.part} {x.blocks}".strip(): x.parameters for x in learns.table},
    }
