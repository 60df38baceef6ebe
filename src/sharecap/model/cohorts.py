"""Rows that are being written, in cohorts: what read its prompts together attends together.

All rows share the products with the weights; keys and values are read cohort by cohort, each as far as it has
come. So a caption that has just begun never pays for the length of one that is about to end, as it would in
one cache for all. A row's result must never depend on its cohort, but for rounding where prompts were padded.

Shape letters: B rows of all cohorts and idle ones, N rows of a cohort, H heads, D head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, DynamicLayer

NAME = "sharecap_cohorts"
"""In transformers while a token is written; never put into a config that is saved."""


class Slab(DynamicLayer):
    """Keys and values of one layer in memory that grows by half: a new token copies one token, not all."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = self.filled = 0
        self.memory: list[Tensor] = []  # keys, values: each [N or more, H, room, D]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take in what is new, [N, H, tokens, D]; all there is, [N, H, filled, D]."""
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rows, self.memory = len(key_states), [x[:, :, :0] for x in new]
        need = self.filled + key_states.shape[2]
        if need > self.memory[0].shape[2]:
            self.memory = [self.grown(x, need * 3 // 2) for x in self.memory]
        for x, added in zip(self.memory, new, strict=True):
            x[: self.rows, :, self.filled : need] = added
        self.filled = need
        self.keys, self.values = (x[: self.rows, :, :need] for x in self.memory)
        return self.keys, self.values

    def grown(self, old: Tensor, room: int) -> Tensor:
        """The memory with room for so many tokens, and for no more rows than there are."""
        new = old.new_empty(self.rows, old.shape[1], room, old.shape[3])
        new[:, :, : self.filled] = old[: self.rows, :, : self.filled]
        return new

    def drop(self, row: int) -> None:
        """The last row takes this one's place."""
        self.rows -= 1
        if row < self.rows:
            for x in self.memory:
                x[row, :, : self.filled] = x[self.rows, :, : self.filled]


@dataclass
class Cohort:
    """Rows whose prompts were read together, from the first new token on."""

    owners: list[int]  # whose reply each row is
    tokens: Tensor  # [N], the last ones, which the cache does not hold yet
    positions: Tensor  # of these, [N, 1] or for Qwen [3, N, 1]
    slabs: Sequence[Slab]  # one a layer
    seen: Tensor | None  # [N, prompt] what is no padding; None: nothing is padded
    mask: Tensor | None = field(default=None, repr=False)  # of the step, [N, 1, 1, filled]

    def __len__(self) -> int:
        return len(self.owners)

    def drop(self, row: int) -> None:
        """This row is done; the last one takes its place."""
        last = len(self.owners) - 1
        self.owners[row] = self.owners[last]
        self.owners.pop()
        for x in (self.tokens, self.positions.movedim(-2, 0), self.seen):
            if x is not None:
                x[row] = x[last].clone()
        self.tokens, self.positions = self.tokens[:last], self.positions[..., :last, :]
        self.seen = None if self.seen is None else self.seen[:last]
        for slab in self.slabs:
            slab.drop(row)

    def advance(self) -> None:
        """Make ready for one token more."""
        self.positions = self.positions + 1
        if self.seen is not None:
            more = self.slabs[0].filled + 1 - self.seen.shape[1]
            self.mask = pad(self.seen, (0, more), value=True)[:, None, None]


def write(model: Any, cohorts: Sequence[Cohort], rows: int) -> Tensor:
    """Hidden states [B, C] after each row's last token, cohort after cohort, then idle rows up to `rows`."""
    for cohort in cohorts:
        cohort.advance()
    tokens = torch.cat([cohort.tokens for cohort in cohorts])
    positions = torch.cat([cohort.positions for cohort in cohorts], dim=-2)
    idle = max(0, rows - len(tokens))
    tokens, positions = pad(tokens, (0, idle)), pad(positions, (0, 0, 0, idle))
    with in_cohorts(model):
        out: Tensor = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(tokens).unsqueeze(1),
            attention_mask=None,
            position_ids=positions,
            use_cache=False,
            cohorts=cohorts,
        ).last_hidden_state[:, -1]
    return out


@torch.inference_mode()
def alike(model: Any, rows: int) -> list[int]:
    """Of `rows` and the multiples of 16 below it, those by which this machine gets the same bits.

    Only products with weights may sum in an order that hangs on the number of rows, and that order never
    hangs on the numbers. So one product by each shape of weights tells: its rows are those of the product by
    all `rows`, the first ones as the last ones. In single precision; in half, rounding hides most differences
    of order from one product, and only `rows` are told.
    """
    linear = [x for x in (*model.model.language_model.modules(), model.lm_head) if isinstance(x, nn.Linear)]
    if any(x.weight.dtype != torch.float32 for x in linear):
        return [rows]
    shapes = {(x.weight.shape, x.bias is None): x for x in linear}.values()
    source = torch.Generator().manual_seed(0)
    found = set(range(16, rows, 16))
    for layer in shapes:
        x = torch.randn(rows, layer.in_features, generator=source).to(layer.weight)
        whole = layer(x)
        found = {n for n in found if layer(x[:n]).equal(whole[:n]) and layer(x[-n:]).equal(whole[-n:])}
    return [*sorted(found), rows]


@contextmanager
def in_cohorts(model: Any) -> Iterator[None]:
    """Within, the language model attends by cohorts."""
    config: Any = model.model.language_model.config
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: Any,
    query: Tensor,  # [B, H, 1, D]
    key: Tensor,  # [B, H or fewer, 1, D]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cohorts: Sequence[Cohort],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: each row's mixture of what its cohort's cache holds of it, [B, 1, H, D]."""
    assert attention_mask is None, "cohorts have masks of their own"
    assert not dropout, "nothing is dropped while writing"
    assert sliding_window is None, "sliding windows have no cohorts"
    assert softcap is None, "soft caps have no cohorts"
    shared = query.shape[1] != key.shape[1]
    made, at = query.new_zeros(query.shape), 0
    for cohort in cohorts:
        here = slice(at, at + len(cohort))
        keys, values = cohort.slabs[module.layer_idx].update(key[here], value[here])
        made[here] = scaled_dot_product_attention(
            query[here], keys, values, attn_mask=cohort.mask, scale=scaling, enable_gqa=shared
        )
        at = here.stop
    return made.transpose(1, 2), None


AttentionInterface.register(NAME, attend)
