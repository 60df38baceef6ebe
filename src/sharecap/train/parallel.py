"""Several processes that train as one: torchrun's ranks, weights in shards (FSDP2) or whole in each (DDP).

What runs inside a sharded model must never differ between ranks in kind or number: they would wait for each
other for ever (see `Learner.even`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from sharecap.errors import SharecapError, UsageError

PATIENCE = timedelta(minutes=60)
"""How long a rank waits for the others: writing a large model takes one of them minutes."""


@dataclass(frozen=True)
class World:
    """The processes that train together, each on one device."""

    rank: int
    size: int
    device: torch.device
    talk: Any = None  # group for numbers on the CPU; None: one process
    files: Any = None  # group for checkpoints, which are written while the others' calls go on

    @property
    def first(self) -> bool:
        """Whether this rank writes what all share."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def most(self, *values: float) -> list[float]:
        """The largest of each value on any rank."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.talk)
        return [float(x) for x in told]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier(group=self.talk)


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@cache
def meeting_place() -> tuple[Any, int, int]:
    """Where torchrun's processes find each other, this one's rank, and how many there are."""
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    except ValueError as error:  # some of what torchrun sets is missing
        todo = "start the command with torchrun, or unset WORLD_SIZE"
        said = str(error).partition("rendezvous: ")[2] or str(error)
        raise UsageError(f"not a process of torchrun's ({said})", where="WORLD_SIZE", todo=todo) from None
    # A run that torchrun starts again finds the store as it was: what it reads must be of this attempt.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(attempt, store), rank, size  # type: ignore[attr-defined]


@contextmanager
def one_voice() -> Iterator[None]:
    """Of the errors of all ranks, the first leaves the block; the others end their process without a word.

    All ranks meet the same wrong setting, and one that fails takes the others' connections with it: what they
    say of that would bury what happened. torchrun ends those that hang in a call to it.
    """
    if ranks() == 1:
        yield
        return
    store, _, _ = meeting_place()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if told_already(store):
            raise SystemExit(error.exit_code if isinstance(error, SharecapError) else 1) from None
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):  # gloo raises RuntimeErrors
            todo = "torchrun says which and how; the same command goes on from the last checkpoint"
            raise SharecapError("another process of this run was ended", todo=todo) from error
        raise
    if dist.is_initialized():
        dist.destroy_process_group()


def alone(what: str) -> None:
    """`UsageError`, said once, if torchrun has started several processes for what only one can do."""
    with one_voice():
        if ranks() > 1:
            raise UsageError(f"{what} in one process only", todo="run the same command without torchrun")


def told_already(store: Any) -> bool:
    """Whether another rank has failed before this one, which is noted."""
    try:
        return bool(store.add("failed", 1) > 1)
    except RuntimeError:  # who kept the store is gone, with what it knew
        return False


def joined(device: str) -> World:
    """The world of this process: torchrun's, or itself alone. `device` is "cpu", "cuda" or "auto".

    `UsageError` for a device that is not here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises each for some device
        raise UsageError(f"no device {device!r} here", todo='use "cpu", or "auto"') from None
    if ranks() == 1:
        return World(0, 1, place)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        store, rank, size = meeting_place()
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    talk, files = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    return World(dist.get_rank(), dist.get_world_size(), place, talk, files)


def shard(objective: nn.Module, world: World, precision: str) -> None:
    """Spread the weights over the ranks, block by block; a block is whole only while it computes.

    With bf16, weights travel and compute in bf16; what learns is kept, and its gradients summed, in fp32.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    stacks = [module for module in objective.modules() if isinstance(module, nn.ModuleList)]
    for module in [block for stack in stacks for block in stack] + [objective]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum over ranks, no mean,
            module.set_force_sum_reduction_for_comms(True)  # by an operation that gloo knows too


def reshard(objective: nn.Module) -> None:
    """After a forward pass without a backward one: give back what it left whole."""
    if isinstance(objective, FSDPModule):
        objective.reshard()


def gather(model: nn.Module, world: World) -> None:
    """Give the first rank whole weights again, on the CPU; the others keep their shards. All must call it."""
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not isinstance(parameter, DTensor):
            continue
        if id(parameter) not in made:
            full = parameter.full_tensor().detach()
            if world.first:  # a copy, since what was gathered has room for padding
                whole = torch.empty_like(full, device="cpu").copy_(full)
                made[id(parameter)] = nn.Parameter(whole, parameter.requires_grad)
            else:
                made[id(parameter)] = parameter
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, made[id(parameter)])
