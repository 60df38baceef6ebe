"""How many requests may be out at a time, and when the next may leave: no faster than the server can bear.

Additive increase, multiplicative decrease, below the user's ceiling; buckets for requests and tokens, filled
by what the server says of its own limits. Pure: time is passed in. It must never count base64 as text.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sharecap.records import Usage

CUT = 0.75
"""An overload leaves so much of the window, once per round trip."""

RUN = 25
"""Answers in a row that widen the window by one; a window below it widens once per round trip."""

AHEAD = 8
"""For every so many requests that may be out, one more may be got ready to leave when one of them is back."""

CHARS_PER_TOKEN = 4.0
"""Of a prompt's text. What it is off by counts with the image, whose tokens are learned."""

FIRST_IMAGE_TOKENS, FIRST_ANSWER_TOKENS = 1_000.0, 300.0
"""Guesses until the first usage is reported."""

LEARNED = 0.1
"""Weight of the newest usage in the running means."""

LONGEST_WAIT_S = 60.0
"""After so long it is asked again, whatever a server promised."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One of a server's limits, as one response told it."""

    most: float | None  # what fits into the bucket
    left: float  # what was left of it after this request
    reset_s: float | None  # until it is full again


@dataclass(frozen=True, slots=True)
class Limits:
    """What a response says of the server's limits; None where it says nothing."""

    requests: Limit | None = None
    tokens: Limit | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request that left."""

    at: float  # when
    tokens: float  # what it was thought to use
    requests_mark: float  # all requests that had left, with it
    tokens_mark: float  # all tokens that had left, with it


@dataclass
class Bucket:
    """What the server still grants. Without word from the server it is bottomless."""

    level: float = math.inf
    most: float = math.inf
    rate: float = 0.0  # per second
    taken: float = 0.0  # all that was ever taken
    _at: float = 0.0  # when `level` was right
    _mark: float = 0.0  # how much had been taken at the newest word

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` (or all that ever fits) is there."""
        self._refill(now)
        short = min(amount, self.most) - self.level
        if short <= 0:
            return 0.0
        return min(short / self.rate, LONGEST_WAIT_S) if self.rate > 0 else LONGEST_WAIT_S

    def take(self, amount: float, now: float) -> float:
        """Take it; returns all that was ever taken."""
        self._refill(now)
        self.level -= amount
        self.taken += amount
        return self.taken

    def heard(self, limit: Limit | None, mark: float, now: float) -> None:
        """Learn from a response what was left once all up to `mark` had been counted."""
        if limit is None or mark < self._mark or (limit.most is None and limit.reset_s is None):
            return
        self._mark, self._at = mark, now
        self.most = limit.most if limit.most is not None else max(limit.left, 1.0)
        self.level = limit.left - (self.taken - mark)
        gone = self.most - limit.left
        self.rate = gone / limit.reset_s if limit.reset_s and gone > 0 else self.most / 60.0

    def _refill(self, now: float) -> None:
        self.level = min(self.most, self.level + self.rate * max(0.0, now - self._at))
        self._at = now


