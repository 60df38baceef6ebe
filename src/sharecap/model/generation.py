"""Answers in batches: pictures encoded once, finished rows replaced by new ones at once.

Its own loop, since transformers' `generate` works on rows that have ended until the longest one ends too.
A reply must never depend on its neighbours in the batch or their order: to the last bit where the generator
answers each as if it were alone, but for rounding where it doesn't.

Shape letters: B rows, N rows of a cohort, P prompt tokens, C width, V vocabulary.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, DynamicCache

from sharecap.chat.templates import question, template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.errors import SharecapError
from sharecap.model import qwen
from sharecap.model.build import Llava
from sharecap.model.cohorts import Cohort, Slab, alike, write
from sharecap.model.folder import listed, load
from sharecap.model.loops import Loops
from sharecap.model.pixels import Patches, Pixels, framed
from sharecap.records import Usage

REFILL = 0.25
"""Prompts that are read together wait until this share of the rows is free."""
READ = 8
"""Prompts of one length that are read together where a reply may not depend on its neighbours."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen."""

    max_new_tokens: int = 256  # per reply, as far as the model has places for them
    temperature: float = 0.0  # 0: always the likeliest token
    top_p: float = 1.0  # sample among the likeliest tokens of this total probability
    seed: int = 0  # of the sampling
    leaves_loops: bool = False  # a reply that goes round in circles is led out of them (loops.py)
    chances: bool = False  # replies tell how probable their tokens were


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
    chances: tuple[tuple[int, float], ...] = ()  # of each token: where in the text it ends, its probability


