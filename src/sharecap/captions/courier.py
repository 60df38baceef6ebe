"""The life of one captioning request: reserve, book as sent, send, judge, book the outcome, perhaps again.

Every attempt is on disk as sent before it leaves, and every answer before its worker takes the next request.
A failure's class decides what happens: wait, ask again, give up on the image, or stop the run.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharecap.captions.captioner import (
    Answer,
    BusyError,
    Captioner,
    FatalError,
    RejectedError,
    Request,
    Sampling,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.ledger import Ledger
from sharecap.captions.pace import Pace, Ticket
from sharecap.captions.plan import Job
from sharecap.captions.price import Budget
from sharecap.captions.verdict import RESAMPLED, verdict
from sharecap.errors import SharecapError, Stopped
from sharecap.images.dataset import free_bytes
from sharecap.images.decode import ImageError
from sharecap.images.place import place_of
from sharecap.images.progress import Progress
from sharecap.records import Usage


@dataclass(frozen=True)
class Patience:
    """How long to go on asking."""

    tries: int = 6  # attempts of one request that a failing server gets
    busy_tries: int = 30  # attempts of one request that a server gets which says "too many requests"
    redraws: int = 2  # further draws after an empty, looping or echoing answer
    base_s: float = 0.5  # first wait; each further one is twice as long
    cap_s: float = 60.0  # longest wait of ours
    retry_after_cap_s: float = 900.0  # longest wait that the server may ask for
    dead_after: int = 5  # requests given up in a row, none answered between, after which the run stops


@dataclass(frozen=True)
class Gate:
    """When to stop because the answers are no captions."""

    after: int = 20  # answers before the first look
    share: float = 0.5  # of the answers so far, or of the last `window`; more failures than this stop the run
    window: int = 100  # answers


DEFAULT_PATIENCE, DEFAULT_GATE = Patience(), Gate()

LOOK_EVERY = 8
"""Requests between looks at the disk's free space."""


