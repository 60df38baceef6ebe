"""What a host's robots.txt lets us ask (RFC 9309). Each host's is read once and kept, within bounds.

Its text is hostile: only what is said to us reaches the parser, so that no file makes more work or takes more
memory than its size is worth.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import yarl
from protego import Protego

AGENT = "sharecap"
"""The product token by which robots.txt and `X-Robots-Tag` call us."""

MOST_BYTES = 500 * 1024
"""Of one robots.txt; the rest is not read. It is the least that RFC 9309 asks for."""

MOST_HOSTS, MOST_TEXT = 10_000, 4 * 2**20
"""Hosts whose rules are kept, and characters of all their rules."""

AT_ONCE = 20_000
"""Characters of rules that are parsed on the spot; longer ones in a thread, as others' answers wait."""

Ask = Callable[[yarl.URL], Awaitable[str]]
"""Fetches what an origin's robots.txt says to us, as `addressed` gives it; raises why it can't be had."""

_GROUP = re.compile(r"\s*user(?:-|\s+)?agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_TOKEN = re.compile(r"\*|[a-z_-]*", re.IGNORECASE)
_OF_THE_SITE = re.compile(r"\s*(?:site-?maps?|host)\b", re.IGNORECASE)


def addressed(body: bytes) -> str:
    """The groups of a robots.txt that are for us or for everybody, as text; "" if they are silent.

    A file with a thousand names before a thousand rules would become a million rules in the parser.
    """
    if len(body) >= MOST_BYTES:
        body = body[:MOST_BYTES].rpartition(b"\n")[0]  # a rule that is cut would forbid more than it says
    kept: list[str] = []
    ours = naming = says = False
    for whole in body.decode("utf-8-sig", "replace").splitlines():
        line = whole.partition("#")[0].strip()
        if group := _GROUP.match(line):
            token = _TOKEN.match(group[1])
            name = token[0].lower() if token else ""
            ours = (ours and naming) or name in ("*", AGENT)  # names in a row have their rules in common
            naming = True
            if name in ("*", AGENT):
                kept.append(f"User-agent: {name}")
        elif ":" in line and not _OF_THE_SITE.match(line):
            naming = False
            if ours:
                kept.append(line)
                says = True
    return "\n".join(kept) if says else ""


@dataclass
class _Host:
    """One origin. All who want to know wait for the same task."""

    task: "asyncio.Task[Protego | None]"
    asked: int = 1
    size: int = 0


class Robots:
    """Asks each host once, and where that failed again, up to `tries` times. No host waits for another's."""

    def __init__(self, ask: Ask, tries: int) -> None:
        self._ask, self._tries = ask, tries
        self._hosts: OrderedDict[yarl.URL, _Host] = OrderedDict()
        self._text = 0

    async def allows(self, address: yarl.URL) -> bool:
        """Whether the address may be asked; raises what `ask` raised where that can't be told."""
        origin = address.origin()
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(self._start(origin))
            self._make_room()
        elif host.task.done() and host.task.exception() and host.asked < self._tries:
            host.task, host.asked = self._start(origin), host.asked + 1
        self._hosts.move_to_end(origin)
        rules = await asyncio.shield(host.task)  # who gives up must not end it for the others
        return rules is None or rules.can_fetch(str(address), AGENT)

    def _start(self, origin: yarl.URL) -> "asyncio.Task[Protego | None]":
        task = asyncio.create_task(self._learn(origin))
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # perhaps nobody waits any more
        return task

    async def _learn(self, origin: yarl.URL) -> Protego | None:
        text = await self._ask(origin)
        if not text:
            return None
        long = len(text) > AT_ONCE
        rules = await asyncio.to_thread(Protego.parse, text) if long else Protego.parse(text)
        if host := self._hosts.get(origin):
            host.size = len(text)
            self._text += len(text)
            self._make_room()
        return rules

    def _make_room(self) -> None:
        """Forget those hosts that were asked about longest ago."""
        while len(self._hosts) > 1 and (len(self._hosts) > MOST_HOSTS or self._text > MOST_TEXT):
            _, oldest = self._hosts.popitem(last=False)
            self._text -= oldest.size

    async def close(self) -> None:
        """End what is still being asked."""
        tasks = [host.task for host in self._hosts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
