"""Progress of long work on stderr: one live line on a terminal, a plain line every few seconds elsewhere.

It must never write to stdout, which belongs to results.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # most long work runs without a terminal, and should start at once
    from rich.status import Status


@dataclass
class Progress:
    """Counts that someone watches. `done` of `total` items; `failed` of them are named failures."""

    verb: str
    total: int | None = None
    every_s: float = 5.0  # seconds between lines where there is no terminal
    stream: TextIO | None = None  # None: stderr
    clock: Callable[[], float] = time.monotonic
    quiet: bool = False
    done: int = 0
    failed: int = 0
    cost_usd: float | None = None
    note: str = ""  # a few words on what is being waited for
    _started: float = 0.0
    _shown: float = 0.0
    _base: int = 0
    _status: "Status | None" = field(default=None, repr=False)

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show while the block runs. What is `done` before counts neither for rate nor for time left."""
        stream = self.stream or sys.stderr
        self._started = self._shown = self.clock()
        self._base = self.done
        if self.quiet:
            yield self
            return
        if stream.isatty():
            from rich.console import Console

            self._status = Console(file=stream).status(self.line())
            with self._status:
                yield self
            self._status = None
        else:
            yield self
        print(self.line(), file=stream, flush=True)

    def tick(self, force: bool = False) -> None:
        """Call after each change; cheap when there is nothing to show yet. `force` shows it at once."""
        if self.quiet:
            return
        now = self.clock()
        if not force and now - self._shown < (0.1 if self._status else self.every_s):
            return
        self._shown = now
        if self._status:
            self._status.update(self.line())
        else:
            print(self.line(), file=self.stream or sys.stderr, flush=True)

    def line(self) -> str:
        """For example `captioned 120/1,000 · 3 failed · 8.1/s · $0.42 · 1 min 49 s left`."""
        parts = [f"{self.verb} {self.done:,}" + ("" if self.total is None else f"/{self.total:,}")]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        fresh, seconds = self.done - self._base, self.clock() - self._started
        if fresh > 0 and seconds > 0:
            parts.append(f"{fresh / seconds:.1f}/s")
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd:.4f}" if self.cost_usd < 1 else f"${self.cost_usd:,.2f}")
        if fresh > 0 and self.total is not None and self.done < self.total:
            parts.append(f"{in_words((self.total - self.done) * seconds / fresh)} left")
        if self.note:
            parts.append(self.note)
        return " · ".join(parts)


def in_words(seconds: float) -> str:
    """`75.2` becomes `1 min 15 s`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
