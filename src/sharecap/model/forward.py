"""The one packed forward pass: several documents in one row, none of which can see another.

Hugging Face's Llava leaks between packed documents unless the call is made just so; this is the only place that
makes it. No [T, T] mask is ever built. It must never change the model that it is given.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
S positions whose logits are kept, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlavaForConditionalGeneration

ATTENTION = "sharecap_packed"
"""Name under which our attention is known to transformers while a pack is in work; never written to a config."""

WASTE = 1.25
"""Documents share a group while padding them to the longest costs at most this much more places."""


@dataclass(frozen=True)
class Layout:
    """Where a pack's tokens lie in the padded groups that attention works on."""

    positions: Tensor  # [1, T] place of each token in its document
    groups: tuple[Tensor, ...]  # each [N, L]: the pack's token at each place (padding points at some token)
    back: Tensor  # [T]: where each token's result lies in the groups laid end to end


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents of these lengths, laid end to end."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    back = torch.empty(starts[-1], dtype=torch.long)
    groups, offset = [], 0
    for members in grouped(lengths):
        longest = max(lengths[i] for i in members)
        first = torch.tensor([starts[i] for i in members]).unsqueeze(1)
        last = torch.tensor([starts[i] + lengths[i] - 1 for i in members]).unsqueeze(1)
        groups.append((first + torch.arange(longest)).minimum(last))
        for row, i in enumerate(members):
            at = offset + row * longest
            back[starts[i] : starts[i] + lengths[i]] = torch.arange(at, at + lengths[i])
        offset += longest * len(members)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    return Layout(positions.to(device), tuple(g.to(device) for g in groups), back.to(device))


def grouped(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Document numbers in groups of like length, longest first."""
    members: list[int] = []
    filled = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if members and (len(members) + 1) * lengths[members[0]] > WASTE * (filled + lengths[i]):
            yield members
            members, filled = [], 0
        members.append(i)
        filled += lengths[i]
    yield members


def attend(
    module: torch.nn.Module,
    query: Tensor,  # [1, H, T, D]
    key: Tensor,  # [1, H or fewer, T, D]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document; returns [1, T, H, D]."""
    assert attention_mask is None, "packs are told apart by their layout, never by a mask"
    assert sliding_window is None, "sliding windows are not packed"
    assert softcap is None, "soft caps are not packed"
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, D]
    results = []
    for group in packed.groups:
        n, length = group.shape
        flat = group.flatten()
        q_, k_, v_ = (x.index_select(0, flat).unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(
            q_, k_, v_, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
        )
        results.append(out.transpose(1, 2).flatten(0, 1))  # [N * L, H, D]
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return joined.index_select(0, packed.back).unsqueeze(0), None


AttentionInterface.register(ATTENTION, attend)


@contextmanager
def packing(model: LlavaForConditionalGeneration) -> Iterator[None]:
    """Within, the language model attends by layout. Also holds around `backward` when blocks are recomputed."""
    config = model.model.language_model.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def packed_forward(
    model: LlavaForConditionalGeneration,
    ids: Tensor,  # [T]
    where: Layout,
    pixels: Tensor | None,  # [images, 3, height, width], in order of their places; None: no image in the pack
    predict: Tensor,  # [S] positions whose logits are wanted
) -> Tensor:
    """Logits [S, V]. A document's logits do not depend on its neighbours by one bit."""
    with packing(model):
        logits: Tensor = model(
            input_ids=ids.unsqueeze(0),
            pixel_values=pixels,
            position_ids=where.positions,
            attention_mask=None,
            use_cache=False,
            logits_to_keep=predict,
            packed=where,
        ).logits[0]
    return logits
