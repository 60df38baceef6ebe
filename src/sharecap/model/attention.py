"""Attention inside a pack, where no document may see another. Three ways, one word chooses; all are causal.

`sdpa` pads documents of like length to groups and runs on any device; blocks compiled for a CPU with matrix
tiles have a kernel of their own in its place (tiles.py). `flex` and `varlen` are fused kernels that take the
whole pack. None ever builds a [T, T] mask. Registered with transformers' AttentionInterface.

Shape letters: T tokens of the pack, N documents of a group, L their longest length, H heads, D head width,
P places of all groups laid end to end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from sharecap.errors import UsageError
from sharecap.model import tiles
from sharecap.model.grouped import attend_groups

Attention = Literal["sdpa", "flex", "varlen"]

NAMES: dict[Attention, str] = {kind: f"sharecap_{kind}" for kind in get_args(Attention)}
"""Names in transformers while a pack is in work; never written to a config."""

TILES = "sharecap_tiles"
"""What `sdpa` is called where its kernel is the one of tiles.py."""

WASTE = 1.25
"""Documents share a group while padding them to the longest costs at most this much more places."""


@dataclass(frozen=True)
class Layout:
    """Where a pack's tokens lie: its documents' borders, and the padded groups that `sdpa` works on."""

    lengths: tuple[int, ...]
    longest: int
    positions: Tensor  # [1, T] place of each token in its document
    borders: Tensor  # [documents + 1] int32: where each begins, and T
    groups: Tensor  # [2 * groups] int64 on the CPU: N and L of each
    spread: Tensor  # [P] the token at each place of the groups (padding: some token)
    back: Tensor  # [T] the place of each token

    @cached_property
    def block_mask(self) -> BlockMask:
        """What `flex` skips, made once for all layers."""
        total = sum(self.lengths)
        document = torch.repeat_interleave(torch.tensor(self.lengths)).to(self.positions.device)

        def visible(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (document[query] == document[key])

        return create_block_mask(visible, None, None, total, total, device=document.device)


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents of these lengths, laid end to end."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    back = np.empty(starts[-1], dtype=np.int64)
    groups, spread, offset = [], [], 0
    for members in grouped(lengths):
        longest = lengths[members[0]]
        groups.append((len(members), longest))
        for i in members:
            start, length = starts[i], lengths[i]
            spread.append(start + np.minimum(np.arange(longest), length - 1))
            back[start : start + length] = np.arange(offset, offset + length)
            offset += longest
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    return Layout(
        tuple(lengths),
        max(lengths),
        torch.from_numpy(positions).to(device),
        torch.from_numpy(starts.astype(np.int32)).to(device),
        torch.tensor(groups).flatten(),
        torch.from_numpy(np.concatenate(spread)).to(device),
        torch.from_numpy(back).to(device),
    )


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


def check(attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """`UsageError` if this machine can't train with it. `dtype` is that of the computation."""
    todo = "use attention 'sdpa'"
    if attention != "sdpa" and device.type != "cuda":
        raise UsageError(f"attention {attention!r} needs a GPU to train", todo=todo)
    if attention == "varlen" and dtype not in (torch.bfloat16, torch.float16):
        raise UsageError(
            "attention 'varlen' computes in half precision only", todo=f"{todo} or precision 'bf16'"
        )


def attention_function(
    kernel: Callable[[Tensor, Tensor, Tensor, Layout, float], Tensor],
) -> Callable[..., tuple[Tensor, None]]:
    """What transformers calls, around a kernel from [T, H, D] to [T, H, D]."""

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
        assert not dropout, "dropout in attention is not packed"
        # Rotation leaves float32 behind; the kernel's autocast would halve it only after our copies.
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        return kernel(q, k, v, packed, scaling or q.shape[-1] ** -0.5).unsqueeze(0), None

    return attend


def by_tiles(q: Tensor, k: Tensor, v: Tensor, packed: Layout, scale: float) -> Tensor:
    """In matrix tiles, what fits them."""
    k, v = for_each_head(q, k, v)
    if not tiles.takes(q, k, v):
        return by_sdpa(q, k, v, packed, scale)
    out: Tensor = tiles.attend_tiles(q, k, v, packed.borders, scale)[0]
    return out


def for_each_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that several heads share, once for each."""
    times = q.shape[1] // k.shape[1]
    return (k, v) if times == 1 else (k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))


def by_sdpa(q: Tensor, k: Tensor, v: Tensor, packed: Layout, scale: float) -> Tensor:
    """On a CPU in groups of documents, elsewhere document by document."""
    k, v = for_each_head(q, k, v)
    if q.device.type != "cpu":
        alone: Tensor = one_by_one(q, k, v, packed, scale)
        return alone
    out: Tensor = attend_groups(q, k, v, packed.groups, packed.spread, packed.back, scale)[0]
    return out


@torch.compiler.disable  # type: ignore[untyped-decorator]
def one_by_one(q: Tensor, k: Tensor, v: Tensor, packed: Layout, scale: float) -> Tensor:
    """Each document by SDPA."""
    made = []
    for parts in zip(*(torch.split(x, list(packed.lengths)) for x in (q, k, v)), strict=True):
        q_, k_, v_ = (x.transpose(0, 1).unsqueeze(0) for x in parts)
        made.append(scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=scale)[0].transpose(0, 1))
    return torch.cat(made)


@cache
def compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def by_flex(q: Tensor, k: Tensor, v: Tensor, packed: Layout, scale: float) -> Tensor:
    """One kernel over the pack's blocks; what no document fills is skipped."""
    kernel = compiled_flex() if q.is_cuda else flex_attention  # on a CPU only its slow reference runs
    shared = q.shape[1] != k.shape[1]
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out: Tensor = kernel(q, k, v, block_mask=packed.block_mask, scale=scale, enable_gqa=shared)
    return out[0].transpose(0, 1)


def by_varlen(q: Tensor, k: Tensor, v: Tensor, packed: Layout, scale: float) -> Tensor:
    """FlashAttention's kernel for sequences of unequal length, as torch carries it."""
    from torch.nn.attention.varlen import varlen_attn

    where = (packed.borders, packed.borders, packed.longest, packed.longest)
    shared = q.shape[1] != k.shape[1]
    out: Any = varlen_attn(q, k, v, *where, scale=scale, window_size=(-1, 0), enable_gqa=shared)
    assert isinstance(out, Tensor)
    return out


KERNELS = {NAMES["sdpa"]: by_sdpa, NAMES["flex"]: by_flex, NAMES["varlen"]: by_varlen, TILES: by_tiles}
for name, kernel in KERNELS.items():
    AttentionInterface.register(name, attention_function(kernel))
