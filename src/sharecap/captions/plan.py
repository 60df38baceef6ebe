"""Which requests make up a layer, and how many of them the ledger has already. Reads only; sends nothing."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharecap import artifact
from sharecap.captions.captioner import Captioner, Sampling
from sharecap.captions.keys import key_of, question
from sharecap.captions.ledger import IN_BATCH, Entry, Plain, look_up, plainly_done, read_only
from sharecap.captions.price import Budget, Price, worst_case
from sharecap.captions.prompts import Asking, Prompt
from sharecap.captions.remedy import PENDING
from sharecap.images.catalog import Catalog, Stretch
from sharecap.images.dataset import LEDGER
from sharecap.records import Image, Usage

if TYPE_CHECKING:  # it brings what reads words in pictures, which few runs need
    from sharecap.images.words import Words

PIECE = 500
"""Images whose keys are looked up in the ledger at a time."""

FEW = 50
"""Images whose requests are made at a time to be sent: the first one should leave soon."""

AGAIN = frozenset(
    {
        "blind",
        "in_flight",
        "server_error",
        "timeout",
        "dropped",
        "unreachable",
        "malformed",
        "rate_limited",
        "fatal",
    }
) | {"batch_expired", "batch_cancelled", "batch_failed", "batch_lost", "not_submitted"}
"""Failures of the way, not of the image: the next run asks again as long as the layer is not sealed."""

Find = Callable[[Sequence[bytes]], Mapping[bytes, Entry]]
PlainlyDone = Callable[[Sequence[bytes]], Sequence[Plain | None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One image to be captioned."""

    image: Image
    prompt: Prompt
    key: bytes
    max_tokens: int  # of one answer
    image_tokens: int  # bound on the prompt tokens of one image

    @property
    def bound(self) -> Usage:
        """The most tokens that one attempt can take."""
        words = self.prompt.system + self.prompt.text
        return worst_case(self.image, words, self.max_tokens, self.image_tokens)


@dataclass(frozen=True)
class Plan:
    """What is asked of whom about which images."""

    catalog: Catalog
    captioner: Captioner
    pack: Asking
    sampling: Sampling
    image_tokens: int  # bound on the prompt tokens of one image
    retry_failed: bool = False  # ask again what failed for good
    words: "Words | None" = None  # what was read in the pictures, where the pack's prompts hold it

    def config(self) -> dict[str, Any]:
        """What the layer is made with, as its manifest keeps it."""
        return {
            "captioner": self.captioner.name,
            "fingerprint": self.captioner.fingerprint,
            "preparation": self.captioner.preparation,
            "pack": f"{self.pack.name}@{self.pack.version}",
            "pack_digest": self.pack.digest,
            "sampling": artifact.plain(self.sampling),
        }

    def inputs(self) -> dict[str, str]:
        """What the layer is made from."""
        return {"catalog": self.catalog.digest} | ({"words": self.words.reader} if self.words else {})

    def jobs(self) -> Iterator[list[Job]]:
        """Every request of the layer, in the catalog's order, in lists of at most `PIECE`."""
        return self.jobs_of(iter(self.catalog))

    def jobs_of(
        self, images: Iterator[Image], keys: Iterator[bytes] | None = None, most: int = PIECE
    ) -> Iterator[list[Job]]:
        """The requests for some images, at `most` so many in a list; `keys` are theirs, if known."""
        while piece := list(islice(images, most)):
            prompts = self.prompts(piece)
            named = map(self.key, piece, prompts) if keys is None else islice(keys, len(piece))
            yield list(map(self.job, piece, prompts, named))

    def prompts(self, images: Sequence[Image]) -> list[Prompt]:
        """What is asked about each of some images."""
        words = self.words.of(images) if self.words else {}
        return [self.pack.render(image, words.get(image.id, "")) for image in images]

    def job(self, image: Image, prompt: Prompt, key: bytes) -> Job:
        """The request for one image."""
        return Job(image, prompt, key, self.sampling.max_tokens, self.image_tokens)

    def key(self, image: Image, prompt: Prompt) -> bytes:
        """What names the request."""
        return key_of(image.id, self._question(prompt))

    def keys(self, stretch: Stretch) -> list[bytes]:
        """What names each request of a stretch."""
        ids, sources = stretch.column("id"), stretch.column("source")
        prompts = {source: self.pack.of_source(source) for source in set(sources)}
        asked = {source: self._question(prompt) for source, prompt in prompts.items() if prompt}
        if len(asked) == len(prompts):
            return [key_of(image, asked[source]) for image, source in zip(ids, sources, strict=True)]
        return [job.key for jobs in self.jobs_of(stretch.images()) for job in jobs]

    def _question(self, prompt: Prompt) -> bytes:
        model = self.captioner
        return question(model.preparation, prompt.text, model.fingerprint, self.sampling)

    def open_jobs(self, found: "Survey") -> Iterator[Job]:
        """The requests that `found` saw still to be sent, in the catalog's order."""
        return chain.from_iterable(self.jobs_of(self.catalog.chosen(found.open_at), most=FEW))

    def is_open(self, entry: Entry | None) -> bool:
        """The request is still to be sent."""
        if entry is None:
            return True
        if entry.state == "sent":  # what is in a batch will be answered there
            return entry.error_kind != IN_BATCH
        kind = entry.error_kind or ""
        again = self.retry_failed or kind in AGAIN or kind.startswith(("image_", PENDING))
        return entry.state == "failed" and again


