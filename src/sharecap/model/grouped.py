"""Causal attention of a pack on a CPU, in padded groups of documents, as an operator that compiling can pass.

Forward is torch's flash kernel. So is the gradient, unless blocks are compiled: then it is five matrix products
around one fused kernel of exponentials, which takes a third of the time. It must never mix documents.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
P places of all groups laid end to end, B = N * H sequences, R rows of queries.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

ROWS = 256
"""Queries of the fused gradient that are taken at a time: what they can't see yet is not computed."""


@torch.library.custom_op("sharecap::attend_groups", mutates_args=())
def attend_groups(
    q: Tensor,  # [T, H, D]
    k: Tensor,  # [T, H, D]
    v: Tensor,
    groups: Tensor,  # [2 * groups] on the CPU: N and L of each
    spread: Tensor,  # [P] the token at each place of the groups (padding: some token)
    back: Tensor,  # [T] the place of each token
    scale: float,
    fused: bool,  # whether the gradient is to be compiled
) -> tuple[Tensor, Tensor]:
    """Each token's mixture of its document's values up to itself [T, H, D]; logarithms of its sums [P * H]."""
    out, sums = q.new_empty(spread.shape[0], *q.shape[1:]), []
    for places, n, length in spans(groups):
        group = [x.index_select(0, spread[places]).unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v)]
        made, sum_ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*group, 0.0, True, scale=scale)
        out[places] = made.transpose(1, 2).flatten(0, 1)
        sums.append(sum_.flatten())
    return out.index_select(0, back), torch.cat(sums)


def spans(groups: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Where each group lies, its N and its L."""
    at = 0
    for n, length in groups.view(-1, 2).tolist():
        yield slice(at, at + n * length), n, length
        at += n * length


@torch.library.custom_op("sharecap::attend_groups_gradient", mutates_args=())
def attend_groups_gradient(
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
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    heads = q.shape[1]
    one = fused_gradient if fused else flash_gradient
    # What padding would give has no gradient. No token sees padding, so its keys and values have none either.
    grad = grad.new_zeros(spread.shape[0], *grad.shape[1:]).index_copy_(0, back, grad)
    made = [torch.empty_like(grad) for _ in range(3)]
    for places, n, length in spans(groups):
        rows = (grad[places], *(x.index_select(0, spread[places]) for x in (out, q, k, v)))
        group = (x.unflatten(0, (n, length)).transpose(1, 2) for x in rows)
        sum_ = sums[places.start * heads : places.stop * heads].view(n, heads, length)
        for target, found in zip(made, one(*group, sum_, scale), strict=True):
            target[places] = found.transpose(1, 2).flatten(0, 1)
    dq, dk, dv = (x.index_select(0, back) for x in made)
    return dq, dk, dv


def flash_gradient(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one group [N, H, L, D], by torch's kernel."""
    made: tuple[Tensor, Tensor, Tensor]
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, sums, 0.0, True, scale=scale
    )
    return made


def fused_gradient(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one group [N, H, L, D]."""
    n, length = q.shape[0], q.shape[2]
    grad, out, q, k, v, sums = (x.flatten(0, 1).contiguous() for x in (grad, out, q, k, v, sums))  # [B, L, ...]
    wide_q, wide_k = q.float(), k.float()  # scores rounded to bf16 would double the gradient's error
    common = (grad.float() * out.float()).sum(-1)
    kernel = compiled_shares()
    step = -(-length // -(-length // ROWS))
    dq, dk, dv = [], torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    for i in range(0, length, step):
        rows, seen = slice(i, i + step), slice(0, min(i + step, length))
        with bf16_products() if q.dtype == torch.bfloat16 else nullcontext():
            scores = torch.bmm(wide_q[:, rows], wide_k[:, seen].transpose(1, 2))  # [B, R, seen] float32
        d_shares = torch.bmm(grad[:, rows], v[:, seen].transpose(1, 2))
        shares, d_scores = kernel(scores, d_shares, sums[:, rows], common[:, rows], scale)
        for x in (shares, d_scores):
            x[:, :, i:].tril_()  # a token sees none after it; what stands there may be infinite
        dq.append(torch.bmm(d_scores, k[:, seen]))
        dk[:, seen] += torch.bmm(d_scores.transpose(1, 2), q[:, rows])
        dv[:, seen] += torch.bmm(shares.transpose(1, 2), grad[:, rows])
    a, b, c = (x.to(q.dtype).unflatten(0, (n, -1)) for x in (torch.cat(dq, 1), dk, dv))
    return a, b, c


@contextmanager
def bf16_products() -> Iterator[None]:
    """Within, float32 products take their factors as bf16: exact where they were bf16 before, and faster."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def shares_and_gradient(
    scores: Tensor, d_shares: Tensor, sums: Tensor, common: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Softmax of [B, R, seen] scores given the logarithms of its sums [B, R], and the scores' gradient."""
    shares = torch.exp(scores.float() * scale - sums.unsqueeze(-1))
    d_scores = shares * (d_shares.float() - common.unsqueeze(-1)) * scale
    return shares.to(d_shares.dtype), d_scores.to(d_shares.dtype)


@cache
def compiled_shares() -> Any:
    return torch.compile(shares_and_gradient, dynamic=True)


@attend_groups.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, groups: Tensor, spread: Tensor, back: Tensor, scale: float, fused: bool
) -> tuple[Tensor, Tensor]:
    sums = q.new_empty(spread.shape[0] * q.shape[1], dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), sums


@attend_groups_gradient.register_fake
def _(grad: Tensor, out: Tensor, sums: Tensor, q: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = (torch.empty_like(q, memory_format=torch.contiguous_format) for _ in range(3))
    return a, b, c


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.settings = inputs[6:]


def gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    made = torch.ops.sharecap.attend_groups_gradient(grad, *ctx.saved_tensors, *ctx.settings)
    return (*made, *[None] * 5)


attend_groups.register_autograd(gradients, setup_context=keep)
