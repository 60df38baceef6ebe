"""Addresses that wait to be asked, by host: each host at its own pace, and none holds up the others.

Reads no more of a list than `WINDOW` addresses ahead of what is settled.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterator

from sharecap.images.url_list import BadAddressError, checked

WINDOW = 2_000
"""Addresses at hand, waiting or being asked."""


class HostQueue:
    """`urls` in turns of their hosts, with at most `per_host` requests to each at a time."""

    def __init__(self, urls: Iterator[str], per_host: int) -> None:
        self._urls, self._per_host = urls, per_host
        self._waiting: dict[str, deque[tuple[str, int]]] = {}
        self._turns: deque[str] = deque()  # hosts with addresses that wait, in turn
        self._out: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._later: list[tuple[float, str, str, int]] = []  # heap of addresses to be asked once more
        self._size = 0

    def take(self, now: float) -> tuple[str, str, int] | None:
        """(host, address, attempts so far) of a request that may go out now."""
        self._fill()
        while self._later and self._later[0][0] <= now:
            self._add(*heapq.heappop(self._later)[1:])
        for _ in range(len(self._turns)):
            host = self._turns[0]
            self._turns.rotate(-1)
            if self._out[host] < self._per_host and self._not_before.get(host, 0.0) <= now:
                url, attempts = self._waiting[host].popleft()
                if not self._waiting[host]:
                    del self._waiting[host]
                    self._turns.remove(host)
                self._out[host] += 1
                return host, url, attempts
        return None

    def _fill(self) -> None:
        while self._size < WINDOW and (url := next(self._urls, None)) is not None:
            self._add(host_of(url), url, 0)
            self._size += 1

    def _add(self, host: str, url: str, attempts: int) -> None:
        if host not in self._waiting:
            self._waiting[host] = deque()
            self._turns.append(host)
        self._waiting[host].append((url, attempts))

    def back(self, host: str) -> None:
        """A request to the host has ended."""
        self._out[host] -= 1
        if not self._out[host]:
            del self._out[host]

    def settled(self) -> None:
        """An address needs no more requests."""
        self._size -= 1

    def again(self, at: float, host: str, url: str, attempts: int) -> None:
        """Ask once more, at the time `at`."""
        heapq.heappush(self._later, (at, host, url, attempts))

    def rest(self, host: str, until: float) -> None:
        """Ask the host nothing before `until`."""
        self._not_before[host] = max(until, self._not_before.get(host, 0.0))

    def wait_s(self, now: float) -> float:
        """Until something may go out that has to wait now; at least a moment."""
        times = [self._not_before.get(host, 0.0) for host in self._turns]
        times += [self._later[0][0]] if self._later else []
        return max(0.01, min((t for t in times if t > now), default=now + 1.0) - now)

    def __bool__(self) -> bool:
        self._fill()
        return self._size > 0


def host_of(url: str) -> str:
    """Host and port of an address, "" where there is none."""
    try:
        address = checked(url)
    except BadAddressError:
        return ""
    return f"{address.host}:{address.port}"
