"""Answers in batches: pictures encoded once, a growing key-value cache, finished rows dropped from the batch.

Its own loop, since for small models transformers' `generate` spends more time between tokens than in them.
A reply must never depend on its neighbours in the batch or their order (but for rounding).

Shape letters: B rows of the batch, P prompt tokens, C width, H heads, D head width, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, DynamicCache, DynamicLayer

from sharecap.chat.templates import question, template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.errors import SharecapError
from sharecap.model import qwen
from sharecap.model.build import Llava
from sharecap.model.folder import load
from sharecap.model.pixels import Patches, Pixels, framed
from sharecap.records import Usage

KEEP = 0.75
"""The batch shrinks to its unfinished rows when they are at most this share of it."""


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


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    text: str
    finish_reason: str  # "stop" or "length"
    usage: Usage


class Generator:
    """A model that answers queries. One thread at a time."""

    def __init__(self, llava: Llava, batch_size: int = 64) -> None:
        self.llava, self.batch_size = llava, batch_size
        self.model: Any = llava.model.eval()  # type: ignore[no-untyped-call]
        self.pixels = self.prepared(llava.processor.image_processor)
        self.pads: bool | None = None  # None: as the model's own processor has it
        self.heard: Callable[[list[list[int]]], None] | None = None  # is told the batch's tokens as they grow
        self.asked: dict[str, str | Path | Image.Image] = {}  # pictures of the queries in work, by name
        places = llava.image_tokens
        self.cutter = Cutter(
            llava.tokenizer,
            template_named(llava.template, llava.processor),
            places if isinstance(places, int) else lambda name: places(self.asked[name]),
        )

    @classmethod
    def load(cls, directory: Path, batch_size: int = 64) -> Self:
        """From a model directory; `SharecapError` if it isn't one."""
        return cls(load(directory), batch_size)

    def frame(self, *, pads: bool) -> None:
        """From now on pad pictures to a square, or cut out their middle one; `UsageError` if it can't."""
        if pads is not self.pads:
            self.pixels = self.prepared(framed(self.llava.processor.image_processor, pads=pads))
            self.pads = pads

    @staticmethod
    def prepared(processor: BaseImageProcessor) -> Pixels:
        return Pixels(processor, cache_bytes=256 << 20, forgets=True)

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
        replies: dict[int, Reply] = {}
        order = sorted(range(len(queries)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), self.batch_size):
            chosen = order[at : at + self.batch_size]
            done = self.batch([queries[i] for i in chosen], [prompts[i] for i in chosen], decoding)
            replies.update(zip(chosen, done, strict=True))
        return [replies[i] for i in range(len(queries))]

    @torch.inference_mode()
    def batch(self, queries: Sequence[Query], prompts: Sequence[Document], decoding: Decoding) -> list[Reply]:
        """Replies of one batch: the prompts at once, then one token at a time for the unfinished rows."""
        language, table = self.model.model.language_model, self.model.get_input_embeddings()
        choice = Choice(queries, decoding)
        cache = DynamicCache()
        slabs = [Slab() for _ in range(language.config.num_hidden_layers)]
        cache.layers = list(slabs)
        hidden, mask, positions, extra = self.embed(queries, prompts)
        padded = not bool(mask.all())
        said: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))  # the prompt of each row that is still in the batch
        for place in range(decoding.max_new_tokens):
            out = language(
                inputs_embeds=hidden,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                **extra,
            ).last_hidden_state[:, -1]
            extra = {}
            tokens = choice.of(self.model.lm_head(out).float(), alive, place)
            for i, token in zip(alive, tokens.tolist(), strict=True):
                if not self.ended(said[i]):
                    said[i].append(token)
            if self.heard is not None:
                self.heard(said)
            going = [row for row, i in enumerate(alive) if not self.ended(said[i])]
            if not going:
                break
            positions = positions[..., -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            if len(going) <= KEEP * len(alive):
                rows = torch.tensor(going, device=mask.device)
                tokens, positions, mask = tokens[rows], positions[..., rows, :], mask[rows]
                alive = [alive[row] for row in going]
                for slab in slabs:
                    slab.keep(rows)
            hidden = table(tokens).unsqueeze(1)
        return [self.reply(prompt, ids) for prompt, ids in zip(prompts, said, strict=True)]

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


class Slab(DynamicLayer):
    """Keys and values of one layer in memory that grows by half: a new token copies one token, not all."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.filled = 0
        self.memory: list[Tensor] = []  # keys, values: each [B, H, room, D]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.memory = [x[:, :, :0] for x in new]
        need = self.filled + key_states.shape[2]
        if need > self.memory[0].shape[2]:
            self.memory = [self.grown(x, need * 3 // 2) for x in self.memory]
        for x, added in zip(self.memory, new, strict=True):
            x[:, :, self.filled : need] = added
        self.filled = need
        self.keys, self.values = (x[:, :, :need] for x in self.memory)
        return self.keys, self.values

    def grown(self, old: Tensor, room: int) -> Tensor:
        new = old.new_empty(old.shape[0], old.shape[1], room, old.shape[3])
        new[:, :, : self.filled] = old[:, :, : self.filled]
        return new

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these."""
        self.memory = [x.index_select(0, rows) for x in self.memory]
        self.keys, self.values = (x[:, :, : self.filled] for x in self.memory)


class Choice:
    """Chooses tokens. Its random numbers come from the seed and each query's content, whatever its batch."""

    def __init__(self, queries: Sequence[Query], decoding: Decoding) -> None:
        self.decoding = decoding
        if decoding.temperature > 0:
            self.numbers = np.stack([numbers_of(query, decoding) for query in queries])

    def of(self, logits: Tensor, rows: Sequence[int], place: int) -> Tensor:
        """The token of each row [B] at this place of the replies, from logits [B, V]."""
        if self.decoding.temperature <= 0:
            return logits.argmax(dim=-1)
        ranked, tokens = (logits / self.decoding.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        total = ranked.cumsum(dim=-1)
        nucleus = total - ranked < self.decoding.top_p  # the likeliest token is always in
        mass = (ranked * nucleus).sum(dim=-1, keepdim=True)
        drawn = torch.as_tensor(self.numbers[list(rows), place, None], dtype=total.dtype, device=total.device)
        rank = torch.searchsorted(total, drawn * mass).minimum(nucleus.sum(dim=-1, keepdim=True) - 1)
        return tokens.gather(1, rank).squeeze(1)


def numbers_of(query: Query, decoding: Decoding) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per token of the reply."""
    content = hashlib.sha256(f"{decoding.seed}\0{query.text}".encode())
    for picture in query.images:
        content.update(picture.tobytes() if isinstance(picture, Image.Image) else Path(picture).read_bytes())
    return np.random.default_rng(int.from_bytes(content.digest()[:16])).random(decoding.max_new_tokens)
