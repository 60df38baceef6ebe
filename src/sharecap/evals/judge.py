"""A judge behind an endpoint grades what no rule can score: LLaVA-Bench and MM-Vet (paper, Table 3).

Requests go the way of captions: booked before they leave, retried, under a budget, and never paid for twice.
What the judge said is kept as it came. It must never make up a grade: an answer without one stays without.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap.captions.captioner import Answer, Sampling
from sharecap.captions.courier import DEFAULT_PATIENCE, Courier, Patience
from sharecap.captions.gates import GATES, Gates
from sharecap.captions.keys import words_key
from sharecap.captions.ledger import Entry, Ledger
from sharecap.captions.pace import Pace
from sharecap.captions.plan import PIECE, Job
from sharecap.captions.price import Budget, Price, price_of
from sharecap.captions.prompts import Prompt
from sharecap.captions.run import drive
from sharecap.captions.teachers.endpoint import Endpoint
from sharecap.captions.teachers.open import open_endpoint
from sharecap.errors import SharecapError
from sharecap.evals.task import Judging, Record, Sample, Task, judged
from sharecap.images.dataset import held
from sharecap.images.progress import Progress
from sharecap.records import NO_IMAGE

LEDGER = "judge.sqlite"
"""Beside a run's answers: every request to the judge, its answer and its cost."""

MARGIN_BYTES = 4_000_000
"""Free disk space below which nothing more is sent."""

Item = tuple[Task, Sample, Record]
"""An answer with the question that it was given to."""


@dataclass(frozen=True)
class Judge:
    """Who grades, and what that may cost."""

    endpoint: Endpoint
    price: Price | None = None  # None: not known, and then there is no budget
    budget_usd: float | None = None  # what all reviews of a run may cost
    patience: Patience = field(default=DEFAULT_PATIENCE)

    @property
    def name(self) -> str:
        """The model's name, which stands beside every grade."""
        return self.endpoint.name


@dataclass(frozen=True)
class Bill:
    """What became of the reviews."""

    reviews: int  # that can be read
    missing: Mapping[str, int]  # kind of failure -> answers without a review
    usd: float | None  # what the judge has cost, at worst case where that isn't known; None: no price


class UnreviewedError(SharecapError):
    """Some answers have no review, so that a score is withheld; `results` has the others."""

    def __init__(self, judge: str, bill: Bill) -> None:
        number = sum(bill.missing.values())
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in bill.missing.items())
        what = f"{number:,} of {number + bill.reviews:,} answers have no review ({kinds})"
        super().__init__(what, where=judge, todo="the same command asks for them again")
        self.results: Mapping[str, Any] = {}


def open_judge(
    spec: str, *, prices: Sequence[str] = (), budget_usd: float | None = None, concurrency: int = 8
) -> Judge:
    """The judge that `http(s)://…/v1#MODEL` or `openai:MODEL` names; `UsageError` if it names none.

    `prices` are "[MODEL=]IN,OUT" in USD per million tokens, before sharecap's own table.
    """
    endpoint = open_endpoint(spec, "judge answers", concurrency=concurrency)
    price = price_of(endpoint.name, prices)
    Budget(price, budget_usd)  # a wall without a price is refused before anything starts
    return Judge(endpoint, price, budget_usd)


def review(
    judge: Judge, items: Sequence[Item], place: Path, *, draw: str = "", progress: Progress | None = None
) -> tuple[list[Record], Bill]:
    """The records of judged tasks with the judge's words and scores, in their order, and what it came to.

    The ledger lies in `place`. `draw` names a repetition: equal ones are asked once, whatever happens.
    Raises what a captioning run raises: at the budget, on Ctrl-C, when the judge stays away.
    """
    keys = [_key(judge, task.judging, sample, record, draw) for task, sample, record in items if task.judging]
    assert len(keys) == len(items), "only judged tasks"
    budget, progress = Budget(judge.price, judge.budget_usd), progress or Progress("reviewed", quiet=True)
    with held(place), Ledger(place / LEDGER) as ledger:
        found = _entries(ledger, keys)
        budget.spent_before({}, sum(ledger.spent_on(name)[0] for name in {_booked_as(t) for t, *_ in items}))
        progress.total = len(set(keys))
        progress.done = sum(entry.state == "done" for entry in found.values())
        with progress.shown():
            for task in {task.name: task for task, *_ in items}.values():
                jobs = {
                    key: _job(task, sample, record, key)
                    for key, (of, sample, record) in zip(keys, items, strict=True)
                    if of is task and (key not in found or found[key].state != "done")
                }
                if jobs:
                    _ask(judge, task, list(jobs.values()), ledger, budget=budget, progress=progress)
        found = _entries(ledger, keys)
    records, missing = [], Counter[str]()
    for key, (task, sample, record) in zip(keys, items, strict=True):
        entry = found[key]
        if entry.state == "done":
            records.append(judged(task, sample, record, judge.name, entry.text or ""))
        else:
            missing[entry.error_kind or "unknown"] += 1
            records.append(record)
    usd = budget.spent_usd if judge.price else None
    return records, Bill(len(records) - missing.total(), dict(missing), usd)


def _ask(
    judge: Judge,
    task: Task,
    jobs: Sequence[Job],
    ledger: Ledger,
    *,
    budget: Budget,
    progress: Progress,
) -> None:
    """Send one task's reviews, and book what comes back."""
    judging = task.judging
    assert judging is not None

    def flaw(answer: Answer, _: str) -> str | None:
        if answer.refusal or answer.finish_reason == "content_filter":
            return "refusal"
        return None if task.parse(task.samples[0], answer.text.strip()) is not None else "unreadable"

    async def engine(courier: Courier) -> None:
        ahead = iter(jobs)
        workers = [asyncio.create_task(courier.work(ahead)) for _ in range(judge.endpoint.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    drive(
        engine,
        lambda: Courier(
            captioner=judge.endpoint,
            called="the judge",
            ledger=ledger,
            budget=budget,
            sampling=_sampling(judging),
            patience=judge.patience,
            gates=Gates(accepted=frozenset(GATES)),  # grades are alike, and short
            progress=progress,
            rng=random.Random(),
            disk=ledger.path.parent,
            margin_bytes=MARGIN_BYTES,
            pace=Pace(judge.endpoint.concurrency, time.monotonic),
            flaw=flaw,
            look_back=True,
        ),
    )


def _job(task: Task, sample: Sample, record: Record, key: bytes) -> Job:
    assert task.judging is not None
    prompt = Prompt(_booked_as(task), task.judging.ask(sample, record.raw), system=task.judging.system)
    return Job(NO_IMAGE, prompt, key, task.judging.max_tokens, image_tokens=0)


def _key(judge: Judge, judging: Judging, sample: Sample, record: Record, draw: str) -> bytes:
    words = judging.ask(sample, record.raw)
    return words_key(words, judging.system, judge.endpoint.fingerprint, _sampling(judging), draw)


def _sampling(judging: Judging) -> Sampling:
    return Sampling(max_tokens=judging.max_tokens, temperature=judging.temperature)


def _booked_as(task: Task) -> str:
    return f"judge/{task.name}"


def _entries(ledger: Ledger, keys: Sequence[bytes]) -> dict[bytes, Entry]:
    found: dict[bytes, Entry] = {}
    for at in range(0, len(keys), PIECE):
        found |= ledger.look_up(keys[at : at + PIECE])
    return found
