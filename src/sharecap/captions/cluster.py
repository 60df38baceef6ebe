"""The run on a Ray cluster: workers hold a local captioner or talk to an endpoint near them (paper, 3.2).

The driver alone owns ledger and budget. Requests go out in rounds of small blocks, whose outcomes are booked
as they come back; what a dead worker took with it is booked as doubtful and goes out with the next round.
It must never let Ray send a request again by itself, since nobody would count that.
"""

import asyncio
import json
import logging
import os
import threading
import warnings
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from sharecap.captions.asides import Asides
from sharecap.captions.canary import blank_image
from sharecap.captions.captioner import (
    Answer,
    BusyError,
    FatalError,
    FilteredError,
    RejectedError,
    Request,
    Sampling,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.courier import Courier
from sharecap.captions.outbox import Engine, Leaving, Outbox
from sharecap.captions.plan import Plan, Survey
from sharecap.captions.teachers.open import open_teacher
from sharecap.errors import SharecapError, UsageError
from sharecap.images.decode import ImageError
from sharecap.records import Image, Usage

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray reads from the environment; the user's own word wins."""

_PASSED_ON = {cls.__name__: cls for cls in (FatalError, FilteredError, RejectedError)}


@dataclass(frozen=True)
class RayRules:
    """How the work is laid out over the cluster."""

    workers: int = 2  # each holds a captioner of its own
    cpus: float = 0.25  # that a worker reserves; less than one, or small clusters have none left for reading
    gpus: float = 0.0  # that a worker reserves; 1 gives each a card of its own
    block: int = 16  # requests that a worker takes at a time, and loses if it dies
    round: int = 20_000  # requests after which the workers are started anew; also the most that a kill costs
    tries: int = 4  # times that a request goes out without coming to an answer

    @classmethod
    def parse(cls, text: str) -> "RayRules":
        """From "workers=8,gpus=1"; `UsageError` for what can't be read so."""
        given: dict[str, Any] = {}
        whole = ("workers", "block", "round", "tries")
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            try:
                given[name] = int(value) if name in whole else float(value)
                if name not in (*whole, "cpus", "gpus") or not 0 <= given[name] < 1e9:
                    raise ValueError
            except ValueError:
                todo = f"give NAME=NUMBER of {', '.join((*whole, 'cpus', 'gpus'))}"
                raise UsageError("not a rule for Ray", where=repr(item), todo=todo) from None
        rules = cls(**given)
        if min(rules.workers, rules.block, rules.round, rules.tries) < 1:
            raise UsageError("Ray needs a worker, a request and a try", where=repr(text))
        return rules


def open_engine(spec: str, teacher: str, *, timeout_s: float = 300.0) -> Engine:
    """The engine that "ray" or "ray:workers=8,gpus=1" names; `teacher` is opened in every worker.

    Joins the cluster that RAY_ADDRESS names, or starts one on this machine.
    """
    name, _, words = spec.partition(":")
    if name != "ray":
        raise UsageError("no such engine", where=repr(spec), todo="give ray or ray:workers=8,gpus=1")
    rules = RayRules.parse(words)
    if teacher.startswith("batch:"):
        raise UsageError("a Batch API needs no cluster", where=teacher, todo="leave --engine ray out")
    if teacher.startswith("local:"):  # workers have another working directory
        teacher = f"local:{Path(teacher.removeprefix('local:')).resolve()}"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed", todo="pip install 'sharecap[ray]'") from None
    try:
        if not ray.is_initialized():
            ray.init(
                address=os.environ.get("RAY_ADDRESS") or "local",
                include_dashboard=False if not os.environ.get("RAY_ADDRESS") else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"cannot reach the Ray cluster ({' '.join(str(error).split())[:300]})"
        raise SharecapError(what, todo="check RAY_ADDRESS, or unset it to work on this machine") from None

    async def engine(courier: Courier, wanted: Plan, asked: Survey) -> None:
        outbox = Outbox(courier, wanted, asked)
        try:
            await _Rounds(outbox, teacher, rules, timeout_s).drive()
            await outbox.seconds.finish()
        finally:
            await outbox.seconds.leave()

    return engine


class Worker:
    """What runs in the cluster: opens the captioner once, then answers blocks of requests."""

    def __init__(self, teacher: str, timeout_s: float, block: int) -> None:
        self._captioner = open_teacher(teacher, timeout_s=timeout_s, batch_size=block)
        self._loop = asyncio.new_event_loop()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns `key` and `request` in, `key` and `outcome` out."""
        blank = blank_image()
        requests = [_request_of(text, blank) for text in table.column("request").to_pylist()]
        outcomes = self._loop.run_until_complete(self._answer_all(requests))
        return pa.table({"key": table.column("key"), "outcome": [_packed(o) for o in outcomes]})

    async def _answer_all(self, requests: Sequence[Request]) -> list[Answer | SharecapError]:
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    async def _answer(self, request: Request) -> Answer | SharecapError:
        try:
            return await self._captioner.answer(request)
        except SharecapError as error:
            return error


class _Rounds:
    """The driver's side."""

    def __init__(self, outbox: Outbox, teacher: str, rules: RayRules, timeout_s: float) -> None:
        self.outbox, self.courier, self.teacher = outbox, outbox.courier, teacher
        self.rules, self.timeout_s = rules, timeout_s
        self._aside = Asides(self.courier, self._sing, self.courier.budget.price)
        self._tried: dict[bytes, int] = {}
        self._lost: BaseException | None = None  # what went wrong in the newest round

    async def drive(self) -> None:
        """Rounds until there are no more jobs, or the run stops; the canary sings before the first one and
        between them."""
        while not self.courier.stopping:
            if not self.outbox.ready() and not await self.outbox.more():
                return
            if not await self.outbox.start(self._aside):
                await self.outbox.seconds.finish()  # which have the money that the canary needs
            elif booked := await self._book():
                await self._round(booked)
                await self.outbox.between(self._aside)

    async def _book(self) -> dict[bytes, Leaving]:
        """Take jobs for a round, as many as money allows, and have them on disk as sent."""
        courier, booked = self.courier, dict[bytes, Leaving]()
        while len(booked) < self.rules.round and (leaving := self.outbox.take()):
            booked[leaving.job.key] = leaving
        name = self.outbox.wanted.captioner.name
        await asyncio.gather(
            *(
                courier.ledger.sent(one.job.key, one.job.image.id, name, one.job.prompt.id, one.worst_usd)
                for one in booked.values()
            )
        )
        courier.requests += len(booked)
        return booked

    async def _round(self, booked: dict[bytes, Leaving]) -> None:
        """Send a round out, book what comes back, and what doesn't."""
        sent = len(booked)
        rows = [{"key": key, "request": _packed_request(one.request)} for key, one in booked.items()]
        async with aclosing(self._answers(rows)) as answers:
            async for outcomes in answers:
                here = [(booked.pop(key), outcome) for key, outcome in outcomes.items() if key in booked]
                await asyncio.gather(*(self._take(one, outcome) for one, outcome in here))
        for one in booked.values():
            await self._take(one, self._gone())
        if self._lost and not self.courier.stopping and len(booked) == sent:
            self.courier.stop(SharecapError(f"the cluster answers nothing: {_words(self._lost)}"))

    async def _sing(self, requests: Mapping[bytes, Request]) -> dict[bytes, Answer | SharecapError]:
        """A small round of the canary's requests: the workers' captioner is the one that must see."""
        canary, outcomes = self.courier.canary, dict[bytes, Answer | SharecapError]()
        rows = [
            {
                "key": key,
                "request": _packed_request(one, is_blank=canary is not None and one.image == canary.blank),
            }
            for key, one in requests.items()
        ]
        async with aclosing(self._answers(rows)) as answers:
            async for some in answers:
                outcomes |= some
        return {key: self._gone() for key in requests} | outcomes

    def _gone(self) -> UnavailableError:
        """What became of a request that no worker brought back."""
        words = _words(self._lost) if self._lost else "a worker died, or the run stopped"
        paid = not self.teacher.startswith("local:")
        return UnavailableError("dropped", f"no answer came back ({words})", maybe_billed=paid)

    async def _answers(
        self, rows: list[dict[str, Any]]
    ) -> AsyncGenerator[dict[bytes, Answer | SharecapError]]:
        """The outcomes of a round by key, block by block, until all are there or the run stops."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[pa.Table | BaseException | None]()
        leave = threading.Event()

        def tell(what: pa.Table | BaseException | None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, what)

        self._lost = None
        stream = threading.Thread(target=self._stream, args=(rows, tell, leave), daemon=True)
        stream.start()
        try:
            while (table := await arrived.get()) is not None:
                if isinstance(table, BaseException):
                    self._lost = table
                    continue
                texts = table.column("outcome").to_pylist()
                yield dict(zip(table.column("key").to_pylist(), map(_unpacked, texts), strict=True))
                if self.courier.stopping:
                    leave.set()
        finally:
            leave.set()

    def _stream(self, rows: list[dict[str, Any]], tell: Any, leave: threading.Event) -> None:
        """In a thread of its own: have Ray Data work on the rows, and tell of every table that comes back."""
        try:
            for table in _dataset(rows, self.teacher, self.rules, self.timeout_s):
                tell(table)
                if leave.is_set():
                    break
        except Exception as error:  # noqa: BLE001  (Ray's are of many kinds, and the driver must hear of them)
            tell(error)
        finally:
            tell(None)

    async def _take(self, one: Leaving, outcome: Answer | SharecapError) -> None:
        key, steps = one.job.key, list(one.steps)
        tried = self._tried.get(key, 0) + isinstance(outcome, BusyError | UnavailableError)
        more = tried < self.rules.tries and not self.courier.stopping
        if await self.courier.take(one.job, one.worst_usd, outcome, steps, more_tries=more):
            self.outbox.again(one.job, steps)
            self._tried[key] = tried


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _dataset(
    rows: Sequence[Mapping[str, Any]], teacher: str, rules: RayRules, timeout_s: float
) -> Iterator[pa.Table]:
    """The outcomes of a round, a table for every block, in whatever order they come."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is booked, not printed
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a block that dies with its worker is missing, and the driver sees that
    context.execution_options.preserve_order = False
    blocks = [
        pa.Table.from_pylist(list(rows[at : at + rules.block])) for at in range(0, len(rows), rules.block)
    ]
    with warnings.catch_warnings():  # no other way is there before Ray 2.64 to have it repeat nothing
        warnings.simplefilter("ignore")
        dataset = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(teacher, timeout_s, rules.block),
            batch_size=None,  # a block as it is
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(rules.workers, len(blocks))),
            num_cpus=rules.cpus,
            num_gpus=rules.gpus or None,
            max_restarts=-1,
            max_task_retries=0,
        )
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _packed_request(request: Request, *, is_blank: bool = False) -> str:
    """As JSON. The canary's grey picture lies on no other node: each worker has its own."""
    return json.dumps(
        {
            "image": None if is_blank else asdict(request.image),
            "prompt": request.prompt,
            "sampling": asdict(request.sampling),
        }
    )


