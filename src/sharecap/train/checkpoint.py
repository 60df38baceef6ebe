"""The state that a killed run goes on from, bit for bit: what has learned, optimiser, step, randomness.

A checkpoint is written beside its place and renamed into it, so a half-written one is never found. It must
never run code when it is loaded, nor be taken up by another run than the one that wrote it.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from sharecap.errors import SharecapError

PREFIX, FILE = "step-", "state.pt"


def save(directory: Path, run: str, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Keep the state after `step` steps as the newest and remove older ones. `run` says whose it is."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"{PREFIX}{step:08d}"
    partial = directory / f"{final.name}.partial"
    for path in (partial, final):
        if path.exists():
            shutil.rmtree(path)
    partial.mkdir()
    state = {
        "run": run,
        "step": step,
        "learned": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "buffers": dict(model.named_buffers()),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    with open(partial / FILE, "wb") as f:
        try:
            torch.save(state, f)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides a full disk behind words of its own
                raise error.__context__ from None
            raise
        f.flush()
        os.fsync(f.fileno())
    os.rename(partial, final)
    for old in finished(directory)[:-1]:
        shutil.rmtree(old)


def finished(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in directory.glob(f"{PREFIX}*") if p.suffix != ".partial")


def restore(directory: Path, run: str, model: nn.Module, optimizer: Optimizer) -> int:
    """Put the newest state back; returns how many steps were done (0: there is none).

    `SharecapError` if it is damaged or was written by a run with another configuration or other rows.
    """
    found = finished(directory)
    if not found:
        return 0
    todo = "remove it to train from the start"
    try:
        state = torch.load(found[-1] / FILE, weights_only=True, map_location="cpu")
        other = state["run"] != run
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes the unpickler raise
        raise SharecapError(
            f"damaged checkpoint ({type(error).__name__})", where=found[-1], todo=todo
        ) from None
    if other:
        raise SharecapError("checkpoint of another run", where=found[-1], todo=todo)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    with torch.no_grad():
        for name, value in state["learned"].items():
            parameters[name].copy_(value)
        for name, value in state["buffers"].items():
            buffers[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return int(state["step"])
