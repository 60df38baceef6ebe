"""The state that a killed run goes on from, bit for bit: what has learned, the optimiser's memory, the step.

Written by `torch.distributed.checkpoint`, each rank its shards, while training goes on; any number of ranks
reads it. The files are safetensors and JSON; the library's own kind has its table of contents pickled, and
reading a checkpoint must never run code. A directory takes its place when it is whole, so a half-written one
is never found; one of another run is refused.
"""

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError
from sharecap.train.parallel import World

PREFIX, PARTIAL, MARK = "step-", ".partial", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter; its third value, the number of steps, is the run's."""

TODO = "remove it to go on from an older one or from the start"


@dataclass(frozen=True)
class Mark:
    """What a finished checkpoint says of itself."""

    run: str  # digest of all that decides the run's result
    step: int  # steps done
    worth: float | None = None  # of the model after them, larger is better, where it was measured


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best on what is held out."""

    def __init__(self, directory: Path, run: str, keep: int, world: World) -> None:
        self.directory, self.run, self.keep, self.world = directory, run, keep, world
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None
        if world.first:
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.glob(f"{PREFIX}*{PARTIAL}"):
                shutil.rmtree(path)
        world.wait()
        worths = [mark.worth for mark in finished(directory).values()]
        self.most_worth = max((x for x in worths if x is not None), default=-math.inf)

    def outdone(self, worth: float | None) -> bool:
        """Whether a model of this worth is better than all that were kept."""
        return worth is not None and worth > self.most_worth

    def save(
        self,
        step: int,
        learning: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        worth: float | None = None,
    ) -> None:
        """Keep the state after `step` steps. Returns when it is copied; it is written in the background."""
        self.wait()
        staged = DefaultStager(StagingOptions(False, False, False, False)).stage(
            state_of(learning, optimizer)
        )
        self.most_worth = max(self.most_worth, -math.inf if worth is None else worth)
        self.pending = self.writer.submit(self.write, Mark(self.run, step, worth), staged)

    def write(self, mark: Mark, state: Any) -> None:
        """Write the state to a directory of its own; the first rank then puts it in its place."""
        final = self.place(mark.step)
        partial = final.with_name(final.name + PARTIAL)
        with one_error():
            save(
                state,
                storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True),
                process_group=self.world.files,
                no_dist=self.world.size == 1,
            )
        if not self.world.first:
            return
        write_atomically(partial / MARK, json.dumps(asdict(mark)))
        sync(partial)
        os.rename(partial, final)
        sync(self.directory)
        found = finished(self.directory)
        best = best_of(found)
        for path in list(found)[: -self.keep]:
            if path != best:
                shutil.rmtree(path.rename(path.with_name(path.name + PARTIAL)))  # never found half removed

    def wait(self) -> None:
        """Until what was saved is written; raises what went wrong with it."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def restore(self, learning: Mapping[str, nn.Parameter], optimizer: Optimizer) -> int:
        """Put the newest state back; returns how many steps were done (0: there is none).

        `SharecapError` if it is damaged or was written by a run with another configuration or other rows.
        """
        (newest,) = self.world.most(max((mark.step for mark in finished(self.directory).values()), default=0))
        if not newest:
            return 0
        for parameter in learning.values():
            step = torch.tensor(float(newest), device=parameter.device)
            optimizer.state[parameter] = {"step": step, **{k: torch.zeros_like(parameter) for k in MOMENTS}}
        self.load(int(newest), state_of(learning, optimizer), self.world.files)
        return int(newest)

    def load_weights(self, step: int, learning: Mapping[str, nn.Parameter]) -> None:
        """Put the weights after `step` steps into whole parameters; this rank does it alone."""
        self.load(step, weights_of(learning), None)

    def load(self, step: int, state: dict[str, Any], group: Any) -> None:
        """Fill the tensors of `state` in place; all ranks of the group together."""
        path = self.place(step)
        if mark_of(path).run != self.run:
            raise SharecapError("checkpoint of another run", where=path, todo=TODO)
        reader = HuggingFaceStorageReader(str(path))
        try:
            with silent():
                load(state, storage_reader=reader, process_group=group, no_dist=group is None)
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - whatever damaged files lead to
            raise damaged(path, error) from None

    def place(self, step: int) -> Path:
        return self.directory / f"{PREFIX}{step:08d}"


def state_of(learning: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any]:
    """What a checkpoint holds: each learning parameter and its moments, by name."""
    state = weights_of(learning)
    for name, parameter in learning.items():
        state |= {f"{key}/{name}": optimizer.state[parameter][key] for key in MOMENTS}
    return state


def weights_of(learning: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """Each learning parameter, by name."""
    return {f"weights/{name}": parameter.detach() for name, parameter in learning.items()}


def finished(directory: Path) -> dict[Path, Mark]:
    """Finished checkpoints, oldest first."""
    paths = sorted(p for p in directory.glob(f"{PREFIX}*") if p.suffix != PARTIAL)
    return {path: mark_of(path) for path in paths}


def best_of(found: Mapping[Path, Mark]) -> Path | None:
    """The one of most worth, the first of several; None where it was never measured."""
    worths = {path: mark.worth for path, mark in found.items()}
    measured = {path: worth for path, worth in worths.items() if worth is not None}
    return max(measured, key=lambda path: measured[path], default=None)


def mark_of(path: Path) -> Mark:
    try:
        return Mark(**json.loads((path / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> SharecapError:
    return SharecapError(f"damaged checkpoint ({type(error).__name__})", where=path, todo=TODO)


@contextmanager
def one_error() -> Iterator[None]:
    """A full disk is an `OSError`; the library wraps it in its own and safetensors in words."""
    with silent():
        try:
            yield
        except CheckpointException as error:
            inner = next(iter(error.failures.values()))[0]
            raise inner from None


@contextmanager
def silent() -> Iterator[None]:
    """Without the warning that a single process is single."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def sync(directory: Path) -> None:
    """Make the directory's entries survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
