"""Answers in batches: pictures encoded once, one cache of keys and values, finished rows replaced at once.

Its own loop, since transformers' `generate` works on rows that have ended until the longest one ends too.
A reply must never depend on its neighbours in the batch or their order: to the last bit where the generator
reads each prompt alone, but for rounding where it doesn't.

Shape letters: B rows of the batch, P prompt tokens, C width, H heads, D head width, V vocabulary.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, DynamicLayer

from sharecap.chat.templates import question, template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.errors import SharecapError
from sharecap.model import qwen
from sharecap.model.build import Llava
from sharecap.model.folder import load
from sharecap.model.pixels import Patches, Pixels
from sharecap.records import Usage

KEEP = 0.75
"""With no prompt waiting, the batch shrinks to its unfinished rows when they are at most this share of it."""
REFILL = 0.25
"""Prompts that are read together wait until this share of the rows is free."""
STRIDE = 64
"""Attention spans a multiple of this many places: its sums keep their order when neighbours are longer."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen."""

    max_new_tokens: int = 256  # per reply
    temperature: float = 0.0  # 0: always the likeliest token
    top_p: float = 1.0  # sample among the likeliest tokens of this total probability
    seed: int = 0  # of the sampling


@dataclass(frozen=True)
class Query:
    """Pictures and words. `text` may hold `<image>` once per picture; without, they come first."""

    images: tuple[str | Path | Image.Image, ...]
    text: str
    max_new_tokens: int | None = None  # this reply's own bound, within the decoding's


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    text: str
    finish_reason: str  # "stop" or "length"
    usage: Usage


