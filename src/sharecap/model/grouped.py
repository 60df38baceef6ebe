"""Causal attention over a pack's documents in padded groups, as one operator that torch.compile can see past.

Forward is torch's own SDPA. The gradient is five matrix products around a softmax: on a CPU torch's SDPA takes
six times as long for the gradient as for the result, and more for many short documents than for few long ones.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
P places of all groups laid end to end, B sequences of one head each.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SCORES = 1 << 20
"""Most scores of the gradient that are held at a time, unless one sequence has more: what fits a cache."""


@torch.library.custom_op("sharecap::attend_groups", mutates_args=())
def attend_groups(
    q: Tensor,  # [T, H, D]
    k: Tensor,  # [T, H or fewer, D]
    v: Tensor,
    groups: Tensor,  # [2 * groups] on the CPU: N and L of each
    spread: Tensor,  # [P] the token at each place of the groups (padding: some token)
    back: Tensor,  # [T] the place of each token
    scale: float,
    fused: bool,  # whether the gradient is to be compiled
) -> Tensor:
    """Each token's mixture of its document's values up to itself, [T, H, D]."""
    shared = q.shape[1] != k.shape[1]
    out = q.new_empty(spread.shape[0], *q.shape[1:])
    for at, n, length in spans(groups):
        places = slice(at, at + n * length)
        q_, k_, v_ = (
            x.index_select(0, spread[places]).unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v)
        )
        made = scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=scale, enable_gqa=shared)
        out[places] = made.transpose(1, 2).flatten(0, 1)
    return out.index_select(0, back)


def spans(groups: Tensor) -> Iterator[tuple[int, int, int]]:
    """Where each group begins, its N and its L."""
    at = 0
    for n, length in groups.view(-1, 2).tolist():
        yield at, n, length
        at += n * length


@torch.library.custom_op("sharecap::attend_groups_gradient", mutates_args=())
def attend_groups_gradient(
    grad: Tensor,  # [T, H, D]
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    spread: Tensor,
    back: Tensor,
    scale: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    heads, times = q.shape[1], q.shape[1] // k.shape[1]
    if times > 1:
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    one = compiled_gradient() if fused else gradient
    # What padding would give has no gradient. No token sees padding, so its keys and values have none either.
    grad = grad.new_zeros(spread.shape[0], *grad.shape[1:]).index_copy_(0, back, grad)
    made = q.new_empty(3, spread.shape[0], heads, q.shape[2])
    for at, n, length in spans(groups):
        places = slice(at, at + n * length)
        g, o, q_, k_, v_ = (
            x.unflatten(0, (n, length)).transpose(1, 2).flatten(0, 1).contiguous()  # [N * H, L, D]
            for x in (grad[places], *(x.index_select(0, spread[places]) for x in (out, q, k, v)))
        )
        step = max(1, SCORES // length**2)
        parts = [
            one(*(x[i : i + step] for x in (g, o, q_, k_, v_)), scale) for i in range(0, n * heads, step)
        ]
        for target, pieces in zip(made, zip(*parts, strict=True), strict=True):
            whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            target[places] = whole.unflatten(0, (n, heads)).transpose(1, 2).flatten(0, 1)
    dq, dk, dv = made.index_select(1, back)
    if times > 1:
        dk, dv = (x.unflatten(1, (-1, times)).sum(2) for x in (dk, dv))
    return dq.clone(), dk.clone(), dv.clone()


def gradient(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of causal attention over [B, L, D]; scores are computed again."""
    place = torch.arange(q.shape[1], device=q.device)
    hidden = place.unsqueeze(1) < place.unsqueeze(0)
    scores = torch.bmm(q, k.transpose(1, 2)).float() * scale
    shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    d_shares = torch.bmm(grad, v.transpose(1, 2)).float()
    common = (grad.float() * out.float()).sum(-1, keepdim=True)
    d_scores = (shares * (d_shares - common) * scale).to(q.dtype)
    shares = shares.to(q.dtype)
    return (
        torch.bmm(d_scores, k),
        torch.bmm(d_scores.transpose(1, 2), q),
        torch.bmm(shares.transpose(1, 2), grad),
    )


@cache
def compiled_gradient() -> Any:
    return torch.compile(gradient, dynamic=True)


@attend_groups.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@attend_groups_gradient.register_fake
def _(grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:6])
    ctx.settings = inputs[6:]


def gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    made = torch.ops.sharecap.attend_groups_gradient(grad, *ctx.saved_tensors, *ctx.settings)
    return (*made, *[None] * 5)


attend_groups.register_autograd(gradients, setup_context=keep)