@dataclass
class Courier:
    """Carries requests to a captioner and books what becomes of them. One per run, inside one event loop."""

    captioner: Captioner
    ledger: Ledger
    budget: Budget
    sampling: Sampling
    patience: Patience
    gate: Gate
    progress: Progress
    rng: random.Random
    disk: Path
    margin_bytes: int  # free space below which nothing more is sent, so that answers on the way find room
    # Where requests go out by another way, the pace isn't asked.
    pace: Pace = field(default_factory=lambda: Pace(1, time.monotonic))
    requests: int = 0  # attempts sent
    failures: Counter[str] = field(default_factory=Counter)
    stopping: SharecapError | None = None
    _judged: int = 0
    _recent: deque[bool] = field(default_factory=deque)
    _given_up: int = 0  # requests given up since the last answer
    _answered: bool = False
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.budget.changed = self._changed.set
        self._recent = deque(maxlen=self.gate.window)

    async def work(self, jobs: Iterator[Job]) -> None:
        """One worker: take jobs until there are none, or the run stops."""
        for job in jobs:
            await self.carry(job)
            if self.stopping:
                return

    def stop(self, why: SharecapError) -> None:
        """Send nothing more; what is on its way is awaited. The first reason counts."""
        self.stopping = self.stopping or why
        self._stop.set()
        self._changed.set()

    async def carry(self, job: Job) -> None:
        """See one job through."""
        tries = busy = redraws = 0
        while ticket := await self._may_send(worst := self.budget.worst(job.bound), job.prompt.text):
            await self.ledger.sent(job.key, job.image.id, self.captioner.name, job.prompt.id, worst)
            self.requests += 1
            request = Request(job.image, job.prompt.text, self._draw(redraws))
            try:
                answer = await self._ask(request, ticket)
            except ImageError as error:
                await self._book_unpaid(job, worst, f"image_{error.reason}", error)
                self._finish(f"image_{error.reason}")
                return
            except FatalError as error:
                await self._book_unpaid(job, worst, error.kind, error)
                self.stop(error)
                return
            except RejectedError as error:
                await self._book_unpaid(job, worst, error.kind, error)
                self._judge(error.kind, job, str(error))
                return
            except BusyError as error:
                busy += 1
                await self._book_unpaid(job, worst, error.kind, error)
                if busy >= self.patience.busy_tries:
                    self._give_up(error)
                    return
                await self._hold(error, ticket, busy)
                continue
            except UnavailableError as error:
                tries += 1
                await self._book_unavailable(job, worst, error)
                if error.overloaded:
                    self.pace.overloaded(ticket, 0.0)
                # An address that never answered is more likely wrong than tired.
                enough = self.patience.tries if self._answered else min(3, self.patience.tries)
                if tries >= (enough if error.kind == "unreachable" else self.patience.tries):
                    self._give_up(error)
                    return
                await self._pause(self._backoff(tries))
                continue
            kind = await self._book_answer(job, worst, answer)
            if kind in RESAMPLED and redraws < self.patience.redraws:
                redraws += 1
                continue
            self._judge(kind, job, answer.text)
            return

    async def _may_send(self, worst: float | None, prompt: str) -> Ticket | None:
        """Wait for the server's leave, a place and money; None when the run stops."""
        while not self.stopping:
            wait = self.pace.wait_s(prompt)
            if wait is None:
                await self._change()
                continue
            if wait > 0:
                await self._pause(wait)
                continue
            if self.requests % LOOK_EVERY == 0 and free_bytes(self.disk) < self.margin_bytes:
                todo = "free some space and run the same command again: it goes on from there"
                self.stop(SharecapError("no space left on the disk", where=self.disk, todo=todo))
                continue
            if self.budget.reserve(worst):
                return self.pace.leave(prompt)
            if self.budget.out == 0:
                spent, limit = self.budget.spent_usd, self.budget.limit_usd
                what = f"budget of ${limit:g} reached: ${spent:.4f} spent, the next can cost ${worst:.4f}"
                self.stop(Stopped(what, todo="run again with a higher --budget to go on"))
                continue
            await self._change()  # money on the way comes back when a request settles
        return None

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _ask(self, request: Request, ticket: Ticket) -> Answer:
        """Send it; the pace learns from what comes back."""
        try:
            answer = await self.captioner.answer(request)
        finally:
            self.pace.back()
            self._changed.set()
        self.pace.answered(ticket, request.prompt, answer.usage, answer.limits)
        return answer

    def _draw(self, redraws: int) -> Sampling:
        """The sampling of the n-th further draw: another seed, not greedy, or the same words come again."""
        if not redraws:
            return self.sampling
        temperature = 0.7 if self.sampling.temperature == 0 else self.sampling.temperature
        return replace(self.sampling, seed=(self.sampling.seed or 0) + redraws, temperature=temperature)

    async def _book_answer(self, job: Job, worst: float | None, answer: Answer) -> str | None:
        """Settle what the answer cost and put it on disk; the kind of failure, or None for a caption."""
        self._answered, self._given_up = True, 0
        kind = verdict(answer, job.prompt.text)
        usage = answer.usage or Usage()
        price = self.budget.price
        # A server that reports no usage may have used all that it could.
        cost = None if price is None else price.of(answer.usage) if answer.usage else worst
        self.budget.learn(job.bound, usage)
        self.budget.settle(worst, cost)
        text = answer.text.strip()
        if kind is None:
            await self.ledger.done(job.key, text, answer.finish_reason, usage, cost)
        else:
            error = answer.refusal or text
            await self.ledger.failed(
                job.key,
                kind,
                error,
                usage=usage,
                cost_usd=cost,
                text=text,
                finish_reason=answer.finish_reason,
            )
        return kind

    async def _book_unpaid(self, job: Job, worst: float | None, kind: str, error: SharecapError) -> None:
        self.budget.settle(worst, 0.0)
        await self.ledger.failed(job.key, kind, error.what)

    async def _book_unavailable(self, job: Job, worst: float | None, error: UnavailableError) -> None:
        maybe = worst if error.maybe_billed else 0.0
        self.budget.settle(worst, maybe)
        await self.ledger.failed(
            job.key, error.kind, error.what, doubtful=error.maybe_billed, doubtful_usd=maybe
        )

    def _finish(self, kind: str | None) -> None:
        if kind is None:
            self.progress.done += 1
        else:
            self.progress.done += 1
            self.progress.failed += 1
            self.failures[kind] += 1
        self.progress.cost_usd = self.budget.spent_usd if self.budget.price else None
        self.progress.tick()

    def _judge(self, kind: str | None, job: Job, said: str) -> None:
        """Count an outcome, and stop the run when too many answers are no captions."""
        self._finish(kind)
        self._judged += 1
        self._recent.append(kind is not None)
        if kind is None or self._judged < self.gate.after:
            return
        failed = sum(self._recent)
        if failed > self.gate.share * len(self._recent):
            kinds = ", ".join(f"{n} {k}" for k, n in self.failures.most_common())
            example = " ".join(said.split())[:160]
            what = (
                f"{failed} of the last {len(self._recent)} answers are no captions ({kinds}); "
                f"for example {kind} on {place_of(job.image)}: {example!r}"
            )
            self.stop(
                Stopped(
                    what, todo="mend the prompt or the teacher, then run the same command with --retry-failed"
                )
            )

    def _give_up(self, error: TeacherError) -> None:
        """Leave the request failed; stop when no request gets through any more."""
        self._finish(error.kind)
        self._given_up += 1
        never = error.kind == "unreachable" and not self._answered
        if never or self._given_up >= self.patience.dead_after:
            todo = "start the server or correct the address" if never else "run the same command again later"
            self.stop(
                SharecapError(f"the teacher doesn't answer: {error.what}", where=error.where, todo=todo)
            )

    async def _hold(self, error: BusyError, ticket: Ticket, busy: int) -> None:
        """Too many requests: no worker sends before the time that the server named; else this one waits."""
        if error.retry_after_s is None:
            self.pace.overloaded(ticket, 0.0, error.limits)
            await self._pause(self._backoff(busy))
        else:
            asked = min(error.retry_after_s, self.patience.retry_after_cap_s)
            self.pace.overloaded(ticket, asked + self.rng.uniform(0, self.patience.base_s), error.limits)

    def _backoff(self, failures: int) -> float:
        wait = min(self.patience.cap_s, self.patience.base_s * 2.0 ** (failures - 1))
        return wait * self.rng.uniform(0.5, 1.5)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
