"""The state that a killed run goes on from, bit for bit: what has learned, the optimiser, the step, the random state.

A checkpoint is written beside its place and renamed into it, so a half-written one is never found.
Loading reads tensors only: a checkpoint from elsewhere can't run code.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from sharecap.errors import SharecapError

PREFIX = "step-"
FILE = "state.pt"


def save(directory: Path, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Keep the state after `step` steps as the newest, and remove the older ones."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"{PREFIX}{step:08d}"
    partial = directory / f"{final.name}.partial"
    for path in (partial, final):
        if path.exists():
            shutil.rmtree(path)
    partial.mkdir()
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    state = {
        "step": step,
        "learned": learned,
        "buffers": {name: b for name, b in model.named_buffers()},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    with open(partial / FILE, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(partial, final)
    for old in finished(directory)[:-1]:
        shutil.rmtree(old)


def finished(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in directory.glob(f"{PREFIX}*") if p.suffix != ".partial")


def restore(directory: Path, model: nn.Module, optimizer: Optimizer) -> int:
    """Put the newest state back; returns how many steps were done (0: there is none)."""
    found = finished(directory)
    if not found:
        return 0
    try:
        state = torch.load(found[-1] / FILE, weights_only=True, map_location="cpu")
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        with torch.no_grad():
            for name, value in state["learned"].items():
                parameters[name].copy_(value)
            for name, value in state["buffers"].items():
                buffers[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        todo = "remove it: training then goes on from the start"
        raise SharecapError(
            f"damaged checkpoint ({type(error).__name__})", where=found[-1], todo=todo
        ) from None
