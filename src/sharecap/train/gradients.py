"""Between backward and the optimiser: gradients summed over ranks, measured part by part, clipped.

A step's gradient is the sum over the packs of all ranks, never a mean of means: each pack's loss is already
divided by what the whole step learns.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sharecap.errors import SharecapError
from sharecap.model.trainable import part_of
from sharecap.train.parallel import World

BUCKET = 2**25
"""Numbers that one all-reduce carries: enough to be fast, few beside all gradients."""


def check(model: nn.Module) -> None:
    """Stop unless all that is said to learn does: a part frozen by accident would show nowhere else."""
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if without:
        raise SharecapError(f"{len(without)} trainable parameters get no gradient", where=without[0])


@torch.no_grad()
def finish(learning: Mapping[str, nn.Parameter], clip: float, world: World) -> tuple[float, dict[str, float]]:
    """Make each gradient that of the whole step, and its joint norm at most `clip`.

    `learning` are the learning parameters by name. Returns the norm before clipping, whole and of each part.
    """
    sharded = any(isinstance(p, DTensor) for p in learning.values())
    if world.size > 1 and not sharded:
        sum_over_ranks(list(learning.values()), world)
    gradients: list[Any] = [p.grad for p in learning.values()]
    if sharded:  # they have been summed in backward, each rank holds its shard
        gradients = [g.to_local() for g in gradients]
    norms = torch.stack(torch._foreach_norm(gradients))
    if sharded:
        norms = world.sum(norms.square()).sqrt()
    whole = torch.linalg.vector_norm(norms)
    torch._foreach_mul_(gradients, torch.clamp(clip / (whole + 1e-6), max=1.0))
    parts = [part_of(name) for name in learning]
    names = list(dict.fromkeys(parts))
    where = [
        torch.tensor([i for i, p in enumerate(parts) if p == name], device=norms.device) for name in names
    ]
    told = torch.stack([whole, *(torch.linalg.vector_norm(norms[at]) for at in where)]).tolist()
    return told[0], dict(zip(names, told[1:], strict=True))


def sum_over_ranks(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Where each rank holds all weights: sum the gradients, once a step, in few large messages."""
    for parameter in parameters:
        if parameter.grad is None:  # this rank had no pack in this step
            parameter.grad = torch.zeros_like(parameter)
    for bucket in buckets([p.grad for p in parameters if p.grad is not None]):
        joint = world.sum(torch.cat([g.flatten() for g in bucket]))
        for gradient, summed in zip(bucket, torch.split(joint, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in order, in groups of at most `BUCKET` numbers, or of one."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
