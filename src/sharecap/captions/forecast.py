"""What a run will cost and take, before it is let loose: from a pilot's own bills, with an interval.

Also the very requests that a run would send, byte for byte, for people to look at. Nothing here sends
anything, and no key is ever part of what is shown.
"""

import hashlib
import json
import math
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from sharecap.captions.ledger import ledger_error, read_only
from sharecap.captions.plan import PIECE, Forecast, Job, Plan, Trail, glance
from sharecap.captions.prepare import data_url
from sharecap.captions.price import Budget, Price
from sharecap.captions.teachers.endpoint import Endpoint
from sharecap.images.dataset import LEDGER
from sharecap.images.decode import ImageError
from sharecap.images.place import place_of
from sharecap.records import Usage

FEWEST = 10
"""Images of a pilot below which no interval is given."""


@dataclass(frozen=True)
class Interval:
    """A forecast and the bounds between which the outcome lies in 95 of 100 cases, if the rest is alike."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Pilot:
    """What the captioned images cost, and what the others are therefore expected to."""

    images: int  # images that were captioned, and paid, for real
    usd: float | None  # what they cost, with retries, remedies and doubts; None without a price
    prompt_tokens: float  # mean per image
    completion_tokens: float
    remaining: int  # images still to be captioned
    remaining_usd: Interval | None
    remaining_s: Interval | None  # at the pace of this pilot; None where none of it was just made


def project(values: Sequence[float], more: int) -> Interval | None:
    """The sum of `more` further values like these, with a 95 % interval; None for fewer than `FEWEST`.

    Student's interval for a sum yet to be drawn: the mean is uncertain, and so is each further value.
    """
    n = len(values)
    if n < FEWEST:
        return None
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    half = _student(n - 1) * spread * math.sqrt(more**2 / n + more)
    return Interval(more * mean, max(0.0, more * mean - half), more * mean + half)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, expanded about the normal: within 0.5 % from 9 degrees on."""
    z, v = statistics.NormalDist().inv_cdf(0.975), freedom
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def pilot_of(plan: Plan, price: Price | None, since: float) -> Pilot:
    """What the settled requests of `plan` say of the open ones; time from those that ended after `since`."""
    trail = Trail()
    found = glance(plan, price, trail)
    usd: list[float] = []
    ends: list[float] = []
    tokens = [0, 0]
    rows = 0
    settled = iter(trail)
    while piece := list(islice(settled, PIECE)):
        for ended, cost, prompt_tokens, completion_tokens in _rows(plan, [key for _, key in piece]):
            rows += 1
            tokens[0] += prompt_tokens
            tokens[1] += completion_tokens
            if price:
                used = Usage(prompt_tokens, completion_tokens)
                usd.append(price.of(used) if cost is None else cost)
            if ended >= since:
                ends.append(ended)
    gaps = [later - earlier for earlier, later in pairwise(sorted(ends))]
    return Pilot(
        images=rows,
        usd=sum(usd) if price else None,
        prompt_tokens=tokens[0] / rows if rows else 0.0,
        completion_tokens=tokens[1] / rows if rows else 0.0,
        remaining=found.open,
        remaining_usd=project(usd, found.open) if price else None,
        remaining_s=project(gaps, found.open),
    )


def _rows(plan: Plan, keys: Sequence[bytes]) -> list[tuple[float, float | None, int, int]]:
    """(time of its end, USD with doubts, tokens in, tokens out) of requests."""
    path = plan.catalog.dataset / LEDGER
    db = read_only(path)
    if db is None:
        return []
    marks = ",".join("?" * len(keys))
    statement = (
        "SELECT changed_at, cost_usd + doubtful_usd, prompt_tokens, completion_tokens FROM requests "
        f"WHERE key IN ({marks})"
    )
    try:
        return db.execute(statement, keys).fetchall()
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error
    finally:
        db.close()


@dataclass(frozen=True)
class Shown:
    """A request as a run would send it."""

    image: str  # where it lies
    source: str
    prompt_id: str
    url: str  # "" for a captioner on this machine
    body: str  # the body, its base64 replaced by size and digest; the prompt alone without a URL
    body_bytes: int
    body_sha256: str  # of the very bytes
    worst_usd: float | None  # None without a price


def previews(plan: Plan, price: Price | None, most: int) -> Iterator[Shown]:
    """The first `most` requests that a run of `plan` would send, as it would send them."""
    for job in islice(plan.open_jobs(glance(plan, price)), most):
        yield _shown(plan, job, price)


def _shown(plan: Plan, job: Job, price: Price | None) -> Shown:
    url, body, shown = "", job.prompt.text.encode(), job.prompt.text
    if isinstance(plan.captioner, Endpoint):
        url = plan.captioner.url
        try:
            picture = data_url(job.image)
        except ImageError as error:
            body, shown = b"", f"nothing is sent: {error}"
        else:
            body = plan.captioner.payload(job.prompt.text, picture, plan.sampling)
            head, _, data = picture.partition(b",")
            digest = hashlib.sha256(data).hexdigest()
            label = f"[base64 of {len(data):,} characters, sha256 {digest}]"
            shown = body.replace(data, label.encode()).decode()
            assert head.decode() in shown
    return Shown(
        image=place_of(job.image),
        source=job.image.source,
        prompt_id=job.prompt.id,
        url=url,
        body=shown,
        body_bytes=len(body),
        body_sha256=hashlib.sha256(body).hexdigest(),
        worst_usd=Budget(price).worst(job.bound) if body else 0.0,
    )


def preview_lines(shown: Sequence[Shown], expected: Forecast) -> list[str]:
    """For people."""
    lines: list[str] = []
    for one in shown:
        usd = "" if one.worst_usd is None else f", at most ${one.worst_usd:.4f}"
        lines += [
            f"{one.image} (source {one.source}, prompt {one.prompt_id}{usd})",
            f"  POST {one.url}" if one.url else "  to the captioner on this machine",
            f"  {one.body_bytes:,} bytes, sha256 {one.body_sha256}",
            f"  {_readable(one.body)}",
        ]
    what = f"{len(shown):,} of {expected.requests:,} requests shown; nothing was sent"
    if expected.worst_usd is not None:
        what += f"; all of them cost at most ${expected.worst_usd:.4f}"
    return [*lines, what]


def _readable(text: str) -> str:
    """`text` without terminal codes, on one line."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def pilot_lines(pilot: Pilot) -> list[str]:
    """For people."""
    usd = "" if pilot.usd is None else f" for ${pilot.usd:.4f}"
    tokens = f"{pilot.prompt_tokens:,.0f} tokens in and {pilot.completion_tokens:,.0f} out per image"
    lines = [f"pilot: {pilot.images:,} images captioned{usd}; {tokens}"]
    if not pilot.remaining:
        return [*lines, "nothing remains"]
    rest = f"the other {pilot.remaining:,}"
    if cost := pilot.remaining_usd:
        lines.append(f"{rest} cost about ${cost.mean:.2f} (95 %: ${cost.low:.2f} to ${cost.high:.2f})")
    elif pilot.usd is None:
        lines.append("cost: not known without --price IN,OUT")
    if time := pilot.remaining_s:
        low, high = _duration(time.low), _duration(time.high)
        lines.append(f"{rest} take about {_duration(time.mean)} (95 %: {low} to {high}) at this pace")
    if pilot.images < FEWEST:
        lines.append(f"fewer than {FEWEST} images: no interval")
    return lines


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
    )
