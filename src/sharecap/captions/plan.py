"""Which requests make up a layer, and how many of them the ledger has already. Reads only; sends nothing."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.captions.captioner import Captioner, Sampling
from sharecap.captions.keys import request_key
from sharecap.captions.ledger import IN_BATCH, Entry, Tally, all_done, look_up, read_only
from sharecap.captions.price import Budget, Price, worst_case
from sharecap.captions.prompts import Pack, Prompt
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import LEDGER
from sharecap.records import Image, Usage

PIECE = 500
"""Images whose keys are looked up in the ledger at a time."""

AGAIN = frozenset(
    {"in_flight", "server_error", "timeout", "dropped", "unreachable", "malformed", "rate_limited", "fatal"}
) | {"batch_expired", "batch_cancelled", "batch_failed", "batch_lost", "not_submitted"}
"""Failures of the way, not of the image: the next run asks again as long as the layer is not sealed."""

Find = Callable[[Sequence[bytes]], Mapping[bytes, Entry]]
AllDone = Callable[[Sequence[bytes]], Tally | None]


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
        return worst_case(self.image, self.prompt.text, self.max_tokens, self.image_tokens)


@dataclass(frozen=True)
class Plan:
    """What is asked of whom about which images."""

    catalog: Catalog
    captioner: Captioner
    pack: Pack
    sampling: Sampling
    image_tokens: int  # bound on the prompt tokens of one image
    retry_failed: bool = False  # ask again what failed for good

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
        return {"catalog": self.catalog.digest}

    def jobs(self) -> Iterator[list[Job]]:
        """Every request of the layer, in the catalog's order, in lists of at most `PIECE`."""
        images = iter(self.catalog)
        while piece := list(islice(images, PIECE)):
            yield list(map(self.job, piece))

    def job(self, image: Image) -> Job:
        """The request for one image."""
        prompt = self.pack.render(image)
        return Job(image, prompt, self.key(image, prompt), self.sampling.max_tokens, self.image_tokens)

    def key(self, image: Image, prompt: Prompt) -> bytes:
        """What names the request."""
        model = self.captioner
        return request_key(image.id, model.preparation, prompt.text, model.fingerprint, self.sampling)

    def open_jobs(self, found: "Survey") -> Iterator[Job]:
        """The requests that `found` saw still to be sent, in the catalog's order."""
        return map(self.job, self.catalog.chosen(found.open_at))

    def is_open(self, entry: Entry | None) -> bool:
        """The request is still to be sent."""
        if entry is None:
            return True
        if entry.state == "sent":  # what is in a batch will be answered there
            return entry.error_kind != IN_BATCH
        kind = entry.error_kind or ""
        again = self.retry_failed or kind in AGAIN or kind.startswith("image_")
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
    open_prompt_tokens: int = 0  # the most that the open requests can use, if each takes one attempt
    open_completion_tokens: int = 0
    cost_usd: float = 0.0  # of answers
    doubtful: int = 0  # attempts that may be billed though no answer was seen
    doubtful_usd: float = 0.0  # their worst case
    prompt_tokens: int = 0
    completion_tokens: int = 0
    example: str = ""  # the first prompt that is still to be sent

    def count_done(self, images: int, tally: Tally) -> None:
        """Count so many requests that are all done."""
        self.images += images
        self.done += images
        self.open_at.extend(bytes(images))
        self.cost_usd += tally.cost_usd
        self.doubtful += tally.doubtful
        self.doubtful_usd += tally.doubtful_usd
        self.prompt_tokens += tally.prompt_tokens
        self.completion_tokens += tally.completion_tokens

    def count(self, plan: Plan, job: Job, entry: Entry | None) -> None:
        """Count one request, given what the ledger says of it."""
        self.images += 1
        if entry is None:
            self.unsettled += 1
        else:
            self.cost_usd += entry.cost_usd or 0.0
            self.doubtful += entry.doubtful
            self.doubtful_usd += entry.doubtful_usd
            self.prompt_tokens += entry.prompt_tokens
            self.completion_tokens += entry.completion_tokens
            if entry.state == "done":
                self.done += 1
            elif entry.state == "failed":
                self.failures[entry.error_kind or "error"] += 1
            else:
                self.unsettled += 1
                self.doubtful += 1
                self.doubtful_usd += entry.reserved_usd or 0.0
        is_open = plan.is_open(entry)
        self.open_at.append(is_open)
        if is_open:
            self.open += 1
            bound = job.bound
            self.open_prompt_tokens += bound.prompt_tokens
            self.open_completion_tokens += bound.completion_tokens
            self.example = self.example or job.prompt.text

    @property
    def open_worst(self) -> Usage:
        """The most that the open requests can use, if each takes one attempt."""
        return Usage(self.open_prompt_tokens, self.open_completion_tokens)


def survey(plan: Plan, find: Find, all_done: AllDone) -> Survey:
    """Count what the ledger has of the plan's requests. Holds one byte per image.

    Pieces that are all done are summed up where they lie: a restart after a million answers is soon sending.
    """
    total, images = Survey(), iter(plan.catalog)
    while piece := list(islice(images, PIECE)):
        keys = [plan.key(image, plan.pack.render(image)) for image in piece]
        if tally := all_done(keys):
            total.count_done(len(keys), tally)
            continue
        entries = find(keys)
        for image, key in zip(piece, keys, strict=True):
            total.count(plan, plan.job(image), entries.get(key))
    return total


@dataclass(frozen=True)
class Forecast:
    """What a run would do (`--dry-run`)."""

    layer: str
    images: int
    kept: int  # settled by earlier runs
    requests: int
    worst_usd: float | None  # every request at its bound, one attempt each; None without a price
    prompt: str  # the first one that would be sent


def forecast(plan: Plan, layer: str, price: Price | None) -> Forecast:
    """What a run of `plan` would send, and what that can cost at most. Sends and writes nothing."""
    path = plan.catalog.dataset / LEDGER
    db = read_only(path)
    try:
        found = survey(
            plan,
            lambda keys: look_up(db, keys, path, texts=False) if db else {},
            lambda keys: all_done(db, keys, path) if db else None,
        )
    finally:
        if db:
            db.close()
    worst = Budget(price).worst(found.open_worst)
    return Forecast(layer, found.images, found.images - found.open, found.open, worst, found.example)


def default_layer(captioner: Captioner, pack: str) -> str:
    """A layer's name from the model's and the pack's, fit for a directory."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{captioner.name}-{Path(pack).stem}")
    return words.strip("-._")[:100] or "captions"
