"""Cross-entropy of the learned positions without their logits ever being whole.

Full logits of 16 rows of 2,048 tokens in Llama's vocabulary are 4 GB in float32, most of them for positions
that nobody learns from. Here a chunk's logits live only until its loss and gradient are known, so nothing is
computed twice. Equal to cross_entropy(head(hidden)) but for rounding; it must never skip a position.

Shape letters: S learned positions, C width, V vocabulary, K positions of a chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 1 << 23
"""Logits that exist at a time: 32 MiB in float32."""

EVEN = 256
"""What is compiled for a CPU computes with whole multiples of so many rows.

For each new number of rows, oneDNN takes some 10 ms to write the code of each matrix product. No two packs
are equally long, so that would never be over.
"""


def filled(rows: Tensor, count: int) -> Tensor:
    """Zeros below `rows`, up to so many."""
    missing = count - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


class SummedLoss(torch.autograd.Function):
    """Sum over positions of -log softmax(hidden @ weight.T)[target], with its gradients made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool) -> Tensor:
        # hidden [S, C], weight [V, C], both of the computation's precision; targets [S]
        step = max(1, CHUNK // weight.shape[0])
        chunk = compiled_chunk() if fused else chunk_loss
        if fused and hidden.device.type == "cpu":
            even = min(EVEN, step)
            step -= step % even
            hidden = filled(hidden, -(-len(targets) // even) * even)
        total = hidden.new_zeros((), dtype=torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for at in range(0, len(hidden), step):
            part = slice(at, at + step)
            known = targets[part]  # fewer than rows where `hidden` was filled up
            logits = hidden[part] @ weight.T
            loss, d_logits = chunk(logits[: len(known)], known)
            total += loss
            d_logits = filled(d_logits, len(logits))
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[part])
            if d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
        ctx.save_for_backward(None if d_hidden is None else d_hidden[: len(targets)], d_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        (scale,) = gradients
        return (
            None if d_hidden is None else d_hidden * scale.to(d_hidden.dtype),
            None if d_weight is None else (d_weight * scale).to(ctx.dtype),
            None,
            None,
        )


def chunk_loss(logits_KV: Tensor, targets_K: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of a chunk's losses in float32, and its gradient by the logits in their precision."""
    log_shares = torch.log_softmax(logits_KV.float(), 1)
    picked = targets_K.unsqueeze(1)
    loss = -log_shares.gather(1, picked).sum()
    gradient = log_shares.exp_()
    gradient.scatter_add_(1, picked, gradient.new_full(picked.shape, -1.0))
    return loss, gradient.to(logits_KV.dtype)


@cache
def compiled_chunk() -> Any:
    return torch.compile(chunk_loss, dynamic=True)


@contextmanager
def summed_loss(head: nn.Linear, targets: Tensor, fused: bool = False) -> Iterator[None]:
    """Within, `head` gives [1] the summed loss of the positions [1, S, C] that it is called with.

    So the loss is computed inside the model's own forward pass, where sharded weights are whole.
    """

    def loss(hidden: Tensor) -> Tensor:
        weight = head.weight
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        function: Any = SummedLoss.apply
        with torch.autocast(hidden.device.type, enabled=False):
            made: Tensor = function(hidden[0], weight, targets, fused)
        return made.unsqueeze(0)

    assert head.bias is None, "a head with a bias is not known here"
    head.forward = loss
    try:
        yield
    finally:
        del head.forward
