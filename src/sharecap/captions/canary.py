"""Does the model see the images? Now and then a request goes out again, with a blank and another picture.

Two answers about one picture must be more alike than answers about two. Where they aren't, the words come
from the prompt alone and the run stops. The canary's answers are booked and paid, and must never be captions.
Online it listens to every caption (`saw`). Where requests go out by files or rounds it sings before the first
(`start`), and `between` them.
"""

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sharecap.captions.captioner import RejectedError, Request, Sampling
from sharecap.captions.gates import CANARY
from sharecap.captions.ledger import Ledger
from sharecap.captions.plan import Job
from sharecap.errors import Stopped
from sharecap.images.place import place_of
from sharecap.records import Image

BLIND = "blind"
"""Kind of failure that captions become when the canary finds that the model doesn't see."""

SAYS = "the model does not seem to see the images"

ASKED = 3
"""Requests of one probe: the same picture, a blank one, another one. Without a caption it takes one more."""

MOST_CONDEMNED = 100_000
"""Captions since the last good probe that are kept in mind, and are failures if the next one is bad."""

Aside = Callable[[Sequence[Request]], Awaitable[Sequence[str | RejectedError | None] | None]]
"""Sends requests beside the run's own and books them; of each its words, the rejection, or None for neither.
None for all: there is no money for them just now."""

Case = tuple[Job, str | None]
"""What is probed: a request, and the caption that it brought, if it was sent already."""


@dataclass(frozen=True)
class Rules:
    """How often the canary sings, and when it falls silent."""

    probes: int = 2  # at the start
    every: int = 1_000  # captions between later probes
    window: int = 4  # newest probes that are judged together
    margin: float = 0.1  # by which answers about one picture must be more alike than about two
    share: float = 0.05  # of the requests at hand that the start may cost; below that there is no canary
    tries: int = 6  # probes that may fail to be answered before the canary is given up, which is reported


DEFAULT_RULES = Rules()


def is_worth_it(open_requests: int, rules: Rules = DEFAULT_RULES, *, asked: int = ASKED) -> bool:
    """The start's probes are at most `share` of the requests that are still to be sent (120 by default).

    `asked` is what one of them takes: one more where it has no caption (and 160 requests are the least).
    """
    return rules.probes * asked <= rules.share * open_requests


def alikeness(a: str, b: str) -> float:
    """0 to 1: the share of their words that two texts have in common (Jaccard, words of four letters or more;
    pairs of letters where most are not Latin, since some scripts have no spaces).
    """
    first, second = _content(a), _content(b)
    return len(first & second) / len(first | second) if first | second else 1.0


def _content(text: str) -> set[str]:
    text = text.lower()
    if text.isascii() or sum(c.isascii() for c in text) > len(text) / 2:
        return set(re.findall(r"\w{4,}", text))
    letters = re.sub(r"\W", "", text)
    return {letters[i : i + 2] for i in range(len(letters) - 1)}


def is_blind(probes: Sequence[tuple[float, float]], rules: Rules = DEFAULT_RULES) -> bool:
    """Judge the newest probes, each (alikeness of one picture's answers, alikeness across pictures)."""
    newest = probes[-rules.window :]
    if len(newest) < rules.probes:
        return False
    return sum(alike - apart for alike, apart in newest) / len(newest) < rules.margin


