"""The one packed forward pass: several documents in one row, none of which can see another.

Hugging Face's Llava leaks between packed documents unless the call is made just so; this is the only place
that makes it. No [T, T] mask is ever built. It must never change the model that it is given.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
S positions whose logits are kept, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlavaForConditionalGeneration

from sharecap.model import qwen
from sharecap.model.build import grey_picture
from sharecap.model.pixels import Patches
from sharecap.model.trainable import part_of

ATTENTION = "sharecap_packed"
"""Name of our attention in transformers while a pack is in work; never written to a config."""

WASTE = 1.25
"""Documents share a group while padding them to the longest costs at most this much more places."""


@dataclass(frozen=True)
class Layout:
    """Where a pack's tokens lie in the padded groups that attention works on."""

    positions: Tensor  # [1, T] place of each token in its document
    groups: tuple[tuple[int, int], ...]  # (N, L) of each group
    spread: (
        Tensor  # [sum of N * L]: the token at each place of the groups laid end to end (padding: some token)
    )
    padding: Tensor  # places that are padding
    back: Tensor  # [T]: the place of each token


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents of these lengths, laid end to end."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    back = np.empty(starts[-1], dtype=np.int64)
    groups, spread, padding, offset = [], [], [], 0
    for members in grouped(lengths):
        longest = lengths[members[0]]
        groups.append((len(members), longest))
        for i in members:
            start, length = starts[i], lengths[i]
            spread.append(start + np.minimum(np.arange(longest), length - 1))
            padding.append(np.arange(offset + length, offset + longest))
            back[start : start + length] = np.arange(offset, offset + length)
            offset += longest
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    tensors = (
        torch.from_numpy(x).to(device) for x in (np.concatenate(spread), np.concatenate(padding), back)
    )
    return Layout(torch.from_numpy(positions).to(device), tuple(groups), *tensors)


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
    _: nn.Module,
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
    **__: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document; returns [1, T, H, D]."""
    assert attention_mask is None, "packs are told apart by their layout, never by a mask"
    assert sliding_window is None, "sliding windows are not packed"
    assert softcap is None, "soft caps are not packed"
    shared = query.shape[1] != key.shape[1]
    spread: Any = Spread.apply
    gather: Any = Gather.apply
    q, k, v = (spread(x[0].transpose(0, 1), packed) for x in (query, key, value))  # [places, H, D]
    results, at = [], 0
    for n, length in packed.groups:
        q_, k_, v_ = (x[at : at + n * length].unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(
            q_, k_, v_, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=shared
        )
        results.append(out.transpose(1, 2).flatten(0, 1))  # [N * L, H, D]
        at += n * length
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return gather(joined, packed).unsqueeze(0), None


class Spread(torch.autograd.Function):
    """Tokens [T, ...] to their places in the groups.

    No token attends to padding, since attention is causal: so padding has no gradient, and the gradient is a
    plain look-up where autograd would add up row by row, which took half of a step.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, packed: Layout) -> Tensor:
        ctx.packed = packed
        return tokens.index_select(0, packed.spread)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.packed.back), None


class Gather(torch.autograd.Function):
    """Places back to tokens, the reverse of `Spread`. What padding gave is dropped: its gradient is zero."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, packed: Layout) -> Tensor:
        ctx.packed = packed
        return places.index_select(0, packed.back)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        spread = gradients[0].index_select(0, ctx.packed.spread)
        return spread.index_fill_(0, ctx.packed.padding, 0.0), None


AttentionInterface.register(ATTENTION, attend)


@contextmanager
def packing(model: LlavaForConditionalGeneration) -> Iterator[None]:
    """Within, the language model attends by layout; hold it around `backward` if blocks are redone."""
    config: Any = model.model.language_model.config
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
    pixels: Tensor | Patches | None,  # [images, 3, height, width] in order; None: the pack has none
    predict: Tensor,  # [S] positions whose logits are wanted
) -> Tensor:
    """Logits [S, V]. A document's logits do not depend on its neighbours by one bit.

    Without an image, what learns of vision tower and projector gets a gradient of zeros, so that every pack
    reaches every trainable parameter (sharded training would wait for ever for one that doesn't).
    """
    with packing(model):
        logits: Tensor = model(
            input_ids=ids.unsqueeze(0),
            **pictures_and_places(model, ids, where, pixels),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=predict,
            packed=where,
        ).logits[0]
    return logits if pixels is not None else logits + 0.0 * unused_picture(model)


def pictures_and_places(
    model: Any, ids: Tensor, where: Layout, pixels: Tensor | Patches | None
) -> dict[str, Any]:
    """What the model's class calls the pictures, and the places of the tokens."""
    if isinstance(pixels, Patches):
        places = qwen.positions(model, ids, where.positions[0], pixels.grid)
        return {"pixel_values": pixels.values, "image_grid_thw": pixels.grid, "position_ids": places}
    return {"pixel_values": pixels, "position_ids": where.positions}


def unused_picture(model: LlavaForConditionalGeneration) -> Tensor | float:
    """The sum of a grey picture's features, where the parts that make them learn."""
    learns = any(p.requires_grad for name, p in model.named_parameters() if part_of(name) != "language")
    if not (learns and torch.is_grad_enabled()):
        return 0.0
    pixels, _ = grey_picture(model.config)
    pixels = pixels.to(model.device, model.dtype)
    if isinstance(pixels, Patches):
        return qwen.summed_features(model, pixels)
    features: Tensor = model.get_image_features(pixels).pooler_output[0]
    return features.sum()