@dataclass
class Survey:
    """What the ledger holds of a plan's requests."""

    images: int = 0
    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # kind -> requests that ended without a caption
    open: int = 0  # still to be sent; some of them failed before
    open_at: bytearray = field(default_factory=bytearray)  # per image of the catalog: 1 if it is open
    unsettled: int = 0  # never sent, or sent without an outcome: a layer with such can't be sealed
    cost_usd: float = 0.0  # of answers
    doubtful: int = 0  # attempts that may be billed though no answer was seen
    doubtful_usd: float = 0.0  # their worst case
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: Price | None = None  # for what was answered while none was known
    usd_by_source: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    remedies: Counter[str] = field(default_factory=Counter)  # "KIND:REMEDY" -> requests; read with the texts
    rescued: int = 0  # captions that came of remedies

    def count_plain(self, sources: Sequence[str], requests: Sequence[Plain | None]) -> None:
        """Count those requests that are done without doubts, given the source of each one's image."""
        usd_by_source, done, usd, prompt, completion = self.usd_by_source, 0, 0.0, 0, 0
        for source, request in zip(sources, requests, strict=True):
            if request:
                _, cost_usd, prompt_tokens, completion_tokens = request
                done += 1
                prompt += prompt_tokens
                completion += completion_tokens
                if cost_usd:
                    usd += cost_usd
                    usd_by_source[source] += cost_usd
        self.images += done
        self.done += done
        self.cost_usd += usd
        self.prompt_tokens += prompt
        self.completion_tokens += completion

    def count_new(self, requests: int) -> None:
        """Count so many requests that were never sent."""
        self.images += requests
        self.unsettled += requests
        self.open += requests

    def count(self, plan: Plan, job: Job, entry: Entry | None) -> bool:
        """Count one request, given what the ledger says of it; whether it is still to be sent."""
        self.images += 1
        if entry is None:
            self.unsettled += 1
        else:
            cost, doubtful_usd = self._priced(job, entry)
            self.cost_usd += cost
            self.doubtful += entry.doubtful
            self.doubtful_usd += doubtful_usd
            self.usd_by_source[job.image.source] += cost + doubtful_usd
            self.remedies.update((entry.steps or "").split())
            self.prompt_tokens += entry.prompt_tokens
            self.completion_tokens += entry.completion_tokens
            if entry.state == "done":
                self.done += 1
                self.rescued += bool(entry.steps)
            elif entry.state == "failed":
                self.failures[entry.error_kind or "error"] += 1
            else:
                self.unsettled += 1
                self.doubtful += 1
                self.doubtful_usd += entry.reserved_usd or 0.0
                self.usd_by_source[job.image.source] += entry.reserved_usd or 0.0
        is_open = plan.is_open(entry)
        self.open += is_open
        return is_open

    def _priced(self, job: Job, entry: Entry) -> tuple[float, float]:
        """(USD of answers, USD of doubts); what had no price then is priced by its tokens, or at worst."""
        cost, doubtful_usd = entry.cost_usd, entry.doubtful_usd
        if self.price is None:
            return cost or 0.0, doubtful_usd
        if cost is None and (used := Usage(entry.prompt_tokens, entry.completion_tokens)) != Usage():
            cost = self.price.of(used)
        elif cost is None and entry.finish_reason is not None:  # it was answered, and no usage reported
            cost = self.price.of(job.bound)
        if entry.doubtful and not doubtful_usd:
            doubtful_usd = entry.doubtful * self.price.of(job.bound)
        return cost or 0.0, doubtful_usd

    def spread(self, most: int) -> "Survey":
        """The same, with only so many requests still open, taken from all over the catalog."""
        open_at = [i for i, is_open in enumerate(self.open_at) if is_open]
        most = min(most, len(open_at))
        chosen = bytearray(len(self.open_at))
        for n in range(most):
            chosen[open_at[(2 * n + 1) * len(open_at) // (2 * most)]] = 1
        return replace(self, open_at=chosen, open=most)


class Trail:
    """The first settled requests of each source and the newest of all, by which the gates are rebuilt."""

    def __init__(self, first: int = 200, newest: int = 5_000, sources: int = 64) -> None:
        self._most_first, self._most_sources = first, sources
        self._first: dict[str, list[bytes]] = {}
        self._newest: deque[tuple[str, bytes]] = deque(maxlen=newest)

    def add(self, source: str, key: bytes) -> None:
        """Take in the next one in the catalog's order, which is about the order of the answers."""
        first = self._first.get(source)
        if first is None and len(self._first) < self._most_sources:
            first = self._first[source] = []
        if first is not None and len(first) < self._most_first:
            first.append(key)
        else:
            self._newest.append((source, key))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for source, keys in self._first.items():
            yield from ((source, key) for key in keys)
        yield from self._newest


def survey(
    plan: Plan,
    find: Find,
    plainly_done: PlainlyDone,
    *,
    price: Price | None = None,
    trail: Trail | None = None,
) -> Survey:
    """Count what the ledger has of the plan's requests. Holds one byte per image.

    `price` is for answers that had none when they came; `trail` is told which requests are settled.
    What is plainly done, or was never sent, is counted without so much as an object for its image: a first
    run, and a restart after a million answers, are soon sending. Only the others are looked at one by one.
    """
    total = Survey(price=price)
    for stretch in plan.catalog.stretches():
        sources, keys = stretch.column("source"), plan.keys(stretch)
        requests = plainly_done(keys)
        if price:  # what had none then is looked at
            requests = [request if request and request[1] is not None else None for request in requests]
        total.count_plain(sources, requests)
        others = [at for at, request in enumerate(requests) if request is None]
        entries = dict[bytes, Entry]()
        for begin in range(0, len(others), PIECE):
            entries.update(find([keys[at] for at in others[begin : begin + PIECE]]))
        sent = [at for at in others if keys[at] in entries]
        total.count_new(len(others) - len(sent))
        open_at = bytearray(request is None for request in requests)
        unsettled = {keys[at] for at in others if keys[at] not in entries}
        for at, job in zip(sent, _jobs_at(plan, stretch, sent, keys), strict=True):
            entry = entries[job.key]
            open_at[at] = total.count(plan, job, entry)
            if entry.state not in ("done", "failed"):
                unsettled.add(job.key)
        total.open_at.extend(open_at)
        if trail is not None:
            for source, key in zip(sources, keys, strict=True):
                if key not in unsettled:
                    trail.add(source, key)
    return total


def _jobs_at(plan: Plan, stretch: Stretch, places: Sequence[int], keys: Sequence[bytes]) -> Iterator[Job]:
    """The requests at some places of the stretch."""
    if places:
        named = (keys[place] for place in places)
        yield from chain.from_iterable(plan.jobs_of(stretch.images(places), named))


@dataclass(frozen=True)
class Forecast:
    """What a run would do (`--dry-run`)."""

    layer: str
    images: int
    kept: int  # settled by earlier runs
    requests: int
    worst_usd: float | None  # every request at its bound, one attempt each; None without a price
    prompt: str  # the first one that would be sent


def glance(plan: Plan, price: Price | None = None, trail: Trail | None = None) -> Survey:
    """The survey of a plan that is not being carried out. Sends and writes nothing."""
    path = plan.catalog.dataset / LEDGER
    db = read_only(path)
    try:
        return survey(
            plan,
            lambda keys: look_up(db, keys, path, texts=False) if db else {},
            lambda keys: plainly_done(db, keys, path) if db else [None] * len(keys),
            price=price,
            trail=trail,
        )
    finally:
        if db:
            db.close()


def forecast(plan: Plan, layer: str, price: Price | None) -> Forecast:
    """What a run of `plan` would send, and what that can cost at most. Sends and writes nothing."""
    found = glance(plan)
    prompt, prompt_tokens, completion_tokens = "", 0, 0
    for job in plan.open_jobs(found):
        prompt, bound = prompt or job.prompt.text, job.bound
        prompt_tokens += bound.prompt_tokens
        completion_tokens += bound.completion_tokens
    worst = Budget(price).worst(Usage(prompt_tokens, completion_tokens))
    return Forecast(layer, found.images, found.images - found.open, found.open, worst, prompt)


def default_layer(captioner: Captioner, pack: str) -> str:
    """A layer's name from the model's and the pack's, fit for a directory."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{captioner.name}-{Path(pack).stem}")
    return words.strip("-._")[:100] or "captions"
