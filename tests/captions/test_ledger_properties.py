"""Whatever is booked, in whatever order, closed or killed wherever: the ledger says what was booked.

A machine books at random and tells a model in plain Python of it; after each step the two must agree. Money
is in parts of 1/1024 dollar, which floats add up exactly, so a sum is right or wrong, never nearly right.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sharecap.captions.ledger import IN_BATCH, Entry, How, InFlight, Ledger, Plain
from sharecap.captions.storable import storable
from sharecap.records import Usage

KEYS = (b"", b"\0", b"a" * 32, b"'; DROP TABLE requests; --")
PROMPTS = ("pack@1/coco", 'pack@1/"; DELETE FROM texts; --', "pack@1/\0\U0001f600")
CONDEMNED = ("blind", "blind\0")
FAILED = ("refusal", "server_error", "remedy_empty", IN_BATCH, "in_flight", "'", "\ud800")

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Thousands of commits wait for no disk here. A kill loses nothing that was written, synced or not."""

HOSTILE = ("", "\0", "a\0b", "'); DROP TABLE requests; --", "?1", "half \ud83d", "\ude00\ud83d")
LONG = ("x" * 600, "é" * 1_100_000)

text = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(HOSTILE + LONG)
usd = st.integers(0, 2**20).map(lambda parts: parts / 1024)
usages = st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6))
rates = st.tuples(*[st.integers(0, 8).map(lambda n: n * 1e6 / 1024)] * 2)  # USD per million tokens
hows = st.none() | st.builds(How, text, text, st.sampled_from(["", "loop:redrawn", "a:b c:d"]))


