"""The second teacher where the first is asked by files or rounds: this process asks it, request by request.

It does so while batches and rounds go on, under the same keys, ledger and budget; a kill leaves each request
with the remedy that was due, which the next run sends. It must never send the first teacher anything.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sharecap.captions.courier import Courier
from sharecap.captions.plan import Job


@dataclass
class Seconds:
    """One per run, inside one event loop. What is added is seen through by a few workers."""

    courier: Courier
    at_once: int  # requests to the second teacher at a time
    _jobs: deque[tuple[Job, list[str]]] = field(default_factory=deque)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    def add(self, job: Job, steps: Sequence[str]) -> None:
        """Have it asked; `steps` are the remedies so far, of which the last is to ask the second teacher."""
        self._jobs.append((job, list(steps)))
        self._workers = [worker for worker in self._workers if not _is_well_done(worker)]
        if len(self._workers) < self.at_once:
            self._workers.append(asyncio.create_task(self._work()))

    async def finish(self) -> None:
        """Wait until all is booked, or the run stops; raises what went wrong."""
        while self._workers:
            await asyncio.gather(*self._workers)
            self._workers = [worker for worker in self._workers if not _is_well_done(worker)]

    async def leave(self) -> None:
        """Send nothing more and leave what is on its way."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while self._jobs and not self.courier.stopping:
            await self.courier.carry(*self._jobs.popleft())


def _is_well_done(worker: asyncio.Task[None]) -> bool:
    return worker.done() and not worker.cancelled() and worker.exception() is None
