"""Training, from rows to a finished model folder: data, then step, then effect.

The loss of a step is the mean over all tokens that are learned in it, however its rows were packed. A run that was
killed goes on from its last checkpoint and ends with the same bits. It must never go on with a loss that is no number.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharecap.artifact import STATE, plain, write_atomically
from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.loading import PackTensors, Step, steps
from sharecap.errors import SharecapError
from sharecap.model import folder, trainable
from sharecap.model.build import Llava
from sharecap.model.forward import layout, packed_forward, packing
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
    """Train and save to `directory`/model; returns the run's metrics.

    Finds in `directory`/state what a killed run with the same arguments left, and goes on from there; with another
    configuration or other rows, give another directory. A model given in memory is changed.
    `SharecapError` for rows that can't be tokenised, are too long, or a loss that is no number.
    """
    clock = time.monotonic()
    llava = folder.load(start) if isinstance(start, Path) else start
    model = llava.model
    documents, dropped = prepare(config, llava, rows)
    total = config.steps_for(len(documents))
    learns = trainable.resolve(model, config.rules)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / TABLE, json.dumps(plain(learns), indent=1))
    groups = trainable.apply(model, learns)
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "peak": rate, "lr": rate} for rate, parameters in groups],
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    done = checkpoint.restore(directory / STATE, model, optimizer)
    seen = cut_metrics(directory / METRICS, done)
    pixels = Pixels(llava.processor.image_processor)
    stream = steps(
        documents,
        pixels,
        batch_rows=config.batch_rows,
        pack_tokens=config.pack_tokens,
        seed=config.seed,
        first=done,
        last=total,
    )
    model.train()
    with open(directory / METRICS, "a", encoding="utf-8") as log, packing(model):
        waiting = time.monotonic()
        for step in stream:
            begun = time.monotonic()
            scale = rate_scale(step.number, total, config.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            loss = learn(model, step, config.precision)
            if step.number == 0:
                check_gradients(model)
            norm = float(nn.utils.clip_grad_norm_([p for _, ps in groups for p in ps], config.clip))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                todo = "lower the learning rate; the last checkpoint is kept"
                raise SharecapError(
                    f"step {step.number + 1}: loss {loss}, gradient {norm}", where=directory, todo=todo
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            now = time.monotonic()
            line = {
                "step": step.number + 1,
                "loss": loss,
                "gradient_norm": norm,
                "rates": {rate: rate * scale for rate, _ in groups},
                "tokens": step.tokens,
                "learned_tokens": step.learned,
                "tokens_per_s": step.tokens / (now - waiting),
                "data_wait_s": begun - waiting,
                "seconds": now - waiting,
            }
            log.write(json.dumps(line) + "\n")
            seen.append(line)
            if progress is not None:
                progress(line, total)
            if (step.number + 1) % config.checkpoint_every == 0 and step.number + 1 < total:
                log.flush()
                checkpoint.save(directory / STATE, step.number + 1, model, optimizer)
            waiting = time.monotonic()
    model.eval()
    template = llava.template if config.keep_template else config.template
    folder.save(Llava(model, llava.processor, template), directory / MODEL)
    return summary(seen, dropped, learns, time.monotonic() - clock)


def learn(model: Any, step: Step, precision: str) -> float:
    """Gradients of one step's loss, pack by pack; returns the loss, the mean over the step's learned tokens."""
    device = model.device
    total = torch.zeros((), device=device)
    for pack in step.packs:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = pack_logits(model, pack, device)
        loss = cross_entropy(logits.float(), pack.targets.to(device), reduction="sum") / step.learned
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(total)


def pack_logits(model: Any, pack: PackTensors, device: torch.device) -> Tensor:
    """Logits [S, V] of a pack's learned positions."""
    pixels = None if pack.pixels is None else pack.pixels.to(device)
    return packed_forward(
        model, pack.ids.to(device), layout(pack.lengths, device), pixels, pack.predict.to(device)
    )


def prepare(config: TrainConfig, llava: Llava, rows: Sequence[Conversation]) -> tuple[list[Document], int]:
    """All rows as tokens, and how many were dropped for their length."""
    cutter = Cutter(llava.processor.tokenizer, template_named(config.template), llava.image_tokens)
    documents = cutter.documents(rows)
    room = min(config.pack_tokens, llava.model.config.text_config.max_position_embeddings)
    fitting = [d for d in documents if len(d) <= room]
    dropped = len(documents) - len(fitting)
    if dropped and config.too_long == "refuse":
        worst = max(documents, key=len)
        todo = "raise pack_tokens, or drop such rows with too_long='drop'"
        what = f"{dropped} of {len(documents)} rows have more than {room} tokens, the longest {len(worst)}"
        raise SharecapError(what, where=f"row {worst.id}", todo=todo)
    if not fitting:
        raise SharecapError("no rows to train on", todo="check the rows' file")
    return fitting, dropped


def rate_scale(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on the peak rate at step 0, 1, ...: linear rise, then a cosine to 0 (as in LLaVA's training)."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def check_gradients(model: nn.Module) -> None:
    """Stop unless all that is said to learn does (a frozen-by-accident part would show nowhere else)."""
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if without:
        raise SharecapError(f"{len(without)} trainable parameters get no gradient", where=without[0])


def cut_metrics(path: Path, done: int) -> list[dict[str, Any]]:
    """Remove lines of steps that will be done again; returns those that stay."""
    if not path.exists():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the line that the kill cut off
            break
        if line["step"] > done:
            break
        kept.append(line)
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def summary(
    lines: Sequence[dict[str, Any]], dropped: int, learns: trainable.Trainable, seconds: float
) -> dict[str, Any]:
    """The run in a few numbers; `final_loss` is the mean of the last tenth of the steps."""
    tail = [line["loss"] for line in lines[-max(1, len(lines) // 10) :]]
    working = sum(line["seconds"] for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    return {
        "steps": len(lines),
        "final_loss": sum(tail) / len(tail),
        "tokens": tokens,
        "learned_tokens": sum(line["learned_tokens"] for line in lines),
        "tokens_per_s": tokens / working,
        "data_wait_s": sum(line["data_wait_s"] for line in lines),
        "step_seconds": working,
        "seconds": seconds,
        "dropped_rows": dropped,
        "parameters": {f"{x.part} {x.blocks}".strip(): x.parameters for x in learns.table},
    }