@dataclass
class Request:
    """What must be known of a request, by what was booked of it."""

    prompt_id: str
    state: str = "sent"
    attempts: int = 0
    reserved: float | None = None
    doubtful: int = 0
    doubtful_usd: float = 0.0
    cost: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kind: str | None = None
    error: str | None = None
    finish: str | None = None
    said: str | None = None
    how: How | None = None
    condemned: str | None = None  # as what

    def send(self, worst: float | None, in_batch: bool) -> None:
        self.state, self.reserved, self.condemned = "sent", worst, None
        self.attempts, self.kind = self.attempts + 1, IN_BATCH if in_batch else None

    def paid(self, usage: Usage, cost: float | None, price: tuple[float, float]) -> None:
        before = (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6
        if cost is not None:
            self.cost = (before if self.cost is None else self.cost) + cost
        elif usage != Usage():  # an answer at no known price makes the whole request unpriced
            self.cost = None
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens

    def end(self, state: str, kind: str | None, error: str | None, finish: str | None) -> None:
        self.state, self.kind, self.error, self.finish = state, kind, error, finish
        self.reserved = None

    def say(self, words: str | None, how: How | None) -> None:
        self.said = self.said if words is None else storable(words)
        self.how = How(*map(storable, how)) if how else self.how

    def killed(self) -> None:
        self.doubtful, self.doubtful_usd = self.doubtful + 1, self.doubtful_usd + (self.reserved or 0.0)
        self.end("failed", "in_flight", "the run was killed while the request was out", self.finish)

    @property
    def owed(self) -> float:
        """All that it can have cost."""
        return (self.cost or 0.0) + self.doubtful_usd + (self.reserved or 0.0)

    def entry(self, key: bytes, *, texts: bool) -> Entry:
        facts = (key, self.state, self.attempts, self.doubtful, self.doubtful_usd, self.reserved, self.cost)
        facts += (self.prompt_tokens, self.completion_tokens, self.kind, self.error, self.finish)
        if not texts:
            return Entry(*facts, None)
        return Entry(*facts, self.said, *(self.how or (None, None, None)))


@dataclass
class Change:
    """Something to book, and what it does to the model."""

    book: Callable[[Ledger], Awaitable[None]]
    statements: int  # in SQL


@dataclass
class Model:
    requests: dict[bytes, Request] = field(default_factory=dict)
    probes: list[tuple[str, float, float]] = field(default_factory=list)

    def out(self) -> list[Request]:
        """What a kill now would leave open."""
        return [one for one in self.requests.values() if one.state == "sent" and one.kind != IN_BATCH]


class Bookkeeping(RuleBasedStateMachine):
    """One dataset's ledger, over many runs."""

    @initialize()
    def begin(self) -> None:
        self.loop, self.folder = asyncio.new_event_loop(), tempfile.TemporaryDirectory(dir=MEMORY)
        self.model, self.runs = Model(), 0
        self.path = Path(self.folder.name) / "0" / "ledger.sqlite"
        self.path.parent.mkdir()
        self.ledger = Ledger(self.path).__enter__()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.__exit__()
            self.loop.close()
            self.folder.cleanup()

    # What is booked.

    @rule(data=st.data())
    def something_is_booked(self, data: st.DataObject) -> None:
        self._await(self._book(self._draw(data)))

    @rule(data=st.data(), number=st.integers(2, 5))
    def changes_gather(self, data: st.DataObject, number: int) -> None:
        """Some of them of the same request, one after the other."""
        changes = [self._draw(data) for _ in range(number)]

        async def together() -> None:
            await asyncio.gather(*(self._book(change) for change in changes))

        self._await(together())

    @rule(data=st.data(), closed=st.booleans())
    def nobody_waits_for_a_change(self, data: st.DataObject, closed: bool) -> None:
        """It is made all the same, also if the ledger is closed right after."""
        change = self._draw(data)

        async def give_up() -> None:
            waiting = asyncio.create_task(self._book(change))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            if not closed:
                await self.ledger.condemn([], "", "")  # booked after it, so it is on disk when this is

        self._await(give_up())
        if closed:
            self.it_is_closed_and_opened()

    @precondition(lambda self: any(one.state == "done" for one in self.model.requests.values()))
    @rule(kind=st.sampled_from(CONDEMNED), keys=st.sets(st.sampled_from(KEYS)), error=text)
    def captions_are_condemned(self, kind: str, keys: set[bytes], error: str) -> None:
        for key in keys & self.model.requests.keys():
            one = self.model.requests[key]
            if one.state == "done":  # nothing else can be
                one.state, one.kind, one.error, one.condemned = "failed", kind, storable(error), kind
        self._await(self.ledger.condemn(list(keys), kind, error))

    @precondition(lambda self: any(one.condemned for one in self.model.requests.values()))
    @rule(kind=st.sampled_from(CONDEMNED))
    def captions_are_reinstated(self, kind: str) -> None:
        for one in self.model.requests.values():
            if one.condemned == kind:
                one.state, one.kind, one.error, one.condemned = "done", None, None, None
        self._await(self.ledger.reinstate(kind))

    @rule(layer=st.sampled_from(["a", "\0"]), alike=usd, apart=usd)
    def the_canary_sings(self, layer: str, alike: float, apart: float) -> None:
        self.model.probes.append((layer, alike, apart))
        self._await(self.ledger.probed(layer, alike, apart))

    # How runs end.

    @rule()
    def it_is_closed_and_opened(self) -> None:
        self.ledger.__exit__()
        self._open(self.path)

    @rule()
    def the_run_is_killed(self) -> None:
        """What lies on disk at this moment is all that the next run has."""
        copy = self._copy()
        self.ledger.__exit__()
        self._open(copy)

    @rule(data=st.data(), at=st.integers(0, 5))
    def the_run_is_killed_while_it_books(self, data: st.DataObject, at: int) -> None:
        """Before the statement `at` of the change: it isn't there at all then, be it words or money."""
        before = {key: Request(**vars(one)) for key, one in self.model.requests.items()}
        change, seen, copies = self._draw(data), 0, list[Path]()

        def statement(_: str) -> None:
            nonlocal seen
            if seen == at:
                copies.append(self._copy())
            seen += 1

        self.ledger._writer.set_trace_callback(statement)
        self._await(self._book(change))
        self.ledger._writer.set_trace_callback(None)
        assert seen == change.statements + 2  # with BEGIN and COMMIT
        if copies:
            self.model.requests = before
        copies = copies or [self._copy()]
        self.ledger.__exit__()
        self._open(copies[0])

    # What is asked.

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def it_knows_every_request(self) -> None:
        known = self.model.requests
        for texts in (True, False):
            found = self.ledger.look_up(KEYS, texts=texts)
            assert found == {key: one.entry(key, texts=texts) for key, one in known.items()}
        for key in KEYS:
            kind, steps = self.ledger.remedied(key)
            one = known.get(key) or Request("")
            assert (kind, steps) == (one.kind, one.how.steps.split() if one.how else [])

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def money_adds_up(self) -> None:
        for prompt in PROMPTS:
            under = [one for one in self.model.requests.values() if one.prompt_id == prompt]
            assert self.ledger.spent_on(prompt) == (sum(one.owed for one in under), len(under))

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def it_knows_what_is_plainly_done(self) -> None:
        for keys in (*([key] for key in KEYS), KEYS, [*KEYS, b"never sent"], []):
            assert self.ledger.plainly_done(keys) == list(map(self._plain, keys))

    @rule(layer=st.sampled_from(["a", "\0"]), newest=st.integers(0, 4))
    def it_knows_the_newest_probes(self, layer: str, newest: int) -> None:
        of_layer = [(alike, apart) for name, alike, apart in self.model.probes if name == layer]
        assert self.ledger.probes(layer, newest) == of_layer[len(of_layer) - min(newest, len(of_layer)) :]

    # Details.

    def _plain(self, key: bytes) -> Plain | None:
        one = self.model.requests.get(key)
        if one is None or one.state != "done" or one.doubtful or one.doubtful_usd:
            return None
        return (key, one.cost, one.prompt_tokens, one.completion_tokens)

    def _draw(self, data: st.DataObject) -> Change:
        """A change that a run could make now, which the model has made already."""
        key = data.draw(st.sampled_from(KEYS))
        one = self.model.requests.get(key)
        if one is None or one.state == "failed":
            return self._sending(data, key)
        if one.state == "done":  # it is asked no more; another one may be
            others = [k for k in KEYS if (r := self.model.requests.get(k)) is None or r.state != "done"]
            if not others:
                return Change(lambda ledger: ledger.condemn([key], *CONDEMNED), self._condemned(key))
            key = data.draw(st.sampled_from(others))
            one = self.model.requests.get(key)
            if one is None or one.state == "failed":
                return self._sending(data, key)
        return self._outcome(data, key, one)

    def _condemned(self, key: bytes) -> int:
        one = self.model.requests[key]
        one.state, one.kind, one.error, one.condemned = "failed", CONDEMNED[0], CONDEMNED[1], CONDEMNED[0]
        return 1

    def _sending(self, data: st.DataObject, key: bytes) -> Change:
        prompt, model = data.draw(st.sampled_from(PROMPTS)), data.draw(text)
        worst, in_batch = data.draw(st.none() | usd), data.draw(st.booleans())
        # Another prompt would be another key.
        one = self.model.requests.setdefault(key, Request(prompt))
        one.send(worst, in_batch)
        return Change(
            lambda ledger: ledger.sent(key, "\0", model, one.prompt_id, worst, in_batch=in_batch), 1
        )

    def _outcome(self, data: st.DataObject, key: bytes, one: Request) -> Change:
        usage, cost, price = data.draw(usages), data.draw(st.none() | usd), data.draw(rates)
        how, words, finish = data.draw(hows), data.draw(text), data.draw(text)
        if data.draw(st.booleans()):
            one.paid(usage, cost, price)
            one.end("done", None, None, storable(finish))
            one.say(words, how)
            return Change(
                lambda ledger: ledger.done(key, words, finish, usage, cost, price=price, how=how),
                2 + (how is not None),
            )
        kind, error, doubtful = data.draw(st.sampled_from(FAILED)), data.draw(text), data.draw(st.booleans())
        said, maybe = data.draw(st.sampled_from([None, words])), data.draw(st.none() | usd)
        answered, maybe = data.draw(st.sampled_from([None, finish])), maybe if doubtful else None
        one.paid(usage, cost, price)
        one.end(
            "failed", storable(kind), storable(error[:500]), None if answered is None else storable(answered)
        )
        one.doubtful, one.doubtful_usd = one.doubtful + doubtful, one.doubtful_usd + (maybe or 0.0)
        one.say(said, how)
        return Change(
            lambda ledger: ledger.failed(
                key,
                kind,
                error,
                usage=usage,
                cost_usd=cost,
                doubtful=doubtful,
                doubtful_usd=maybe,
                text=said,
                finish_reason=answered,
                price=price,
                how=how,
            ),
            1 + (said is not None) + (how is not None),
        )

    async def _book(self, change: "Change") -> None:
        await change.book(self.ledger)

    def _await(self, booking: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(booking, 60))

    def _copy(self) -> Path:
        """The files as they are now. Only the writer's thread changes them, and it is at rest or calls us."""
        self.runs += 1
        copy = Path(self.folder.name) / str(self.runs)
        shutil.copytree(self.path.parent, copy)
        return copy / self.path.name

    def _open(self, path: Path) -> None:
        """The next run. It finds what was out, once."""
        out = self.model.out()
        worsts = [one.reserved for one in out if one.reserved is not None]
        if path != self.path:
            shutil.rmtree(self.path.parent)
        self.path, self.ledger = path, Ledger(path).__enter__()
        assert self.ledger.in_flight == InFlight(len(out), sum(worsts) if worsts else None)
        for one in out:
            one.killed()


def test_nothing_booked_is_lost_and_money_adds_up_whatever_happens() -> None:
    bounded = settings(
        max_examples=30, stateful_step_count=25, deadline=None, derandomize=True, database=None
    )
    run_state_machine_as_test(Bookkeeping, settings=bounded)
