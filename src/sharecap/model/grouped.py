"""Causal attention of a pack on a CPU, in padded groups of documents, as an operator that compiling can pass.

Result and gradient are torch's flash kernel's, group by group. It must never mix documents.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
P places of all groups laid end to end, B = N * H sequences, R rows of queries.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@torch.library.custom_op("sharecap::attend_groups", mutates_args=())
def attend_groups(  # noqa: PLR0917 - an operator's inputs are positional
    q: Tensor,  # [T, H, D]
    k: Tensor,  # [T, H, D]
    v: Tensor,
    groups: Tensor,  # [2 * groups] on the CPU: N and L of each
    spread: Tensor,  # [P] the token at each place of the groups (padding: some token)
    back: Tensor,  # [T] the place of each token
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Each token's mixture of its document's values up to itself [T, H, D]; the log of its sums [P * H]."""
    out, sums = q.new_empty(spread.shape[0], *q.shape[1:]), []
    for places, n, length in spans(groups):
        group = [heads_first(x.index_select(0, spread[places]), n, length) for x in (q, k, v)]
        made, sum_ = aten._scaled_dot_product_flash_attention_for_cpu(*group, 0.0, True, scale=scale)
        out[places] = made.transpose(1, 2).flatten(0, 1)
        sums.append(sum_.flatten())
    return out.index_select(0, back), torch.cat(sums)


def heads_first(rows: Tensor, n: int, length: int) -> Tensor:
    """[N * L, H, D] as [N, H, L, D]."""
    return rows.view(n, length, *rows.shape[1:]).transpose(1, 2)


def spans(groups: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Where each group lies, its N and its L."""
    at = 0
    for n, length in groups.view(-1, 2).tolist():
        yield slice(at, at + n * length), n, length
        at += n * length


@torch.library.custom_op("sharecap::attend_groups_gradient", mutates_args=())
def attend_groups_gradient(  # noqa: PLR0917
    grad: Tensor,  # [T, H, D]
    out: Tensor,
    sums: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    spread: Tensor,
    back: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    heads = q.shape[1]
    # What padding would give has no gradient. No token sees padding, so its keys and values have none either.
    grad = grad.new_zeros(spread.shape[0], *grad.shape[1:]).index_copy_(0, back, grad)
    made = [torch.empty_like(grad) for _ in range(3)]
    for places, n, length in spans(groups):
        rows = (grad[places], *(x.index_select(0, spread[places]) for x in (q, k, v, out)))
        group = [heads_first(x, n, length) for x in rows]
        sum_ = sums[places.start * heads : places.stop * heads].view(n, heads, length)
        found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *group, sum_, 0.0, True, scale=scale
        )
        for target, gradient in zip(made, found, strict=True):
            target[places] = gradient.transpose(1, 2).flatten(0, 1)
    dq, dk, dv = (x.index_select(0, back) for x in made)
    return dq, dk, dv


@attend_groups.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    q, spread = inputs[0], inputs[4]
    return torch.empty(q.shape, dtype=q.dtype), torch.empty(spread.shape[0] * q.shape[1])


@attend_groups_gradient.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = (torch.empty(x.shape, dtype=x.dtype) for x in inputs[3:6])
    return a, b, c


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.scale = inputs[6]


def gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    made = torch.ops.sharecap.attend_groups_gradient(grad, *ctx.saved_tensors, ctx.scale)
    return (*made, *[None] * 4)


attend_groups.register_autograd(gradients, setup_context=keep)