@dataclass
class Pace:
    """One per run. Ask `wait_s`, then `leave`; when the request is over, say how it went and `back`."""

    ceiling: int  # requests out at a time, at most
    clock: Callable[[], float]  # seconds, never going back
    out: int = 0
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    _window: float = field(default=0.0, init=False)
    _run: int = 0  # answers since the window changed
    _cut_at: float = -math.inf
    _resume_at: float = -math.inf
    _image_tokens: float = FIRST_IMAGE_TOKENS
    _answer_tokens: float = FIRST_ANSWER_TOKENS

    def __post_init__(self) -> None:
        self._window = float(self.ceiling)

    @property
    def window(self) -> int:
        """How many requests may be out now."""
        return max(1, min(self.ceiling, int(self._window)))

    def wait_s(self, prompt: str, *, ready: int | None = None) -> float | None:
        """Seconds after which to ask again; 0: leave now; None: not before a request is back.

        With `ready` it is asked for a request that is to be got ready, beside so many that are.
        """
        now = self.clock()
        if now < self._resume_at:
            return self._resume_at - now
        near, room = (self.out, 0) if ready is None else (self.out + ready, self.window // AHEAD)
        if near >= self.window + room:
            return None
        return max(self.requests.wait_s(1, now), self.tokens.wait_s(self.expected_tokens(prompt), now))

    def leave(self, prompt: str) -> Ticket:
        """A request leaves now."""
        now, tokens = self.clock(), self.expected_tokens(prompt)
        self.out += 1
        return Ticket(now, tokens, self.requests.take(1, now), self.tokens.take(tokens, now))

    def answered(self, ticket: Ticket, prompt: str, usage: Usage | None, limits: Limits = NO_LIMITS) -> None:
        """The server did its work: widen the window after a run of these, learn what requests use."""
        self._run += 1
        if self._run >= min(RUN, self.window) and self._window < self.ceiling:
            self._window, self._run = min(float(self.ceiling), self._window + 1), 0
        if usage:
            image = max(0.0, usage.prompt_tokens - len(prompt) / CHARS_PER_TOKEN)
            self._image_tokens += LEARNED * (image - self._image_tokens)
            self._answer_tokens += LEARNED * (usage.completion_tokens - self._answer_tokens)
        self._heard(ticket, limits)

    def overloaded(self, ticket: Ticket, wait_s: float, limits: Limits = NO_LIMITS) -> None:
        """The server has too much to do: hold all for `wait_s`, and narrow the window once per round trip."""
        now = self.clock()
        self._run = 0
        if ticket.at > self._cut_at:  # what left before the last cut tells of the same jam
            self._window, self._cut_at = max(1.0, self.window * CUT), now
        self._resume_at = max(self._resume_at, now + wait_s)
        self._heard(ticket, limits)

    def back(self) -> None:
        """A request is over, however it ended."""
        assert self.out > 0
        self.out -= 1

    def expected_tokens(self, prompt: str) -> float:
        """What one request counts for: its words, and its image and answer as usage has shown them."""
        return len(prompt) / CHARS_PER_TOKEN + self._image_tokens + self._answer_tokens

    def _heard(self, ticket: Ticket, limits: Limits) -> None:
        now = self.clock()
        self.requests.heard(limits.requests, ticket.requests_mark, now)
        self.tokens.heard(limits.tokens, ticket.tokens_mark, now)


_NAMES = (
    ("x-ratelimit-limit-{}", "x-ratelimit-remaining-{}", "x-ratelimit-reset-{}"),
    ("anthropic-ratelimit-{}-limit", "anthropic-ratelimit-{}-remaining", "anthropic-ratelimit-{}-reset"),
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def limits_of(headers: Mapping[str, str], now: datetime) -> Limits:
    """The limits that response headers tell of. Names are looked up as given: pass a case-blind mapping."""
    return Limits(_limit(headers, "requests", now), _limit(headers, "tokens", now))


def _limit(headers: Mapping[str, str], of: str, now: datetime) -> Limit | None:
    for most, left, reset in _NAMES:
        if (remaining := _number(headers.get(left.format(of)))) is not None:
            at = headers.get(reset.format(of))
            return Limit(_number(headers.get(most.format(of))), remaining, seconds_until(at, now))
    return None


def seconds_until(text: str | None, now: datetime) -> float | None:
    """`12`, `6m0s`, `17ms`, an ISO date or an HTTP date as seconds from now; None if it is none of these."""
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if (number := _number(text)) is not None:
        return number
    pieces = _DURATION.findall(text)
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            when = parse(text)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            return max(0.0, (when - now).total_seconds())
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _number(text: str | None) -> float | None:
    """A finite number of at least zero."""
    try:
        number = float(text) if text is not None and len(text) <= 32 else math.nan
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