class Generator:
    """A model that answers queries. One thread at a time.

    With `alone`, prompts are read and steps are made with a fixed number of rows, idle ones among them, so
    that a reply has the same bits whatever is asked beside it. (A step takes fewer where `cohorts.alike`
    finds that it gets the same bits.) Without, as many rows as there are prompts: quicker where replies are
    a few words.
    """

    def __init__(self, llava: Llava, batch_size: int = 64, *, alone: bool = True) -> None:
        self.llava, self.batch_size, self.alone = llava, batch_size, alone
        self.model: Any = llava.model.eval()  # type: ignore[no-untyped-call]
        self.pixels = self.prepared(llava.processor.image_processor)
        self.pads: bool | None = None  # None: as the model's own processor has it
        self.heard: Callable[[list[list[int]]], None] | None = None  # hears the replies' tokens as they grow
        self.alike: dict[int, list[int]] = {}  # by batch size: with how many rows a step gives the same bits
        self.asked: dict[str, str | Path | Image.Image] = {}  # pictures of the queries in work, by name
        self.reads = int(llava.config.text_config.max_position_embeddings)  # tokens, the reply's among them
        places = llava.image_tokens
        self.cutter = Cutter(
            llava.tokenizer,
            template_named(llava.template, llava.processor),
            places if isinstance(places, int) else lambda name: places(self.asked[name]),
        )
        # Like `generate`: a model whose template ends an answer with one token may have been taught another.
        self.ends = frozenset(listed(llava.model.generation_config.eos_token_id))

    @classmethod
    def load(
        cls, directory: Path, batch_size: int = 64, *, alone: bool = True, threads: int | None = None
    ) -> Self:
        """From a model directory, onto the GPU if there is one; `SharecapError` if it isn't a model's.

        There it computes in half precision: as the weights are stored, else in bfloat16. `threads` is how
        many cores this process takes from now on.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        llava = load(directory)
        if torch.cuda.is_available():
            model: Any = llava.model
            model.to("cuda", torch.bfloat16 if model.dtype == torch.float32 else model.dtype)
        return cls(llava, batch_size, alone=alone)

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

        `ImageError` names a picture that can't be read, `SharecapError` one without room for an answer.
        """
        prompts = self.prompts(queries)
        decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, self.reads))
        order = sorted(range(len(queries)), key=lambda i: len(prompts[i]))
        done = self.within_memory([queries[i] for i in order], [prompts[i] for i in order], decoding)
        replies = dict(zip(order, done, strict=True))
        return [replies[i] for i in range(len(queries))]

    def outcomes(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | SharecapError]:
        """The same, but a query that can't be put has its error in its place, and all others are answered."""
        try:
            return [*self.generate(queries, decoding)]
        except SharecapError:
            refused = [self.refused(query) for query in queries]
            if not any(refused):  # it is the model, not what it was asked
                raise
        put = [query for query, why in zip(queries, refused, strict=True) if why is None]
        replies = iter(self.generate(put, decoding))
        return [why or next(replies) for why in refused]

    def refused(self, query: Query) -> SharecapError | None:
        """Why a query can't be put: it is cut like all others, but alone. None: it can."""
        try:
            self.prompts([query])
        except SharecapError as why:
            return why
        return None

    def prompts(self, queries: Sequence[Query]) -> list[Document]:
        """Each query as tokens; `SharecapError` names the first that can't be put to this model."""
        self.asked = {f"{i}.{j}": p for i, query in enumerate(queries) for j, p in enumerate(query.images)}
        prompts = self.cutter.documents(
            question([f"{i}.{j}" for j in range(len(query.images))], query.text, str(i))
            for i, query in enumerate(queries)
        )
        for prompt in prompts:
            if len(prompt) >= self.reads:
                what = f"{len(prompt):,} tokens where the model has {self.reads:,} places, for the answer too"
                todo = "shorten it, or use smaller pictures"
                raise SharecapError(what, where=f"query {prompt.id}", todo=todo)
        return prompts

    def within_memory(
        self, queries: Sequence[Query], prompts: Sequence[Document], decoding: Decoding
    ) -> list[Reply]:
        """The same with half as many rows, from now on, for as long as the GPU's memory does not do."""
        while True:
            try:
                return self.answered(queries, prompts, decoding)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    todo = "use a GPU with more memory, a smaller model, or ask for fewer tokens"
                    raise SharecapError("not enough memory for one reply at a time", todo=todo) from None
            self.batch_size //= 2
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def answered(
        self, queries: Sequence[Query], prompts: Sequence[Document], decoding: Decoding
    ) -> list[Reply]:
        """Replies in order: what is free reads the next prompts, then each row in work gets a token."""
        choice = Choice(queries, decoding)
        most = [
            min(
                query.max_new_tokens or decoding.max_new_tokens,
                decoding.max_new_tokens,
                self.reads - len(prompt),
            )
            for query, prompt in zip(queries, prompts, strict=True)
        ]
        said: list[list[int]] = [[] for _ in prompts]
        waiting, cohorts = deque(range(len(prompts))), list[Cohort]()

        def hear(cohort: Cohort, tokens: list[int]) -> None:
            for row in reversed(range(len(cohort))):  # the last first: dropping moves only what is done with
                owner = cohort.owners[row]
                said[owner].append(tokens[row])
                if self.end(said[owner]) or len(said[owner]) >= most[owner]:
                    cohort.drop(row)

        while True:
            while size := self.room(waiting, prompts, sum(map(len, cohorts))):
                taken = [waiting.popleft() for _ in range(size)]
                cohort, logits = self.read([queries[i] for i in taken], [prompts[i] for i in taken], taken)
                cohort.tokens = choice.of(logits, taken, [0] * size)
                hear(cohort, cohort.tokens.tolist())
                cohorts += [cohort] if len(cohort) else []
            if not cohorts:
                break
            hidden = write(self.model, cohorts, self.rows(sum(map(len, cohorts))))
            owners = [owner for cohort in cohorts for owner in cohort.owners]
            logits = self.model.lm_head(hidden).float()[: len(owners)]
            tokens = choice.of(logits, owners, [len(said[owner]) for owner in owners])
            for cohort, own in zip(cohorts, torch.split(tokens, [len(c) for c in cohorts]), strict=True):
                cohort.tokens = own.clone()
                hear(cohort, own.tolist())
            cohorts = [cohort for cohort in cohorts if len(cohort)]
            if self.heard is not None:
                self.heard(said)
        return [
            self.reply(prompt, ids, chances if decoding.chances else ())
            for prompt, ids, chances in zip(prompts, said, choice.chances, strict=True)
        ]

    def rows(self, busy: int) -> int:
        """How many rows the next step is made with, idle ones among them; 0: those in work."""
        if not self.alone:
            return 0
        if self.batch_size not in self.alike:
            self.alike[self.batch_size] = alike(self.model, self.batch_size)
        return next(rows for rows in self.alike[self.batch_size] if rows >= busy)

    def room(self, waiting: Sequence[int], prompts: Sequence[Document], busy: int) -> int:
        """How many prompts to read now."""
        free = min(self.batch_size - busy, len(waiting))
        if not self.alone:
            return free if free >= REFILL * self.batch_size or not busy else 0
        size = min(READ, self.batch_size)
        if self.batch_size - busy < size or not waiting:
            return 0
        same = [len(prompts[i]) == len(prompts[waiting[0]]) for i in islice(waiting, size)]
        return sum(same)  # prompts come in the order of their lengths

    def read(
        self, queries: Sequence[Query], prompts: Sequence[Document], owners: Sequence[int]
    ) -> tuple[Cohort, Tensor]:
        """Prompts as a cohort without its first tokens, and the logits [N, V] of these."""
        fill = min(READ, self.batch_size) - len(prompts) if self.alone else 0
        hidden, mask, positions, extra = self.embed(
            [*queries, *[queries[-1]] * fill], [*prompts, *[prompts[-1]] * fill]
        )
        if not isinstance(self.llava.image_tokens, int) and positions.dim() == 2:
            positions = positions.expand(3, -1, -1)  # Qwen's words without a picture, beside others with
        cache = DynamicCache()
        slabs = [Slab() for _ in range(self.model.model.language_model.config.num_hidden_layers)]
        cache.layers = list(slabs)
        padded = not bool(mask.all())
        out = self.model.model.language_model(
            inputs_embeds=hidden,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).last_hidden_state[:, -1]
        logits = self.model.lm_head(out).float()
        cohort = Cohort(
            [*owners, *[owners[-1]] * fill],
            logits.argmax(-1),
            positions[..., -1:].clone(),
            slabs,
            mask.bool() if padded else None,
        )
        for row in reversed(range(len(owners), len(owners) + fill)):
            cohort.drop(row)
        return cohort, logits[: len(owners)]

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
        names: list[Any] = [id(p) if isinstance(p, Image.Image) else str(p) for p in pictures]
        if self.alone:  # a picture that is asked about twice would make the tower's batch a smaller one
            names = list(range(len(pictures)))
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

    def end(self, ids: Sequence[int]) -> int:
        """How many tokens at the end of `ids` end the reply: the template's, or one of the model's."""
        ending = self.cutter.ending
        if tuple(ids[-len(ending) :]) == ending:
            return len(ending)
        return int(bool(ids) and ids[-1] in self.ends)

    def reply(self, prompt: Document, ids: list[int], chances: Sequence[float]) -> Reply:
        end = self.end(ids)
        words = ids[: len(ids) - end]
        text = self.text(words)
        reason = "stop" if end else "length"
        ahead = len(text) - len(text.lstrip())
        # A piece of a letter in several bytes shows as one sign: no end goes beyond the text's.
        ends = (
            min(len(text.strip()), max(0, len(self.text(words[: i + 1])) - ahead)) for i in range(len(words))
        )
        told = tuple(zip(ends, chances, strict=False)) if chances else ()
        return Reply(text.strip(), reason, Usage(len(prompt), len(ids)), told)

    def text(self, ids: Sequence[int]) -> str:
        text = self.llava.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text


