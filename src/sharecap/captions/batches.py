"""The run through a Batch API: files of requests under the same keys, ledger and budget as online.

A request is in the log and, as `in_batch`, in the ledger before its batch can exist, so a kill at any moment
loses none and sends none twice: a batch that was made is found again by its tag, one that wasn't is dropped.
It must never make a batch whose worst case does not fit into the budget.
"""

import asyncio
import secrets
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import IO, TypeVar

from sharecap import artifact
from sharecap.captions.asides import Asides
from sharecap.captions.batch_log import NAME as BATCHES
from sharecap.captions.batch_log import Batch, BatchLog, Booked
from sharecap.captions.canary import Aside
from sharecap.captions.captioner import (
    Answer,
    BusyError,
    Captioner,
    FatalError,
    RejectedError,
    Request,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.courier import Courier
from sharecap.captions.gates import CANARY
from sharecap.captions.ledger import IN_BATCH
from sharecap.captions.outbox import Engine, Outbox
from sharecap.captions.plan import PIECE, Plan, Survey
from sharecap.captions.price import Price
from sharecap.captions.teachers.batch import ENDED, BatchTeacher, ServerBatch
from sharecap.errors import Interrupted, SharecapError, Stopped, UsageError
from sharecap.images.decode import ImageError


@dataclass(frozen=True)
class BatchRules:
    """What a provider's batches may be like, and how patiently they are waited for."""

    requests: int = 50_000  # most requests of one file
    bytes: int = 200_000_000  # most bytes of one file
    at_once: int = 100  # batches out at a time; 0 only takes in what is out
    discount: float = 0.5  # of the online price
    poll_s: float = 10.0  # first wait between two looks; each further one is half as long again
    poll_cap_s: float = 300.0  # longest wait between two looks
    tries: int = 3  # times that a request goes into a batch without coming to an answer

    @classmethod
    def parse(cls, text: str) -> "BatchRules":
        """From "requests=1000,bytes=5e7"; `UsageError` for what can't be read so."""
        known = {f.name: f.type for f in fields(cls)}
        given: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            try:
                number = float(value)
                if name not in known or not 0 <= number < 1e15:
                    raise ValueError
            except ValueError:
                todo = f"give NAME=NUMBER of {', '.join(known)}"
                raise UsageError("not a rule for batches", where=repr(item), todo=todo) from None
            given[name] = number if known[name] is float else int(number)
        rules = cls(**given)  # type: ignore[arg-type]
        if rules.requests < 1 or rules.bytes < 1 or rules.tries < 1:
            raise UsageError("a batch needs room for a request, and one try", where=repr(text))
        return rules

    def price(self, online: Price | None) -> Price | None:
        """What a request costs in a batch."""
        if online is None:
            return None
        share = 1 - self.discount
        return Price(online.prompt_usd * share, online.completion_usd * share)


DEFAULT_RULES = BatchRules()
Result = TypeVar("Result")


def batch_engine(teacher: BatchTeacher, rules: BatchRules, online_price: Price | None) -> Engine:
    """The engine of a teacher behind a Batch API; canary and second teacher are asked online."""

    async def engine(courier: Courier, wanted: Plan, asked: Survey) -> None:
        outbox = Outbox(courier, wanted, asked)
        online = teacher.online()

        async def send(requests: Mapping[bytes, Request]) -> dict[bytes, Answer | SharecapError]:
            answers = await asyncio.gather(*(_asked(online, request) for request in requests.values()))
            return dict(zip(requests, answers, strict=True))

        try:
            with BatchLog(courier.disk / BATCHES) as log:
                await Batches(teacher, outbox, Asides(courier, send, online_price), log, rules).drive()
                await outbox.seconds.finish()
        finally:
            await outbox.seconds.leave()
            await online.close()

    return engine


async def _asked(online: Captioner, request: Request) -> Answer | SharecapError:
    try:
        return await online.answer(request)
    except FatalError as error:
        todo = f"{error.todo}; the canary asks online, and --accept {CANARY} leaves it out"
        return FatalError(error.what, where=error.where, todo=todo)
    except (TeacherError, ImageError) as error:
        return error


class Batches:
    """One run over batches. `drive` sees it through; `aside` is how the canary asks, online."""

    def __init__(
        self, teacher: BatchTeacher, outbox: Outbox, aside: Aside, log: BatchLog, rules: BatchRules
    ) -> None:
        self.teacher, self.outbox, self._aside = teacher, outbox, aside
        self.wanted, self.courier = outbox.wanted, outbox.courier
        self.log, self.rules, courier = log, rules, outbox.courier
        self.ledger, self.budget, self.progress = courier.ledger, courier.budget, courier.progress
        self._plan = artifact.key_of("plan", self.wanted.config(), {})
        self._out: dict[int, Batch] = {}
        self._at_once, self._most = rules.at_once, rules.requests  # may shrink where the provider wants less
        self._tried: Counter[bytes] = Counter()  # batches that a request was in without coming to an answer

    async def drive(self) -> None:
        """Submit what is open and whatever has to go once more, and take in all answers, or until the run
        stops."""
        wait = self.rules.poll_s
        try:
            await self._find_again()
            while not self.courier.stopping:
                while len(self._out) < self._at_once and self.outbox.ready():
                    if not await self.outbox.start(self._aside):
                        break
                    await self._submit()
                    wait = self.rules.poll_s
                if not self._out:
                    if not await self.outbox.more():
                        break
                    if not self._at_once:
                        todo = "run again without at_once=0"
                        self.courier.stop(Stopped("requests are still to be sent", todo=todo))
                elif await self._collect():
                    wait = self.rules.poll_s
                else:
                    await self.courier.pause(wait)
                    wait = min(self.rules.poll_cap_s, wait * 1.5)
        except (BusyError, UnavailableError) as error:
            todo = "run the same command again: batches that are out go on"
            self.courier.stop(
                SharecapError(f"the batch API doesn't answer: {error.what}", where=error.where, todo=todo)
            )
        except TeacherError as error:
            self.courier.stop(error)
        if self._out and isinstance(self.courier.stopping, Interrupted):
            requests = sum(batch.requests for batch in self._out.values())
            what = f"interrupted; {len(self._out)} batches with {requests:,} requests go on at the provider"
            todo = "run the same command again to take in their answers"
            self.courier.stopping = Interrupted(what, todo=todo)

    async def _find_again(self) -> None:
        """Take up what earlier runs left: batches that exist are waited for, others' requests are free."""
        ours = [b for b in self.log.out() if (b.server, b.plan) == (self.teacher.base, self._plan)]
        for batch in ours:
            for booked in self.log.jobs(batch):
                for one in self._waiting(booked):
                    self._hold(one)
        unsure = [batch for batch in ours if batch.state == "recorded"]
        made = await self._insist(self.teacher.tagged) if unsure else {}
        for batch in ours:
            if batch.state == "created":
                self._out[batch.id] = batch
            elif batch.state == "recorded" and batch.tag in made:
                found = made[batch.tag]
                self._out[batch.id] = self.log.mark(batch, "created", batch_id=found.id)
            else:
                await self._drop(batch, "the run was killed before the batch was made")

    def _hold(self, one: Booked) -> None:
        """The survey counted it as settled at its worst case; it is neither settled nor spent."""
        self.progress.done -= 1
        self.progress.failed -= 1
        if one.worst_usd is not None:
            for purse in (self.budget, self.budget.sources[one.job.image.source]):
                purse.spent_usd -= one.worst_usd
                purse.reserved_usd += one.worst_usd
                purse.out += 1

    async def _submit(self) -> None:
        """Fill a file, and have a batch made of it."""
        batch = self.log.begin(secrets.token_hex(8), self.teacher.base, self._plan)
        # Without a name: a kill leaves no pixels behind.
        with tempfile.TemporaryFile(dir=self.courier.disk) as file:
            await self._fill(batch, file)
            batch = self.log.mark(batch, "filling")
            if not batch.requests or self.courier.stopping:
                await self._drop(batch, "the run stopped before the batch was made")
                return
            batch = self.log.mark(batch, "recorded")
            try:
                name = f"sharecap-{batch.tag}.jsonl"
                file_id = await self._insist(lambda: self.teacher.upload(name, file))
            except TeacherError as error:
                await self._drop(batch, error.what)
                raise
        batch = self.log.mark(batch, "recorded", file_id=file_id)
        try:
            made = await self._create(batch, file_id)
        except (BusyError, RejectedError) as error:
            await self._drop(batch, error.what)
            raise
        self._out[batch.id] = self.log.mark(batch, "created", batch_id=made.id)
        self.courier.requests += batch.requests

    async def _fill(self, batch: Batch, file: IO[bytes]) -> None:
        """Write lines until the file is full, the money is out or there are no more jobs."""
        count = size = 0
        piece: list[Booked] = []
        while count < self._most and not self.courier.stopping:
            if (leaving := self.outbox.take()) is None:
                break
            job, worst = leaving.job, leaving.worst_usd
            outcome: SharecapError | None = None
            try:
                line = await asyncio.to_thread(self.teacher.line, job.key.hex(), leaving.request)
                if len(line) > self.rules.bytes:
                    outcome = RejectedError("larger than a batch's file may be")
            except ImageError as error:
                outcome = error
            if outcome is None and size + len(line) > self.rules.bytes:
                self.outbox.give_back(leaving)
                break
            if outcome is None:
                file.write(line)
                count, size = count + 1, size + len(line)
                piece.append(Booked(job, worst, leaving.steps))
            else:
                name, steps = self.wanted.captioner.name, list(leaving.steps)
                await self.ledger.sent(job.key, job.image.id, name, job.prompt.id, worst)
                if await self.courier.take(job, worst, outcome, steps, more_tries=False):
                    self.outbox.again(job, steps)
            if len(piece) == PIECE:
                await self._record(batch, piece)
                piece = []
        await self._record(batch, piece)
        file.flush()

    async def _record(self, batch: Batch, piece: Sequence[Booked]) -> None:
        """Into the log, then into the ledger: what is in the ledger as `in_batch` always has its batch."""
        self.log.add(batch, piece)
        name = self.wanted.captioner.name
        await asyncio.gather(
            *(
                self.ledger.sent(
                    one.job.key, one.job.image.id, name, one.job.prompt.id, one.worst_usd, in_batch=True
                )
                for one in piece
            )
        )

    async def _create(self, batch: Batch, file_id: str) -> ServerBatch:
        """Make the batch, once: after every doubtful outcome the server is asked whether it is there."""
        unsure = False

        async def create() -> ServerBatch:
            nonlocal unsure
            if unsure and (found := (await self.teacher.tagged()).get(batch.tag)):
                return found
            try:
                return await self.teacher.create(file_id, batch.tag)
            except UnavailableError:
                unsure = True
                raise

        return await self._insist(create)

    async def _drop(self, batch: Batch, why: str) -> None:
        """The batch never came to be: its requests are free again, and nothing was spent."""
        for booked in self.log.jobs(batch):
            waiting = self._waiting(booked)
            for one in waiting:
                self.budget.settle(one.worst_usd, 0.0, one.job.image.source)
                self.outbox.again(one.job, list(one.steps))
            await asyncio.gather(*(self.ledger.failed(one.job.key, "not_submitted", why) for one in waiting))
        self.log.mark(batch, "dropped")
        if batch.file_id:
            with suppress(TeacherError):
                await self.teacher.remove(batch.file_id)

    async def _collect(self) -> bool:
        """Look at every batch that is out and settle those that have ended; whether any had."""
        ended, answered, total = False, 0, 0
        for batch in list(self._out.values()):
            if self.courier.stopping:
                break
            assert batch.batch_id is not None
            name = batch.batch_id
            seen = await self._insist(lambda name=name: self.teacher.look(name))  # type: ignore[misc]
            if seen.status in ENDED:
                await self._settle(batch, seen)
                del self._out[batch.id]
                ended = True
            elif seen.request_counts:
                answered += seen.request_counts.completed + seen.request_counts.failed
                total += seen.request_counts.total
        self.progress.note = f"{len(self._out)} batches out, {answered:,}/{total:,} answered there"
        self.progress.tick()
        return ended

    async def _settle(self, batch: Batch, seen: ServerBatch) -> None:
        """Book every line of an ended batch, and by its kind of end what has none."""
        for file_id in (seen.output_file_id, seen.error_file_id):
            if file_id:
                await self._insist(lambda file_id=file_id: self._read(batch, file_id))  # type: ignore[misc]
        kind = "batch_lost" if seen.status == "completed" else f"batch_{seen.status}"
        code, said = seen.why
        what = f"the batch ended as {seen.status}" + (f" ({code}: {said})" if code or said else "")
        crowded = seen.status == "failed" and code == "token_limit_exceeded"
        for booked in self.log.jobs(batch):
            waiting = self._waiting(booked)
            if crowded:  # not the requests' fault: it counts for no try
                self._tried.subtract(one.job.key for one in waiting)
            error = UnavailableError(kind, what[:500], maybe_billed=kind == "batch_lost")
            await asyncio.gather(*(self._book(one, error) for one in waiting))
        self.log.mark(batch, "settled")
        if crowded:
            self._make_room()
        elif seen.status == "failed":
            todo = "mend what it says and run the same command again"
            self.courier.stop(SharecapError(what[:500], where=self.teacher.base, todo=todo))
        if batch.file_id:
            with suppress(TeacherError):  # it only takes up room there
                await self.teacher.remove(batch.file_id)

    def _make_room(self) -> None:
        """The provider has too much queued from us: fewer batches at a time, then smaller ones."""
        others = len(self._out) - 1
        if others:
            self._at_once = others
        elif self._most > 1:
            self._most = max(1, self._most // 2)

    async def _read(self, batch: Batch, file_id: str) -> None:
        group: list[bytes] = []
        async for line in self.teacher.lines(file_id):
            group.append(line)
            if len(group) == PIECE:
                await self._take(batch, group)
                group = []
        await self._take(batch, group)

    async def _take(self, batch: Batch, lines: Sequence[bytes]) -> None:
        """Book what the lines say of requests that still wait in this batch; the first word counts."""
        outcomes: dict[bytes, Answer | TeacherError] = {}
        for line in lines:
            if (parsed := self.teacher.outcome(line)) is not None:
                with suppress(ValueError):  # no id of ours; the request that it should have named has no line
                    outcomes.setdefault(bytes.fromhex(parsed[0]), parsed[1])
        if outcomes:
            for booked in self.log.jobs(batch, list(outcomes)):
                waiting = self._waiting(booked)
                await asyncio.gather(*(self._book(one, outcomes[one.job.key]) for one in waiting))
            await self.outbox.between(self._aside)

    async def _book(self, one: Booked, outcome: Answer | TeacherError) -> None:
        key, steps = one.job.key, list(one.steps)
        more = self._tried[key] + 1 < self.rules.tries
        if await self.courier.take(one.job, one.worst_usd, outcome, steps, more_tries=more):
            self._tried[key] += isinstance(outcome, BusyError | UnavailableError)
            self.outbox.again(one.job, steps)

    def _waiting(self, booked: Sequence[Booked]) -> list[Booked]:
        """Those of the requests whose outcome is still to be booked."""
        entries = self.ledger.look_up([one.job.key for one in booked], texts=False)
        return [
            one
            for one in booked
            if (entry := entries.get(one.job.key)) and (entry.state, entry.error_kind) == ("sent", IN_BATCH)
        ]

    async def _insist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """`call` until it succeeds; what waiting can't mend is raised, and so is what lasts too long."""
        patience, failures = self.courier.patience, 0
        while True:
            try:
                return await call()
            except (BusyError, UnavailableError) as error:
                failures += 1
                busy = isinstance(error, BusyError)
                if failures >= (patience.busy_tries if busy else patience.tries) or self.courier.stopping:
                    raise
                wait = self.courier.backoff(failures)
                if isinstance(error, BusyError) and error.retry_after_s is not None:
                    wait = min(error.retry_after_s, patience.retry_after_cap_s)
                await self.courier.pause(wait)