def _request_of(text: str, blank: Image) -> Request:
    fields = json.loads(text)
    image = Image(**fields["image"]) if fields["image"] else blank
    return Request(image, fields["prompt"], Sampling(**fields["sampling"]))


def _packed(outcome: Answer | SharecapError) -> str:
    """An outcome as JSON, so that nothing from a worker is ever unpickled into the ledger's process."""
    if isinstance(outcome, Answer):
        usage = asdict(outcome.usage) if outcome.usage else None
        fields = {"text": outcome.text, "finish_reason": outcome.finish_reason, "refusal": outcome.refusal}
        return json.dumps({"answer": fields, "usage": usage})
    error: dict[str, Any] = {"class": type(outcome).__name__, "what": outcome.what, "where": outcome.where}
    if isinstance(outcome, ImageError):
        error["reason"] = outcome.reason
    elif isinstance(outcome, BusyError):
        error["retry_after_s"] = outcome.retry_after_s
    elif isinstance(outcome, UnavailableError):
        error |= {"kind": outcome.kind, "maybe_billed": outcome.maybe_billed}
    return json.dumps({"error": error, "todo": outcome.todo})


def _unpacked(text: str) -> Answer | SharecapError:
    fields = json.loads(text)
    if answer := fields.get("answer"):
        return Answer(**answer, usage=Usage(**fields["usage"]) if fields["usage"] else None)
    error, todo = fields["error"], fields["todo"]
    what, where = error["what"], error["where"]
    match error["class"]:
        case "ImageError":
            return ImageError(error["reason"], what, where, todo)
        case "BusyError":
            return BusyError(what, where=where, retry_after_s=error["retry_after_s"])
        case "UnavailableError":
            return UnavailableError(error["kind"], what, where=where, maybe_billed=error["maybe_billed"])
        case name:
            return _PASSED_ON.get(name, TeacherError)(what, where=where, todo=todo)