class Generator:
    """A model that answers queries. One thread at a time.

    With `alone`, prompts are read one by one and every step has `batch_size` rows, idle ones among them, so
    that a reply has the same bits whatever is asked beside it. Without, prompts are read together: quicker
    where replies are a few words.
    """

    def __init__(self, llava: Llava, batch_size: int = 64, *, alone: bool = True) -> None:
        self.llava, self.batch_size, self.alone = llava, batch_size, alone
        self.model: Any = llava.model.eval()  # type: ignore[no-untyped-call]
        self.pixels = Pixels(llava.processor.image_processor, cache_bytes=256 << 20)
        self.asked: dict[str, str | Path | Image.Image] = {}  # pictures of the queries in work, by name
        places = llava.image_tokens
        self.cutter = Cutter(
            llava.tokenizer,
            template_named(llava.template, llava.processor),
            places if isinstance(places, int) else lambda name: places(self.asked[name]),
        )

    @classmethod
    def load(cls, directory: Path, batch_size: int = 64, *, alone: bool = True) -> Self:
        """From a model directory; `SharecapError` if it isn't one."""
        return cls(load(directory), batch_size, alone=alone)

    def generate(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply]:
        """One reply per query, in their order.

        `ImageError` names a picture that can't be read, `SharecapError` a query that is too long.
        """
        self.asked = {f"{i}.{j}": p for i, query in enumerate(queries) for j, p in enumerate(query.images)}
        prompts = self.cutter.documents(
            question([f"{i}.{j}" for j in range(len(query.images))], query.text, str(i))
            for i, query in enumerate(queries)
        )
        room = self.llava.config.text_config.max_position_embeddings - decoding.max_new_tokens
        for prompt in prompts:
            if len(prompt) > room:
                what = f"query {prompt.id} has {len(prompt)} tokens where the model has room for {room}"
                raise SharecapError(what, todo="shorten it or lower max_new_tokens")
        order = sorted(range(len(queries)), key=lambda i: len(prompts[i]))
        done = self.answered([queries[i] for i in order], [prompts[i] for i in order], decoding)
        replies = dict(zip(order, done, strict=True))
        return [replies[i] for i in range(len(queries))]

    @torch.inference_mode()
    def answered(
        self, queries: Sequence[Query], prompts: Sequence[Document], decoding: Decoding
    ) -> list[Reply]:
        """Replies in order: a free row takes the next prompt, then each row in work gets one more token."""
        if not prompts:
            return []
        table = self.model.get_input_embeddings()
        choice = Choice(queries, decoding)
        count = self.batch_size if self.alone else min(self.batch_size, len(prompts))
        rows = Rows(self.model, count, len(prompts[-1]) + decoding.max_new_tokens)
        said: list[list[int]] = [[] for _ in prompts]
        waiting = deque(range(len(prompts)))

        def over(i: int) -> bool:
            own = queries[i].max_new_tokens or decoding.max_new_tokens
            return self.ended(said[i]) or len(said[i]) >= min(own, decoding.max_new_tokens)

        while True:
            free = rows.free()
            while waiting and (
                (self.alone and free) or len(free) >= max(1, REFILL * count) or len(free) == rows.count
            ):
                taken = [waiting.popleft() for _ in range(1 if self.alone else min(len(free), len(waiting)))]
                read = self.read([queries[i] for i in taken], [prompts[i] for i in taken])
                tokens = choice.of(read.logits, taken, [0] * len(taken))
                for number, (i, token) in enumerate(zip(taken, tokens.tolist(), strict=True)):
                    said[i].append(token)
                    if not over(i):
                        rows.take(free.pop(0), i, token, read.row(number))
            busy = rows.busy()
            if not busy:
                break
            if not self.alone and not waiting and len(busy) <= KEEP * rows.count:
                rows.keep(busy)
                busy = rows.busy()
            logits = self.model.lm_head(rows.step(table)).float()
            owners = [rows.owner[row] for row in range(rows.count)]
            tokens = choice.of(
                logits,
                [0 if i is None else i for i in owners],
                [0 if i is None else len(said[i]) for i in owners],
            )
            rows.tokens = tokens
            for owner, token in zip(owners, tokens.tolist(), strict=True):
                if owner is not None:
                    said[owner].append(token)
                    if over(owner):
                        rows.release(owner)
        return [self.reply(prompt, ids) for prompt, ids in zip(prompts, said, strict=True)]

    def read(self, queries: Sequence[Query], prompts: Sequence[Document]) -> "Read":
        """Prompts into a cache of their own, padded on the left."""
        hidden, mask, positions, extra = self.embed(queries, prompts)
        if not isinstance(self.llava.image_tokens, int) and positions.dim() == 2:
            positions = positions.expand(3, -1, -1)  # Qwen's words without a picture, beside others with
        cache = DynamicCache()
        out = self.model.model.language_model(
            inputs_embeds=hidden,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).last_hidden_state[:, -1]
        logits = self.model.lm_head(out).float()
        return Read(logits, cache.layers, [len(prompt) for prompt in prompts], positions[..., -1:])

    def embed(
        self, queries: Sequence[Query], prompts: Sequence[Document]
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Prompts as vectors [B, P, C], padded on the left, and what is no padding [B, P].

        Then their positions, [B, P] or for Qwen [3, B, P], and what its language model takes besides.
        """
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), int(self.llava.tokenizer.pad_token_id or 0))
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.ids)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        pictures = [picture for query in queries for picture in query.images]
        names = [id(p) if isinstance(p, Image.Image) else str(p) for p in pictures]
        unique = dict(zip(names, pictures, strict=True))
        number = {name: i for i, name in enumerate(unique)}
        chosen = [number[name] for name in names]
        pixels = self.pixels(list(unique.values())).to(ids.device, self.model.dtype) if unique else None
        if isinstance(pixels, Patches):
            return qwen.prompt(self.model, ids, mask, pixels, chosen)
        vectors: Tensor = self.model.get_input_embeddings()(ids)
        if pixels is not None:
            features = torch.stack(tuple(self.model.get_image_features(pixels).pooler_output))
            vectors[ids == self.cutter.image_id] = features[chosen].flatten(0, 1)
        return vectors, mask, (mask.cumsum(1) - 1).clamp(min=0), {}

    def ended(self, ids: Sequence[int]) -> bool:
        return tuple(ids[-len(self.cutter.ending) :]) == self.cutter.ending

    def reply(self, prompt: Document, ids: list[int]) -> Reply:
        words = ids[: -len(self.cutter.ending)] if self.ended(ids) else ids
        text = self.llava.tokenizer.decode(
            words, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        reason = "stop" if self.ended(ids) else "length"
        return Reply(text.strip(), reason, Usage(len(prompt), len(ids)))


@dataclass(frozen=True)
class Read:
    """Prompts that the model has read."""

    logits: Tensor  # [B, V], of the first new token
    layers: Sequence[Any]  # keys and values [B, H, P, D] of each layer
    lengths: Sequence[int]  # of the prompts, without padding
    positions: Tensor  # of their last tokens, [B, 1] or for Qwen [3, B, 1]

    def row(self, number: int) -> "Read":
        """One prompt of these, without padding and without the batch's axis."""
        length = self.lengths[number]
        layers = [(x.keys[number, :, -length:], x.values[number, :, -length:]) for x in self.layers]
        return Read(self.logits[number], layers, [length], self.positions[..., number, :])


class Rows:
    """The rows of the batch in work: what each has in the cache, its last token and whose reply it is."""

    def __init__(self, model: Any, count: int, room: int) -> None:
        self.language, self.count = model.model.language_model, count
        self.room = -(-room // STRIDE) * STRIDE
        self.owner: list[int | None] = [None] * count
        self.filled = torch.zeros(count, dtype=torch.long)  # places of the cache that hold something
        self.tokens = torch.zeros(count, dtype=torch.long, device=model.device)
        self.positions: Tensor | None = None  # of the last token, [B, 1] or for Qwen [3, B, 1]
        self.layers = [Slab(count, self.room) for _ in range(self.language.config.num_hidden_layers)]
        self.cache = DynamicCache()
        self.cache.layers = list(self.layers)

    def free(self) -> list[int]:
        return [row for row, i in enumerate(self.owner) if i is None]

    def busy(self) -> list[int]:
        return [row for row, i in enumerate(self.owner) if i is not None]

    def release(self, owner: int) -> None:
        """The row of this reply is free; until it is taken it does idle work on one place."""
        row = self.owner.index(owner)
        self.owner[row] = None
        self.filled[row] = 0

    def take(self, row: int, owner: int, token: int, read: Read) -> None:
        """This row goes on where one prompt ends, with the reply's first token."""
        for slab, (keys, values) in zip(self.layers, read.layers, strict=True):
            slab.put(row, keys, values)
        last = read.positions
        if self.positions is None:
            self.positions = last.new_zeros(*last.shape[:-1], self.count, 1)
        self.positions[..., row, :] = last
        self.owner[row], self.filled[row], self.tokens[row] = owner, read.lengths[0], token

    def step(self, table: Any) -> Tensor:
        """Hidden states [B, C] after each row's last token, which goes into the cache."""
        assert self.positions is not None
        self.positions = self.positions + 1
        live = -(-(int(self.filled.max()) + 1) // STRIDE) * STRIDE
        hidden = table(self.tokens).unsqueeze(1)
        filled = self.filled.to(hidden.device)
        for slab in self.layers:
            slab.filled, slab.live = filled, live
        seen = torch.arange(live, device=hidden.device) <= filled[:, None]
        mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None, None]
        out: Tensor = self.language(
            inputs_embeds=hidden,
            attention_mask=mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        for row in self.busy():
            self.filled[row] += 1
        return out

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows)
        there = index.to(self.tokens.device)
        assert self.positions is not None
        self.owner, self.count = [self.owner[row] for row in rows], len(rows)
        self.filled, self.tokens = self.filled[index], self.tokens[there]
        self.positions = self.positions[..., there, :]
        for slab in self.layers:
            slab.memory = [x.index_select(0, there) for x in slab.memory]


class Slab(DynamicLayer):
    """Keys and values of one layer, [B, H, room, D] each; every row is filled to a place of its own."""

    def __init__(self, count: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.room, self.live = count, room, 0
        self.filled = torch.zeros(count, dtype=torch.long)
        self.memory: list[Tensor] = []

    def put(self, row: int, keys: Tensor, values: Tensor) -> None:
        """A prompt's keys and values [H, P, D] at the row's start."""
        if not self.memory:
            self.lazy_initialization(keys, values)
            # zeros, for what attention masks must still be a number
            self.memory = [x.new_zeros(self.count, x.shape[0], self.room, x.shape[2]) for x in (keys, values)]
        for x, new in zip(self.memory, (keys, values), strict=True):
            x[row, :, : new.shape[1]] = new

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(self.filled), device=self.filled.device)
        for x, new in zip(self.memory, (key_states, value_states), strict=True):
            x[every, :, self.filled] = new[:, :, 0]
        self.keys, self.values = (x[:, :, : self.live] for x in self.memory)
        return self.keys, self.values


class Choice:
    """Chooses tokens. Its random numbers come from the seed and each query's content, whatever its batch."""

    def __init__(self, queries: Sequence[Query], decoding: Decoding) -> None:
        self.decoding, self.queries = decoding, queries
        if decoding.temperature > 0:
            self.numbers = np.stack([numbers_of(query, decoding) for query in queries])

    def of(self, logits: Tensor, queries: Sequence[int], places: Sequence[int]) -> Tensor:
        """The token of each row [B] from logits [B, V], given its query and the place in the reply."""
        if self.decoding.temperature <= 0:
            return logits.argmax(dim=-1)
        ranked, tokens = (logits / self.decoding.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        total = ranked.cumsum(dim=-1)
        nucleus = total - ranked < self.decoding.top_p  # the likeliest token is always in
        mass = (ranked * nucleus).sum(dim=-1, keepdim=True)
        drawn = torch.as_tensor(
            self.numbers[list(queries), list(places), None], dtype=total.dtype, device=total.device
        )
        rank = torch.searchsorted(total, drawn * mass).minimum(nucleus.sum(dim=-1, keepdim=True) - 1)
        return tokens.gather(1, rank).squeeze(1)


def numbers_of(query: Query, decoding: Decoding) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per token of the reply."""
    content = hashlib.sha256(f"{decoding.seed}\0{query.text}".encode())
    for picture in query.images:
        content.update(picture.tobytes() if isinstance(picture, Image.Image) else Path(picture).read_bytes())
    return np.random.default_rng(int.from_bytes(content.digest()[:16])).random(decoding.max_new_tokens)