def cores() -> int:
    """How many cores replies are written on in this process; 1 where a GPU writes them."""
    return 1 if torch.cuda.is_available() else torch.get_num_threads()


class Choice:
    """Chooses tokens. Its random numbers come from the seed and each query's content, whatever its batch."""

    def __init__(self, queries: Sequence[Query], decoding: Decoding) -> None:
        self.decoding, self.queries = decoding, queries
        self.chances: list[list[float]] = [
            [] for _ in queries
        ]  # of the tokens chosen, where they are asked for
        self.loops = Loops(len(queries), decoding.max_new_tokens) if decoding.leaves_loops else None
        if decoding.temperature > 0:
            self.numbers = np.stack([numbers_of(query, decoding) for query in queries])

    def of(self, logits: Tensor, queries: Sequence[int], places: Sequence[int]) -> Tensor:
        """The token of each row [B] from logits [B, V], given its query and the place in the reply."""
        open_ = logits if self.loops is None else self.loops.left(logits, queries, places)
        tokens = self.drawn(open_, queries, places)
        if self.loops is not None or self.decoding.chances:
            sure = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)).exp().cpu().numpy()
            for query, chance in zip(queries, sure.tolist(), strict=True):
                self.chances[query].append(chance)
            if self.loops is not None:
                self.loops.hear(queries, places, tokens.cpu().numpy(), sure)
        return tokens

    def drawn(self, logits: Tensor, queries: Sequence[int], places: Sequence[int]) -> Tensor:
        """The likeliest token, or by the row's own random number one of the nucleus."""
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
