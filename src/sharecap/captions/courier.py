"""The life of one captioning request: reserve, book as sent, send, judge, book the outcome, perhaps again.

Every attempt is on disk as sent before it leaves, and every answer before its worker's next request leaves.
A failure's class decides what happens: wait, ask again, give up on the image, or stop the run.
"""

import asyncio
import contextlib
import hashlib
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharecap.captions.books import Books, kind_of
from sharecap.captions.canary import Canary
from sharecap.captions.captioner import (
    Answer,
    BusyError,
    Captioner,
    FatalError,
    NotSentError,
    RejectedError,
    Request,
    Sampling,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.gates import Gates
from sharecap.captions.ledger import How, Ledger
from sharecap.captions.pace import Pace, Ticket
from sharecap.captions.plan import Job
from sharecap.captions.price import Budget, worst_case
from sharecap.captions.remedy import PENDING, REMEDIES, Ask, ask_after, following
from sharecap.captions.verdict import verdict
from sharecap.errors import SharecapError, Stopped
from sharecap.images.dataset import free_bytes
from sharecap.images.decode import ImageError
from sharecap.images.place import place_of
from sharecap.images.progress import Progress


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


DEFAULT_PATIENCE = Patience()

PLAIN = Ask()
"""The request as it is put first."""

LOOK_EVERY = 16
"""Requests between looks at the disk's free space, which are dear on some file systems."""


@dataclass
class Standing:
    """How a captioner has done in this run so far."""

    answered: bool = False
    given_up: int = 0  # requests given up since its last answer


@dataclass
class Errand:
    """One job on its way."""

    job: Job
    steps: list[str]  # remedies that were taken ("KIND:REMEDY")
    tries: int = 0  # attempts at which the server failed
    busy: int = 0  # attempts at which it had too much to do


@dataclass
class Leave:
    """One request's leave to be out, got when it is entered (a `captioner.Place`)."""

    courier: "Courier"
    prompt: str
    ticket: Ticket | None = None  # once it has left

    async def __aenter__(self) -> None:
        self.ticket = await self.courier.go_out(self.prompt)

    async def __aexit__(self, *_: object) -> None:
        self.courier.is_back()


@dataclass
class Courier:
    """Carries requests to a captioner and books what becomes of them. One per run, inside one event loop."""

    captioner: Captioner
    ledger: Ledger
    budget: Budget
    sampling: Sampling
    patience: Patience
    gates: Gates
    progress: Progress
    rng: random.Random
    disk: Path
    margin_bytes: int  # free space below which nothing more is sent, so that answers on the way find room
    # Where requests go out by another way, the pace isn't asked.
    pace: Pace = field(default_factory=lambda: Pace(1, time.monotonic))
    called: str = "the teacher"  # what errors call the captioner
    second: Captioner | None = None  # is asked what the first one refuses
    canary: Canary | None = None
    look_back: bool = False  # some jobs failed before: what was tried on them isn't paid for again
    flaw: Callable[[Answer, str], str | None] = verdict  # what is wrong with an answer to a prompt
    requests: int = 0  # attempts sent
    failures: Counter[str] = field(default_factory=Counter)
    stopping: SharecapError | None = None
    full: dict[str, str] = field(default_factory=dict)  # source whose budget is spent -> in words
    _booked: "asyncio.Future[None] | None" = None  # the answer that was booked last
    _ready: int = 0  # requests that are booked as sent and wait for their leave
    _passed: int = 0  # times that a request stood before the look at the disk
    _first: Standing = field(default_factory=Standing)
    _second: Standing = field(default_factory=Standing)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.budget.changed = self._changed.set
        self.books = Books(self.ledger, self.budget)

    async def work(self, jobs: Iterator[Job]) -> None:
        """One worker: take jobs until there are none, or the run stops."""
        for job in jobs:
            await self.carry(job)
            if self.stopping:
                return

    async def booked(self) -> None:
        """Wait until every answer is on disk."""
        if self._booked:
            await self._booked

    def stop_if(self, why: SharecapError | None) -> None:
        """Stop for a reason, if there is one."""
        if why:
            self.stop(why)

    def stop(self, why: SharecapError) -> None:
        """Send nothing more; what is on its way is awaited. The first reason counts."""
        self.stopping = self.stopping or why
        self._stop.set()
        self._changed.set()

    async def carry(self, job: Job, steps: Sequence[str] | None = None) -> None:
        """See one job through; `steps` are the remedies so far where the caller knows them."""
        errand = Errand(job, self._steps_before(job) if steps is None else list(steps))
        while await self._attempt(errand):
            pass

    async def _attempt(self, errand: Errand) -> bool:
        """Send the request, as it is to be put by now, and book the outcome. True: once more."""
        job, ask = errand.job, ask_after(errand.steps)
        request = self._put(job, ask)
        worst = self._worst(job, ask, request)
        if not await self._may_send(worst, request.prompt, job.image.source):
            return False
        captioner, leave = self._asked(ask), Leave(self, request.prompt)
        await self.ledger.sent(job.key, job.image.id, captioner.name, job.prompt.id, worst)
        try:
            answer = await self._ask(captioner, request, leave)
        except ImageError as error:
            await self.books.unpaid(job, worst, kind_of(error), error)
            self._finish(kind_of(error))
            return False
        except TeacherError as error:
            return await self._missed(errand, worst, leave.ticket, error)
        kind = self.flaw(answer, request.prompt)
        if step := self._following(kind, errand.steps):
            errand.steps.append(step)
            self._book_answer(job, worst, answer, f"{PENDING}{kind}", steps=errand.steps, ask=ask)
            return True
        self._book_answer(job, worst, answer, kind, steps=errand.steps, ask=ask)
        self._judge(kind, job, answer.text)
        if self.canary and kind is None and not self._by_second(ask):
            self.stop_if(await self.canary.saw(self._aside, job, answer.text))
        return False

    async def _missed(
        self, errand: Errand, worst: float | None, ticket: Ticket | None, error: TeacherError
    ) -> bool:
        """No answer: wait, put it otherwise, give up on the image, or stop the run. True: once more."""
        job, steps = errand.job, errand.steps
        ask = ask_after(steps)
        if isinstance(error, UnavailableError):
            errand.tries += 1
            await self.books.unavailable(job, worst, error)
            if error.overloaded and ticket:
                self.pace.overloaded(ticket, 0.0)
            # An address that never answered is more likely wrong than tired.
            answered = self._standing(ask).answered
            enough = self.patience.tries if answered else min(3, self.patience.tries)
            if errand.tries >= (enough if error.kind == "unreachable" else self.patience.tries):
                self._give_up(error, ask)
                return False
            await self.pause(self.backoff(errand.tries))
            return True
        if isinstance(error, RejectedError):
            return await self._rejected(job, worst, steps, error)
        await self.books.unpaid(job, worst, error.kind, error)
        if isinstance(error, BusyError):
            assert ticket, "nobody is busy with what has not left"
            errand.busy += 1
            if errand.busy < self.patience.busy_tries:
                await self._hold(error, ticket, errand.busy)
                return True
            self._give_up(error, ask)
        elif isinstance(error, FatalError):
            self.stop(self._of_second(error) if self._by_second(ask) else error)
        else:
            assert isinstance(error, NotSentError), error
        return False

    async def _rejected(self, job: Job, worst: float | None, steps: list[str], error: RejectedError) -> bool:
        """Book that it will not be answered as it was put. True: once more, by the step added to `steps`."""
        # A server may not take what a remedy asks for; the failure that called for it stands.
        kind = steps[-1].partition(":")[0] if steps and error.kind == "rejected" else error.kind
        if step := self._following(kind, steps):
            steps.append(step)
            await self.books.unpaid(job, worst, PENDING + kind, error, self._how(job, steps))
            return True
        await self.books.unpaid(job, worst, kind, error)
        self._judge(kind, job, str(error))
        return False

    def put(self, job: Job) -> tuple[Request, float | None, list[str]]:
        """The request of a job that goes out by another way, its worst case in USD, and the steps before."""
        steps = self._steps_before(job)
        ask = ask_after(steps)
        request = self._put(job, ask)
        return request, self._worst(job, ask, request), steps

    async def take(
        self,
        job: Job,
        worst: float | None,
        outcome: Answer | SharecapError,
        steps: list[str],
        *,
        more_tries: bool,
    ) -> bool:
        """Book the outcome of a request that went out by another way: in a batch's file, to a worker.

        True if it is to go out once more, which is up to the caller: because it came to no answer and there
        are `more_tries`, or because a remedy follows, which is added to the `steps` taken.
        """
        if isinstance(outcome, Answer):
            ask = ask_after(steps)
            kind = self.flaw(outcome, self._put(job, ask).prompt)
            if step := self._following(kind, steps):
                steps.append(step)
                await self._book_answer(job, worst, outcome, f"{PENDING}{kind}", steps=steps, ask=ask)
                return True
            await self._book_answer(job, worst, outcome, kind, steps=steps, ask=ask)
            self._judge(kind, job, outcome.text)
            if self.canary and kind is None:
                await self.canary.heard(job, outcome.text)
            return False
        if isinstance(outcome, RejectedError):
            return await self._rejected(job, worst, steps, outcome)
        if isinstance(outcome, UnavailableError):
            await self.books.unavailable(job, worst, outcome)
        else:
            await self.books.unpaid(job, worst, kind_of(outcome), outcome)
        if isinstance(outcome, BusyError | UnavailableError) and more_tries:
            return True
        if isinstance(outcome, FatalError):
            self.stop(outcome)
        else:
            self._finish(kind_of(outcome))
        return False

    def is_for_second(self, steps: Sequence[str]) -> bool:
        """After these steps the second teacher is asked, which is done here and never by another way."""
        return self._by_second(ask_after(steps))

    def out_of_money(self, worst: float | None) -> None:
        """Stop at the budget: nothing is out that could bring money back."""
        spent, limit = self.budget.spent_usd, self.budget.limit_usd or 0.0
        what = f"budget of ${limit:g} reached: ${spent:.4f} spent, the next can cost ${worst or 0.0:.4f}"
        self.stop(Stopped(what, todo="run again with a higher --budget to go on"))

    def ended(self) -> SharecapError | None:
        """Why the run did not come to its end, if it didn't."""
        if self.full and not self.stopping:
            todo = "the other sources are done; run again with a higher --budget SOURCE=USD to go on"
            return Stopped("; ".join(self.full.values()), todo=todo)
        return self.stopping

    def _steps_before(self, job: Job) -> list[str]:
        """What an earlier run tried on this request, and what it left to be tried."""
        if not self.look_back:
            return []
        kind, steps = self.ledger.remedied(job.key)
        if kind in REMEDIES:  # it failed for good then, and is asked again
            step = self._following(kind, steps)
            return [*steps, step] if step else []
        return steps

    def _following(self, kind: str | None, steps: list[str]) -> str | None:
        return following(kind, steps, has_second=self.second is not None, redraws=self.patience.redraws)

    def _by_second(self, ask: Ask) -> bool:
        # Without a second teacher the first is asked what an earlier run meant for the second.
        return ask.second and self.second is not None

    def _asked(self, ask: Ask) -> Captioner:
        return self.second if ask.second and self.second else self.captioner

    def _standing(self, ask: Ask) -> Standing:
        return self._second if self._by_second(ask) else self._first

    def _of_second(self, error: FatalError) -> FatalError:
        """The same, said of the second teacher: the user has to know which address and key is meant."""
        todo = f"{error.todo or 'mend it'}, then run again: every answer so far is kept"
        return FatalError(f"the second teacher: {error.what}", where=error.where, todo=todo)

    def _put(self, job: Job, ask: Ask) -> Request:
        """The request as it is put this time; its key stays that of the first."""
        prompt = job.prompt.rephrased if ask.rephrased else job.prompt.text
        return Request(job.image, prompt, ask.sampling(self.sampling), job.prompt.system)

    def _worst(self, job: Job, ask: Ask, request: Request) -> float | None:
        bound = job.bound
        if ask != Ask():
            words = request.system + request.prompt
            bound = worst_case(job.image, words, request.sampling.max_tokens, job.image_tokens)
        return self.budget.worst(bound, second=self._by_second(ask))

    def _how(self, job: Job, steps: list[str], ask: Ask | None = None) -> How | None:
        """Who gave the last answer to what, where it wasn't the first; also to take back what stood there."""
        if not steps and not self.look_back:
            return None
        ask = ask or ask_after(steps)
        prompt_id = f"{job.prompt.id}+rephrased" if ask.rephrased else job.prompt.id
        return How(self._asked(ask).name, prompt_id, " ".join(steps))

    async def _may_send(self, worst: float | None, prompt: str, source: str) -> bool:
        """Wait until the request may be got ready and there is money; False when the run or source stops."""
        while not self.stopping and source not in self.full:
            if not await self._passes(self.pace.wait_s(prompt, ready=self._ready)):
                continue
            self._passed += 1
            if self._passed % LOOK_EVERY == 0 and free_bytes(self.disk) < self.margin_bytes:
                todo = "free some space and run the same command again: it goes on from there"
                self.stop(SharecapError("no space left on the disk", where=self.disk, todo=todo))
                continue
            if self.budget.reserve(worst, source):
                self._ready += 1
                return True
            if why := self.budget.source_wall(worst, source):
                self.full[source] = why
                continue
            if self.budget.out == 0:
                self.out_of_money(worst)
                continue
            await self._change()  # money on the way comes back when a request settles
        return False

    async def go_out(self, prompt: str) -> Ticket:
        """Wait for the server's leave; `NotSentError` when the run stops before it is given."""
        while not self.stopping:
            if await self._passes(self.pace.wait_s(prompt)):
                self._ready -= 1
                self.requests += 1
                return self.pace.leave(prompt)
        raise NotSentError("the run stopped before the request left")

    def is_back(self) -> None:
        """A request is over, however it ended."""
        self.pace.back()
        self._changed.set()

    async def _passes(self, wait_s: float | None) -> bool:
        """True if there is nothing to wait for; else wait, and the pace has to be asked again."""
        if wait_s == 0:
            return True
        await (self._change() if wait_s is None else self.pause(wait_s))
        return False

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _aside(self, requests: Sequence[Request]) -> list[str | RejectedError | None]:
        """Send the canary's requests, each once, and book them; the words of the answers, where there are."""
        return list(await asyncio.gather(*(self._aside_one(request) for request in requests)))

    async def _aside_one(self, request: Request) -> str | RejectedError | None:
        assert self.canary is not None
        bound = worst_case(request.image, request.prompt, request.sampling.max_tokens)
        worst = self.budget.worst(bound)
        if not await self._may_send(worst, request.prompt, ""):
            return None
        key = aside_key()
        await self.ledger.sent(key, request.image.id, self.captioner.name, self.canary.booked_as, worst)
        outcome: Answer | SharecapError
        try:
            outcome = await self._ask(self.captioner, request, Leave(self, request.prompt))
        except (TeacherError, ImageError) as error:
            outcome = error
        if isinstance(outcome, FatalError):
            self.stop(outcome)
        return await self.books.aside(key, worst, outcome, self.budget.price)

    async def _ask(self, captioner: Captioner, request: Request, leave: Leave) -> Answer:
        """Send it; the pace learns from what comes back."""
        try:
            answer = await captioner.answer(request, leave)
        finally:
            if leave.ticket is None:
                self._ready -= 1
        assert leave.ticket, "no captioner answers without a leave"
        self.pace.answered(leave.ticket, request.prompt, answer.usage, answer.limits)
        return answer

    def _book_answer(
        self,
        job: Job,
        worst: float | None,
        answer: Answer,
        kind: str | None,
        *,
        steps: list[str] | None = None,
        ask: Ask = PLAIN,
    ) -> "asyncio.Future[None]":
        standing = self._standing(ask)
        standing.answered, standing.given_up = True, 0
        how = self._how(job, steps or [], ask)
        self._booked = self.books.answer(job, worst, answer, kind, second=self._by_second(ask), how=how)
        return self._booked

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
        """Count an outcome, and stop the run when a gate closes."""
        self._finish(kind)
        self.stop_if(self.gates.saw(job.image.source, kind, said, place_of(job.image)))

    def _give_up(self, error: TeacherError, ask: Ask) -> None:
        """Leave the request failed; stop when none gets through any more to the captioner that was asked."""
        self._finish(error.kind)
        standing = self._standing(ask)
        standing.given_up += 1
        never = error.kind == "unreachable" and not standing.answered
        if never or standing.given_up >= self.patience.dead_after:
            who = "the second teacher" if self._by_second(ask) else self.called
            todo = "start the server or correct the address" if never else "run the same command again later"
            self.stop(SharecapError(f"{who} doesn't answer: {error.what}", where=error.where, todo=todo))

    async def _hold(self, error: BusyError, ticket: Ticket, busy: int) -> None:
        """Too many requests: no worker sends before the time that the server named; else this one waits."""
        if error.retry_after_s is None:
            self.pace.overloaded(ticket, 0.0, error.limits)
            await self.pause(self.backoff(busy))
        else:
            asked = min(error.retry_after_s, self.patience.retry_after_cap_s)
            self.pace.overloaded(ticket, asked + self.rng.uniform(0, self.patience.base_s), error.limits)

    def backoff(self, failures: int) -> float:
        wait = min(self.patience.cap_s, self.patience.base_s * 2.0 ** (failures - 1))
        return wait * self.rng.uniform(0.5, 1.5)

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


def aside_key() -> bytes:
    """Names a request that is no job's: asked anew every time, it never counts as answered before."""
    return hashlib.sha256(b"canary" + secrets.token_bytes(32)).digest()
