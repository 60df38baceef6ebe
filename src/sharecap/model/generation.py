"""Answers in batches: pictures encoded once, a growing key-value cache, finished rows dropped from the batch.

Its own loop, since at captioning's sizes transformers' `generate` spends more time between tokens than in them.
A reply depends on its query and the seed alone, not on its neighbours in the batch or their order.

Shape letters: B rows of the batch, P prompt tokens, C width, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, DynamicLayer

from sharecap.chat.templates import question, template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.model.build import Llava
from sharecap.model.folder import load
from sharecap.model.pixels import Pixels
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


class Slab(DynamicLayer):
    """Keys and values of one layer in one piece of memory that grows by half: appending copies one token."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.filled = 0
            self.slabs = (key_states[:, :, :0], value_states[:, :, :0])
        need = self.filled + key_states.shape[2]
        if need > self.slabs[0].shape[2]:
            self.slabs = tuple(grown(slab[:, :, : self.filled], need) for slab in self.slabs)  # type: ignore[assignment]
        for slab, new in zip(self.slabs, (key_states, value_states), strict=True):
            slab[:, :, self.filled : need] = new
        self.filled = need
        self.keys, self.values = (slab[:, :, :need] for slab in self.slabs)
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.slabs = tuple(grown(slab.index_select(0, rows), slab.shape[2]) for slab in self.slabs)  # type: ignore[assignment]
        self.keys, self.values = (slab[:, :, : self.filled] for slab in self.slabs)


def grown(old: Tensor, need: int) -> Tensor:
    """A larger slab [B, H, room, D] that starts with `old`."""
    size = list(old.shape)
    size[2] = max(need, need * 3 // 2)
    new = old.new_empty(size)
    new[:, :, : old.shape[2]] = old
    return new


class Generator:
    """A model that answers queries. Not safe to share by threads."""

    def __init__(self, llava: Llava, batch_size: int = 64) -> None:
        self.llava, self.batch_size = llava, batch_size
        self.model = llava.model.eval()
        self.pixels = Pixels(llava.processor.image_processor, cache_bytes=256 << 20)
        self.cutter = Cutter(llava.processor.tokenizer, template_named(llava.template), llava.image_tokens)
        assert len(self.cutter.stop) == 1, "an answer ends with one token"

    @classmethod
    def load(cls, directory: Path, batch_size: int = 64) -> Self:
        """From a model directory; `SharecapError` if it isn't one."""
        return cls(load(directory), batch_size)

    def generate(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply]:
        """One reply per query, in their order. `ImageError` names a picture that can't be read."""
        prompts = self.cutter.documents(
            question([str(i)] * len(query.images), query.text, str(i)) for i, query in enumerate(queries)
        )
        replies: list[Reply | None] = [None] * len(queries)
        order = sorted(range(len(queries)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), self.batch_size):
            chosen = order[at : at + self.batch_size]
            done = self.batch([queries[i] for i in chosen], [prompts[i] for i in chosen], decoding)
            for i, reply in zip(chosen, done, strict=True):
                replies[i] = reply
        return [reply for reply in replies if reply is not None]

    @torch.inference_mode()
    def batch(self, queries: Sequence[Query], prompts: Sequence[Document], decoding: Decoding) -> list[Reply]:
        """Replies of one batch: prefill, then one token at a time for the rows that are not finished."""
        device = self.model.device
        embedded, mask = self.embed(queries, prompts)
        language, head, table = (
            self.model.model.language_model,
            self.model.lm_head,
            self.model.get_input_embeddings(),
        )
        cache = DynamicCache()
        cache.layers = [Slab() for _ in range(language.config.num_hidden_layers)]
        cache.layer_class_to_replicate = None
        chance = Chance(queries, decoding)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padded = not bool(mask.all())
        alive = np.arange(len(prompts))
        said: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        hidden = embedded
        for step in range(decoding.max_new_tokens):
            out = language(
                inputs_embeds=hidden,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            tokens = chance.choose(head(out).float(), alive, step)
            unfinished = []
            for row, (i, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if ended[i]:
                    continue
                said[i].append(token)
                if token == self.cutter.stop[0]:
                    ended[i] = True
                else:
                    unfinished.append(row)
            if not unfinished:
                break
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1) if padded else mask
            if len(unfinished) <= KEEP * len(alive):
                rows = torch.tensor(unfinished, device=device)
                alive = alive[unfinished]
                tokens, positions, mask = tokens[rows], positions[rows], mask[rows]
                for layer in cache.layers:
                    layer.keep(rows)
            hidden = table(tokens).unsqueeze(1)
        return [self.reply(p, ids, end) for p, ids, end in zip(prompts, said, ended, strict=True)]

    def embed(self, queries: Sequence[Query], prompts: Sequence[Document]) -> tuple[Tensor, Tensor]:
        """Prompts as vectors [B, P, C], padded on the left, and what is no padding [B, P]."""
        device = self.model.device
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.llava.processor.tokenizer.pad_token_id)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.ids)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        vectors = self.model.get_input_embeddings()(ids)
        pictures: dict[Any, int] = {}
        places = [
            pictures.setdefault(p if not isinstance(p, Image.Image) else id(p), len(pictures))
            for query in queries
            for p in query.images
        ]
        if places:
            first: dict[int, Any] = {}
            for place, p in zip(places, (p for q in queries for p in q.images), strict=True):
                first.setdefault(place, p)
            pixels = self.pixels(list(first.values())).to(device, vectors.dtype)
            features = torch.stack(tuple(self.model.get_image_features(pixels).pooler_output))
            vectors[ids == self.cutter.image_id] = features[places].flatten(0, 1)
        return vectors, mask

    def reply(self, prompt: Document, ids: list[int], ended: bool) -> Reply:
        words = ids[:-1] if ended else ids
        text = self.llava.processor.tokenizer.decode(
            words, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Reply(text.strip(), "stop" if ended else "length", Usage(len(prompt), len(ids)))


class Chance:
    """Chooses tokens. Its numbers come from the seed and each query's content, whatever batch it is in."""

    def __init__(self, queries: Sequence[Query], decoding: Decoding) -> None:
        self.decoding = decoding
        if decoding.temperature > 0:
            self.numbers = np.stack([numbers_of(query, decoding) for query in queries])

    def choose(self, logits: Tensor, rows: Any, step: int) -> Tensor:
        """The next token of each row: [B] from [B, V]; `rows` are the batch's original row numbers."""
        if self.decoding.temperature <= 0:
            return logits.argmax(dim=-1)
        ranked, tokens = (logits / self.decoding.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        total = ranked.cumsum(dim=-1)
        nucleus = total - ranked < self.decoding.top_p  # the likeliest token is always in
        mass = (ranked * nucleus).sum(dim=-1, keepdim=True)
        drawn = torch.as_tensor(self.numbers[rows, step], dtype=total.dtype, device=logits.device).unsqueeze(
            1
        )
        place = torch.searchsorted(total, drawn * mass).clamp(max=nucleus.sum(dim=-1, keepdim=True) - 1)
        return tokens.gather(1, place).squeeze(1)


def numbers_of(query: Query, decoding: Decoding) -> Any:
    """Uniform numbers in [0, 1), one per token of the reply."""
    content = hashlib.sha256(f"{decoding.seed}\0{query.text}".encode())
    for picture in query.images:
        content.update(picture.tobytes() if isinstance(picture, Image.Image) else Path(picture).read_bytes())
    return np.random.default_rng(int.from_bytes(content.digest()[:16], "big")).random(decoding.max_new_tokens)
