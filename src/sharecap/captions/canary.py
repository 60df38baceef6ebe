"""Does the model see the images? Now and then a request goes out again, with a blank and another picture.

Two answers about one picture must be more alike than answers about two. Where they aren't, the words come
from the prompt alone and the run stops. The canary's answers are booked and paid, and must never be captions.
"""

import asyncio
import hashlib
import re
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image as Picture

from sharecap.captions.captioner import RejectedError, Request, Sampling
from sharecap.captions.gates import CANARY
from sharecap.captions.ledger import Ledger
from sharecap.captions.plan import Job
from sharecap.errors import Stopped
from sharecap.images.decode import decode_rgb
from sharecap.images.place import place_of
from sharecap.records import Image

BLIND = "blind"
"""Kind of failure that captions become when the canary finds that the model doesn't see."""

SAYS = "the model does not seem to see the images"

ASKED = 3
"""Requests of one probe: the same picture, a blank one, another one."""

MOST_CONDEMNED = 20_000
"""Captions since the last good probe that are kept in mind, and are failures if the next one is bad."""

Aside = Callable[[Request, bytes, str], Awaitable[str | None]]
"""Sends a request beside the run's own (key, prompt id) and books it; its words, None if there are none."""


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


def is_worth_it(open_requests: int, rules: Rules = DEFAULT_RULES) -> bool:
    """The start's probes are at most `share` of the requests that are still to be sent (120 by default)."""
    return rules.probes * ASKED <= rules.share * open_requests


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


@contextmanager
def blank_image() -> Iterator[Image]:
    """A grey picture in a file of its own, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="sharecap-") as folder:
        path = Path(folder) / "blank.png"
        Picture.new("RGB", (336, 336), (128, 128, 128)).save(path)
        data = path.read_bytes()
        decode_rgb(data, path)
        digest = hashlib.sha256(data).hexdigest()
        yield Image(digest, "", str(path), 336, 336, "PNG", len(data), "0" * 16)


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
        self._lock = asyncio.Lock()

    async def saw(self, aside: Aside, job: Job, text: str) -> Stopped | None:
        """Count a caption; probe its request if it is time."""
        if self._blind:  # it was on its way when the others were condemned
            await self._ledger.condemn([job.key], BLIND, SAYS)
            return None
        self._captions += 1
        if len(self._since) < MOST_CONDEMNED:
            self._since.append(job.key)
        at_start = len(self.probes) + self._out < self.rules.probes
        if self.unanswered >= self.rules.tries or not (at_start or self._captions >= self.rules.every):
            return None
        self._captions = 0
        self._out += 1
        try:
            outcome = await self._probe(aside, job, text)
            if outcome is None:
                self.unanswered += 1
                return None
            return await self._judge(outcome, job, text)
        finally:
            self._out -= 1

    async def _probe(self, aside: Aside, job: Job, text: str) -> tuple[float, float, str] | None:
        """(alikeness of one picture's answers, across pictures, words about the blank picture)."""
        other = self._others(job.image)
        if other is None:
            return None
        pictures = (job.image, self._blank, other)
        control, blank, swapped = await asyncio.gather(*(self._said(aside, job, one) for one in pictures))
        if control is None or blank is None or swapped is None:
            return None
        apart = [alikeness(one, another) for one in (text, control) for another in (blank, swapped)]
        return alikeness(text, control), sum(apart) / len(apart), blank

    async def _said(self, aside: Aside, job: Job, image: Image) -> str | None:
        for sampling in dict.fromkeys((self._sampling, self._own_sampling)):
            key = hashlib.sha256(b"canary" + secrets.token_bytes(16) + job.key).digest()
            try:
                return await aside(Request(image, job.prompt.text, sampling), key, canary_id(self.tag))
            except RejectedError:
                self._sampling = self._own_sampling  # some servers take no temperature
        return None

    async def _judge(self, outcome: tuple[float, float, str], job: Job, text: str) -> Stopped | None:
        async with self._lock:
            alike, apart, blank = outcome
            await self._ledger.probed(self.tag, alike, apart)
            self.made += 1
            self.probes = [*self.probes, (alike, apart)][-self.rules.window :]
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
