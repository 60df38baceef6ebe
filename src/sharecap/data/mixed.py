"""Rows of several files as one sequence: an index over the sources, no copy of any row."""

import hashlib
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sharecap.data.rows import Rows
from sharecap.records import Conversation


class Mixed(Sequence[Conversation]):
    """Row i is row `rows[i]` of source `which[i]`. A source that is mixed itself is seen through."""

    def __init__(
        self, sources: Sequence[Sequence[Conversation]], which: NDArray[np.uint16], rows: NDArray[np.int64]
    ) -> None:
        assert len(which) == len(rows)
        self.sources, self.which, self.rows = tuple(sources), which, rows
        if any(isinstance(source, Mixed) for source in sources):
            self._see_through()

    def _see_through(self) -> None:
        flat: list[Sequence[Conversation]] = []
        which, rows = np.empty_like(self.which), self.rows.copy()
        for number, source in enumerate(self.sources):
            mine = self.which == number
            if isinstance(source, Mixed):
                which[mine] = source.which[self.rows[mine]] + len(flat)
                rows[mine] = source.rows[self.rows[mine]]
                flat += source.sources
            else:
                which[mine] = len(flat)
                flat.append(source)
        self.sources, self.which, self.rows = tuple(flat), which, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Conversation: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, number: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        source, row = int(self.which[number]), int(self.rows[number])
        return self.sources[source][row]


def one_after_another(sources: Sequence[Sequence[Conversation]]) -> Mixed:
    """All rows of all sources, in their order."""
    lengths = [len(source) for source in sources]
    which = np.repeat(np.arange(len(sources), dtype=np.uint16), lengths)
    return Mixed(sources, which, np.concatenate([np.arange(length) for length in lengths]))


def some_of(rows: Sequence[Conversation], numbers: NDArray[np.int64]) -> Mixed:
    """Only the rows of these numbers, in their order."""
    return Mixed([rows], np.zeros(len(numbers), dtype=np.uint16), numbers)


def rows_digest(rows: Sequence[Conversation]) -> str:
    """sha256 of what the rows are; rows in files are known by their files' digests."""
    if isinstance(rows, Rows):
        return rows.digest
    total = hashlib.sha256()
    if isinstance(rows, Mixed):
        for source in rows.sources:
            total.update(rows_digest(source).encode())
        total.update(rows.which.tobytes() + rows.rows.tobytes())
    else:
        for row in rows:
            total.update(repr(row).encode("utf-8", "surrogatepass"))
    return total.hexdigest()