def means(probes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The two sides of what `is_blind` judges: mean alikeness of one picture's answers, and of two's."""
    return sum(a for a, _ in probes) / len(probes), sum(b for _, b in probes) / len(probes)


def blank_image() -> Image:
    """A grey picture, in a file beside this one."""
    path = Path(__file__).with_name("blank.png")
    data = path.read_bytes()
    return Image(hashlib.sha256(data).hexdigest(), "", str(path), 336, 336, "PNG", len(data), "0" * 16)


class Canary:
    """One per run. `saw` every caption; it returns what stops the run, or None."""

    def __init__(
        self,
        tag: str,
        ledger: Ledger,
        sampling: Sampling,
        *,
        blank: Image,
        others: Callable[[Image], Image | None],
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        """`tag` names the layer in the ledger; `others` finds a picture that is not the given one."""
        self.tag, self._ledger, self._blank, self._others, self.rules = tag, ledger, blank, others, rules
        self._sampling = replace(sampling, temperature=0.0)  # a blind model then says the same to the letter
        self._own_sampling = sampling
        known = ledger.probes(tag, rules.window)
        self.probes = [] if is_blind(known, rules) else known
        self.made = 0  # probes of this run
        self.unanswered = 0
        self._captions = 0  # since the last probe began
        self._out = 0
        self._blind = False
        self._since: list[bytes] = []  # keys of captions since the last good judgement
        self._newest: deque[Case] = deque(maxlen=max(rules.probes, rules.window))
        self._lock = asyncio.Lock()

    @property
    def blank(self) -> Image:
        """The grey picture."""
        return self._blank

    @property
    def booked_as(self) -> str:
        """The prompt id of its requests in the ledger."""
        return canary_id(self.tag)

    @property
    def is_silent(self) -> bool:
        """It sings no more: the model is blind, or the probes were not answered."""
        return self._blind or self.unanswered >= self.rules.tries

    @property
    def due_first(self) -> int:
        """Probes that are lacking before anything can be said of the model."""
        return 0 if self.is_silent else max(0, self.rules.probes - len(self.probes) - self._out)

    @property
    def due(self) -> int:
        """Probes that it is time for."""
        if self.is_silent:
            return 0
        return max(self.due_first, min(self._captions // self.rules.every, self.rules.window))

    async def heard(self, job: Job, text: str) -> None:
        """Count a caption."""
        if self._blind:  # it was on its way when the others were condemned
            await self._ledger.condemn([job.key], BLIND, SAYS)
            return
        self._captions += 1
        self._newest.append((job, text))
        if len(self._since) < MOST_CONDEMNED:
            self._since.append(job.key)

    async def saw(self, aside: Aside, job: Job, text: str) -> Stopped | None:
        """Count a caption; probe its request if it is time."""
        await self.heard(job, text)
        return await self._probe(aside, [(job, text)]) if self.due else None

    async def start(self, aside: Aside, jobs: Iterable[Job]) -> Stopped | None:
        """Before anything is sent: probe by these requests, without their captions, if it is time."""
        cases: list[Case] = [(job, None) for job in islice(jobs, self.due_first)]
        return await self._probe(aside, cases) if cases else None

    async def between(self, aside: Aside) -> Stopped | None:
        """Probe by the newest captions that were heard of, if it is time."""
        cases = list(self._newest)[-self.due :] if self.due else []
        return await self._probe(aside, cases) if cases else None

    async def _probe(self, aside: Aside, cases: Sequence[Case]) -> Stopped | None:
        """Ask for all cases at once, and judge by them all: a song that ends badly clears nobody."""
        captions, self._captions = self._captions, 0
        self._out += len(cases)
        try:
            requests = [self._requests(case) for case in cases]
            said = await self._said(aside, [request for some in requests for request in some])
            if said is None:
                self._captions += captions  # it stays due
                return None
            words, answered = iter(said), list[tuple[Job, list[str]]]()
            for (job, text), some in zip(cases, requests, strict=True):
                answers = [text, *(next(words) for _ in some)]
                heard = [answer for answer in answers if answer is not None]
                if len(heard) <= ASKED:
                    self.unanswered += 1
                else:
                    answered.append((job, heard))
            return await self._judge(answered) if answered else None
        finally:
            self._out -= len(cases)

    def _requests(self, case: Case) -> list[Request]:
        """The same picture (twice, where there is no caption yet), a blank one, another one."""
        job, text = case
        if (other := self._others(job.image)) is None:
            return []
        put = [Request(one, job.prompt.text, self._sampling) for one in (job.image, self._blank, other)]
        return put if text is not None else [Request(job.image, job.prompt.text, self._own_sampling), *put]

    async def _said(self, aside: Aside, requests: Sequence[Request]) -> list[str | None] | None:
        """The words of the answers; None for all where there was no money to ask."""
        if (said := await aside(requests)) is None:
            return None
        own = self._own_sampling
        cold = [
            n for n, one in enumerate(said) if isinstance(one, RejectedError) and requests[n].sampling != own
        ]
        words = [None if isinstance(one, RejectedError) else one for one in said]
        if cold:
            self._sampling = own  # some servers take no temperature
            more = await aside([replace(requests[n], sampling=own) for n in cold]) or []
            for n, one in zip(cold, more, strict=False):
                words[n] = None if isinstance(one, RejectedError) else one
        return words

    async def _judge(self, answered: Sequence[tuple[Job, Sequence[str]]]) -> Stopped | None:
        """By two answers about each picture, one about the blank one and one about another."""
        async with self._lock:
            for job, (text, control, blank, swapped) in answered:  # noqa: B007  (the last is the example)
                between = [alikeness(one, another) for one in (text, control) for another in (blank, swapped)]
                probe = alikeness(text, control), sum(between) / len(between)
                await self._ledger.probed(self.tag, *probe)
                self.made += 1
                self.probes = [*self.probes, probe][-self.rules.window :]
            if len(self.probes) < self.rules.probes:
                return None
            if not is_blind(self.probes, self.rules):
                self._since.clear()
                return None
            condemned, self._since, self._blind = self._since, [], True
            await self._ledger.condemn(condemned, BLIND, SAYS)
            alike, apart = means(self.probes)  # what was judged; the newest probe alone may say otherwise
            what = (
                f"gate {CANARY}: {SAYS}: answers about one picture are {alike:.0%} alike, about different "
                f"ones {apart:.0%}; for example {_shown(text)} on {place_of(job.image)}, and "
                f"{_shown(blank)} on a blank grey one; {len(condemned)} captions are booked as {BLIND}"
            )
            todo = f"mend the teacher and run again, which asks them anew; --accept {CANARY} takes them back"
            return Stopped(what, todo=todo)


def canary_id(tag: str) -> str:
    """The prompt id under which a layer's canary is booked."""
    return f"canary:{tag}"


def _shown(text: str) -> str:
    return repr(" ".join(text.split())[:100])
