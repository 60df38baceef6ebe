"""The generators of a model directory: one here, or one in each of a few processes.

torch runs what lies between two large products on one core. So two generators of one core each write half as
many captions again as one that has both. A caption must never depend on who writes it.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sharecap.data.processes import Processes, Trouble
from sharecap.errors import SharecapError

if TYPE_CHECKING:
    from sharecap.model.generation import Decoding, Generator, Query, Reply

    Task = tuple[Sequence[Query], Decoding]

ROWS = 32
"""Captions at a time that keep a core busy: with more it spends as long on each."""


class Writers:
    """As many generators as this machine has use for: on a card one, on a processor one for so many cores.

    `batch_size` is how many captions they write at a time, all together. Each has the model's weights in its
    own memory, and together these are no more than half of the machine's.
    """

    def __init__(self, directory: Path, batch_size: int) -> None:
        from sharecap.model.generation import cores

        self.count = max(1, min(cores(), batch_size // ROWS, room_for(directory)))
        self.directory, self.rows = directory, batch_size // self.count
        self.here: Generator | None = None
        self.processes: Processes[Task, list[Reply | Trouble]] | None = None

    def generate(self, queries: "Sequence[Query]", decoding: "Decoding") -> "list[Reply | SharecapError]":
        """One outcome per query, in their order; `SharecapError` as a `Generator` raises it."""
        from sharecap.model.generation import Generator, cores

        if self.processes is None and (self.count == 1 or len(queries) <= ROWS):  # not worth a new process
            if self.here is None:
                self.here = Generator.load(self.directory, self.rows)
            return self.here.outcomes(queries, decoding)
        self.here = None
        if self.processes is None:
            begin = partial(prepare, self.directory, self.rows, cores() // self.count)
            self.processes = Processes(write, self.count, begin, fresh=True)
        tasks = [(queries[first :: self.count], decoding) for first in range(self.count)]
        parts = [self.processes.result(one) for one in [self.processes.submit(task) for task in tasks]]
        found = [parts[i % self.count][i // self.count] for i in range(len(queries))]
        return [one.error() if isinstance(one, Trouble) else one for one in found]

    def close(self) -> None:
        """Let go of the model."""
        self.here = None
        if self.processes is not None:
            self.processes.__exit__()
            self.processes = None


def room_for(directory: Path) -> int:
    """How many times the model's weights fit into half of the memory of this machine."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return whole // (2 * max(1, weights))


_generator: "Generator"
"""Of a process."""


def prepare(directory: Path, rows: int, threads: int) -> None:
    """Make a new process ready: its model is there before its first task."""
    global _generator  # noqa: PLW0603
    from sharecap.model.generation import Generator

    _generator = Generator.load(directory, rows, threads=threads)


def write(task: "Task") -> "list[Reply | Trouble]":
    """What a process does."""
    found = _generator.outcomes(*task)
    return [Trouble(one) if isinstance(one, SharecapError) else one for one in found]
