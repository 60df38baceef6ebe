"""A few processes that look at candidates, and what happens when one of them hangs or dies.

The candidate that a worker was at becomes one named failure; the worker is replaced, and the others behind it
are looked at by the next. Results come in the candidates' order. It must never wait longer than the limit.
"""

import atexit
import json
import math
import operator
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.images.candidate import Candidate, Failure, Known
from sharecap.images.decode import MAX_PIXELS
from sharecap.records import Image

LIMIT_S = 60.0
"""Seconds that one image may take to be read and decoded."""

START_S = 120.0
"""Seconds that a worker may take to start."""

MANY = 200
"""From so many candidates on all cores look at them; below, one worker is enough."""

AHEAD = 16
"""Candidates that a worker has, the one that it is at included: it need not wait for the next."""

NAP_S = 0.008
"""Waking up for each answer would cost the workers their cores; while they have enough to do, we sleep."""

OPEN = 256
"""Candidates per worker whose results may wait for an earlier one's."""

Result = Image | Known | Failure

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A worker is one core's work; numpy's own threads would only wait for each other."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A candidate's place in the order."""

    candidate: Candidate | None  # None: looked at; its bytes need not be kept any longer
    result: Result | None = None


@dataclass(eq=False)
class _Worker:
    process: "subprocess.Popen[bytes]"
    tasks: int  # descriptor to write to, never blocking
    answers: int  # descriptor to read from
    outbox: bytearray = field(default_factory=bytearray)
    inbox: bytearray = field(default_factory=bytearray)
    slots: deque[_Slot] = field(default_factory=deque)  # the first is the one that it is at
    ready: bool = False
    since: float = 0.0  # when it took up the first slot, or was started

    @classmethod
    def start(cls) -> "_Worker":
        """A new process; `ready` comes later."""
        command = [sys.executable, "-m", "sharecap.images.worker"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            bufsize=0,
            process_group=0,  # Ctrl-C is for the parent; a worker ends when its input does
        )
        assert process.stdin
        assert process.stdout
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
        return cls(process, process.stdin.fileno(), process.stdout.fileno(), since=time.monotonic())

    def end(self) -> None:
        """Kill it and leave nothing behind."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with suppress(OSError):  # what is still to be written has no reader
                pipe.close()
        self.process.wait()

    def late(self, limit_s: float) -> float:
        """Seconds until it is too late."""
        return self.since + (limit_s if self.ready else START_S) - time.monotonic()


_SPARE: list[_Worker] = []
"""At most one idle worker, kept for the next dataset: starting one takes half a second."""


@atexit.register
def _dismiss() -> None:
    while _SPARE:
        _SPARE.pop().end()


def cores() -> int:
    """How many of them this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@dataclass
