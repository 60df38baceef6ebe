"""What goes out by files or rounds, in which order: the driver's side that batches and clusters share.

Jobs go in passes: first all that are open, then what has to go once more and what waited for money of its
source. A source without money holds up no other. It must never hand out a job whose worst case is not
reserved.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from sharecap.captions.canary import Aside
from sharecap.captions.captioner import Request
from sharecap.captions.courier import Courier
from sharecap.captions.plan import Job, Plan, Survey
from sharecap.captions.seconds import Seconds

Engine = Callable[[Courier, Plan, Survey], Awaitable[None]]
"""Sees the open jobs through and books their outcomes by the courier, until there are none or it stops."""

Placed = tuple[int, Job]
"""A job and its image's place in the catalog."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A job that may leave: its money is set aside."""

    at: int  # its image's place in the catalog
    job: Job
    request: Request
    worst_usd: float | None
    steps: tuple[str, ...]  # the remedies that were taken before


class Outbox:
    """One per run. `take` what may leave, say what goes `again`; `more` when nothing is out any longer."""

    def __init__(self, courier: Courier, wanted: Plan, asked: Survey) -> None:
        self.courier, self.wanted, self._asked = courier, wanted, asked
        self.budget, self.seconds = courier.budget, Seconds(courier, courier.pace.ceiling)
        self._pass = self._first_pass()
        self._head: Placed | None = None
        self._here: set[bytes] = set()  # of this pass: what goes once more
        self._again: set[bytes] = set()  # of the next one
        # Sources that had no money in this pass, and where each one's first untouched job lies: no list of
        # jobs, since it may be all of a million.
        self._held: set[str] = set()
        self._from: dict[str, int] = {}

    async def start(self, aside: Aside) -> bool:
        """Let the canary sing before anything is sent; where it isn't answered, a few times.

        False if nothing may be sent: the run stops, or money for the canary is still to come back.
        """
        canary, courier, tries = self.courier.canary, self.courier, 0
        while canary and canary.due_first and self._asked.open and not courier.stopping:
            before = (canary.unanswered, canary.made)
            samples = self.wanted.open_jobs(self._asked.spread(canary.due_first))
            courier.stop_if(await canary.start(aside, samples))
            if (canary.unanswered, canary.made) == before:
                return False
            tries += 1
            if canary.due_first and not courier.stopping:
                await courier.pause(courier.backoff(tries))
        return not courier.stopping

    async def between(self, aside: Aside) -> None:
        """Let the canary sing if it is time."""
        if self.courier.canary:
            self.courier.stop_if(await self.courier.canary.between(aside))

    def again(self, job: Job, steps: list[str]) -> None:
        """It has to go once more, after these remedies: with the next pass, or to the second teacher now."""
        if self.courier.is_for_second(steps):
            self.seconds.add(job, steps)
        else:
            self._again.add(job.key)

    def take(self) -> Leaving | None:
        """The next job that may leave; None if there is none, or no money just now."""
        courier = self.courier
        while (placed := self._peek()) is not None:
            at, job = placed
            if job.image.source in courier.full:
                self._head = None
                continue
            if job.image.source in self._held:
                self._hold()
                continue
            request, worst, steps = courier.put(job)
            if courier.is_for_second(steps):
                self.seconds.add(job, steps)
                self._head = None
            elif self.budget.reserve(worst, job.image.source):
                self._head = None
                return Leaving(at, job, request, worst, tuple(steps))
            elif why := self.budget.source_wall(worst, job.image.source):
                courier.full[job.image.source] = why
            elif self.budget.fits(worst):
                self._hold()
            else:
                return None
        return None

    def give_back(self, leaving: Leaving) -> None:
        """It doesn't leave now: it is the next one again."""
        assert self._head is None
        self.budget.settle(leaving.worst_usd, 0.0, leaving.job.image.source)
        self._head = (leaving.at, leaving.job)

    def ready(self) -> bool:
        """Whether a job may leave now."""
        if (leaving := self.take()) is None:
            return False
        self.give_back(leaving)
        return True

    async def more(self) -> bool:
        """With nothing out: whether a job may leave after all. Where only money is lacking, the run stops."""
        while True:
            await self.seconds.finish()
            if self.courier.stopping:
                return False
            if self.ready():
                return True
            if self._head is not None:
                await self.seconds.finish()
                self.courier.out_of_money(self.courier.put(self._head[1])[1])
            elif not self._next_pass():
                await self.seconds.finish()
                return False

    def _peek(self) -> Placed | None:
        if self._head is None:
            self._head = next(self._pass, None)
        return self._head

    def _hold(self) -> None:
        """Leave the head, and what follows of its source, to the next pass."""
        assert self._head is not None
        (at, job), self._head = self._head, None
        self._held.add(job.image.source)
        if job.key in self._here:
            self._again.add(job.key)
        else:
            self._from.setdefault(job.image.source, at)

    def _next_pass(self) -> bool:
        """Begin another pass; False if there is nothing for it."""
        if not self._again and not self._from:
            return False
        self._here, self._again = self._again, set()
        begin, self._from, self._held = self._from, {}, set()
        self.courier.look_back = True  # to the remedies that were taken
        self._pass = self._later_pass(begin)
        return True

    def _first_pass(self) -> Iterator[Placed]:
        at = (place for place, is_open in enumerate(self._asked.open_at) if is_open)
        return zip(at, self.wanted.open_jobs(self._asked), strict=False)

    def _later_pass(self, begin: dict[str, int]) -> Iterator[Placed]:
        open_at = self._asked.open_at
        for at, job in enumerate(chain.from_iterable(self.wanted.jobs())):
            untouched = open_at[at] and at >= begin.get(job.image.source, len(open_at))
            if untouched or job.key in self._here:
                yield at, job