class Crew:
    """Looks at candidates; use `results` once."""

    known: Path | None = None  # file of sorted raw sha256 of images that need not be decoded again
    max_pixels: int = MAX_PIXELS
    limit_s: float = LIMIT_S
    cores: int = field(default_factory=cores)
    _workers: list[_Worker] = field(default_factory=list)
    _again: deque[_Slot] = field(default_factory=deque)  # to be sent once more: their worker died
    _watch: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _sent: int = 0
    _left: float = field(default_factory=time.monotonic)  # when `_wait` was left

    def results(self, wanted: Iterable[Candidate]) -> Generator[Result, None, None]:
        """What each candidate is, in order."""
        ahead = iter(wanted)
        order: deque[_Slot] = deque()
        more = True
        try:
            while True:
                self._resend()
                while (
                    more
                    and not self._again
                    and len(order) < OPEN * max(1, len(self._workers))
                    and (worker := self._least())
                ):
                    candidate = next(ahead, None)
                    if candidate is None:
                        more = False
                    elif candidate.problem:
                        order.append(_Slot(None, Failure.of(candidate, *candidate.problem)))
                    else:
                        order.append(_Slot(candidate))
                        self._send(worker, order[-1])
                for worker in self._workers:  # one write for all that it was sent
                    if worker.outbox:
                        self._write(worker)
                while order and (result := order[0].result) is not None:
                    order.popleft()
                    yield result
                if not more and not order:
                    return
                if order:
                    self._wait()
        finally:
            self._close()

    def _resend(self) -> None:
        while self._again and (worker := self._least()):
            self._send(worker, self._again.popleft())

    def _least(self) -> _Worker | None:
        """The worker that has least to do, if it may have more; a new one where cores are idle."""
        worker = min(self._workers, key=lambda w: len(w.slots), default=None)
        if worker is None or (worker.slots and self._sent >= MANY and len(self._workers) < self.cores):
            return self._join()
        return worker if len(worker.slots) < AHEAD else None

    def _join(self) -> _Worker:
        while _SPARE:
            worker = _SPARE.pop()
            if worker.process.poll() is None:
                break
            worker.end()
        else:
            worker = _Worker.start()
        # Should we be killed while it hangs, its own alarm ends it.
        alarm_s = 2 * math.ceil(self.limit_s) + 1
        begin = {"known": str(self.known or ""), "max_pixels": self.max_pixels, "alarm_s": alarm_s}
        worker.outbox += json.dumps({"begin": begin}).encode() + b"\n"
        self._workers.append(worker)
        self._watch.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _send(self, worker: _Worker, slot: _Slot) -> None:
        candidate = slot.candidate
        assert candidate
        task = list(_VALUES(candidate))
        if candidate.data is not None:
            task[_DATA] = len(candidate.data)
        worker.outbox += json.dumps(task).encode() + b"\n" + (candidate.data or b"")
        if not worker.slots and worker.ready:
            worker.since = time.monotonic()
        worker.slots.append(slot)
        self._sent += 1

    def _write(self, worker: _Worker) -> None:
        """As much as the pipe takes."""
        waiting = worker.tasks in self._watch.get_map()
        with suppress(BlockingIOError, BrokenPipeError):  # a dead worker shows at its other pipe
            while worker.outbox:
                del worker.outbox[: os.write(worker.tasks, worker.outbox[: 1 << 16])]
        if worker.outbox and not waiting:
            self._watch.register(worker.tasks, selectors.EVENT_WRITE, worker)
        elif waiting and not worker.outbox:
            self._watch.unregister(worker.tasks)

    def _wait(self) -> None:
        """Until a worker has something to say, or one is too late."""
        busy = [worker for worker in self._workers if worker.slots]
        if not busy:
            return
        away = time.monotonic() - self._left  # by whom results are handed to; no worker's fault
        for worker in busy:
            worker.since += away
        if min(len(worker.slots) for worker in self._workers) > AHEAD // 2:
            time.sleep(NAP_S)
        wait = max(0.0, min(worker.late(self.limit_s) for worker in busy))
        for key, events in self._watch.select(wait):
            worker = key.data
            if worker not in self._workers:
                continue
            if events & selectors.EVENT_WRITE:
                self._write(worker)
            else:
                self._read(worker)
        for worker in busy:
            if worker in self._workers and worker.slots and worker.late(self.limit_s) <= 0:
                self._lose(worker, "timeout", f"not read and decoded within {self.limit_s:g} s")
        self._left = time.monotonic()

    def _read(self, worker: _Worker) -> None:
        try:
            said = os.read(worker.answers, 1 << 16)
        except BlockingIOError:
            return
        worker.inbox += said
        *lines, rest = worker.inbox.split(b"\n")
        worker.inbox = bytearray(rest)
        for line in lines:
            self._take(worker, json.loads(line))
        if not said:
            code = worker.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._lose(worker, "crashed", f"the decoder died ({how})")

    def _take(self, worker: _Worker, answer: dict[str, Any]) -> None:
        worker.since = time.monotonic()
        if "ready" in answer:
            worker.ready = True
            return
        slot = worker.slots.popleft()
        slot.candidate = None
        ((kind, values),) = answer.items()
        slot.result = _KINDS[kind](*values)

    def _lose(self, worker: _Worker, reason: str, what: str) -> None:
        """The worker hangs or is dead: blame the candidate that it was at, send the others again."""
        self._forget(worker)
        worker.end()
        if not worker.ready:
            todo = "see what it says: python -m sharecap.images.worker"
            raise SharecapError(f"the process that decodes images doesn't start ({what})", todo=todo)
        if worker.slots:
            guilty = worker.slots.popleft()
            assert guilty.candidate
            guilty.result = Failure.of(guilty.candidate, reason, what)
            guilty.candidate = None
        self._again.extend(worker.slots)

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._watch.unregister(worker.answers)
        if worker.tasks in self._watch.get_map():
            self._watch.unregister(worker.tasks)

    def _close(self) -> None:
        for worker in list(self._workers):
            self._forget(worker)
            if not _SPARE and worker.ready and not worker.slots and not worker.outbox:
                _SPARE.append(worker)
            else:
                worker.end()
        self._watch.close()


_FIELDS = tuple(field.name for field in fields(Candidate))
_VALUES, _DATA = operator.attrgetter(*_FIELDS), _FIELDS.index("data")
_KINDS: dict[str, Callable[..., Result]] = {"Image": Image, "Known": Known, "Failure": Failure}
