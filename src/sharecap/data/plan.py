"""Which rows a step takes and how they share packs, from lengths alone, whatever came before the step.

Two ways: `packed` (documents fill packs up to a budget of tokens, the rows of a step are a random draw), and
`grouped`, as the paper's authors trained: a step's rows all have images or all have none, of like length
side by side, each padded to the longest of its batch. Rows and order depend on seed, epoch and index alone,
never on workers or ranks. No row is left out of a pass over the data, and none comes twice in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sharecap.chat.tokenise import Document
from sharecap.data.packing import epoch_order, evened, rows_of_step, share, split, split_padded, widen
from sharecap.errors import UsageError


@dataclass(frozen=True)
class Sizes:
    """What planning knows of each row."""

    tokens: NDArray[np.int32]  # [rows] length
    images: NDArray[np.int32]  # [rows] how many
    learned: NDArray[np.int32]  # [rows] tokens that are targets: the first one never is

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def total(self) -> int:
        """Tokens of all rows."""
        return int(self.tokens.sum(dtype=np.int64))

    @classmethod
    def of(cls, documents: Sequence[Document]) -> "Sizes":
        """The sizes of documents that are cut already."""
        found = [(len(d), len(d.images), int(d.learned[1:].sum())) for d in documents]
        return cls(*np.array(found, dtype=np.int32).reshape(-1, 3).T)

    def at(self, rows: Sequence[int] | NDArray[np.int64]) -> "Sizes":
        """The sizes of some of the rows."""
        rows = np.asarray(rows, dtype=np.int64)
        return Sizes(self.tokens[rows], self.images[rows], self.learned[rows])


@dataclass(frozen=True)
class Batching:
    """How rows become steps, and a step's rows packs."""

    batch_rows: int | None = None  # rows of one step over all ranks; exactly one of rows and tokens
    batch_tokens: int | None = None  # tokens of one step over all ranks, on average
    pack_tokens: int = 4096  # places of one pack, padding included
    pack_images: int | None = None  # images of one pack; None: no bound
    grouped: bool = False  # the authors' way, see above; needs `batch_rows`

    def __post_init__(self) -> None:
        where = "batching"
        if (self.batch_rows is None) == (self.batch_tokens is None):
            raise UsageError("give either batch_rows or batch_tokens", where=where)
        bounds = (self.batch_rows, self.batch_tokens, self.pack_tokens, self.pack_images)
        if min(bound for bound in bounds if bound is not None) < 1:
            what = "batch_rows, batch_tokens, pack_tokens and pack_images must be at least 1"
            raise UsageError(what, where=where)
        if self.grouped and self.batch_rows is None:
            raise UsageError("grouped batches are counted in rows", where=where, todo="give batch_rows")


class Plan:
    """The steps of a run. Holds two passes' orders at most, whatever the number of steps."""

    def __init__(self, sizes: Sizes, batching: Batching, seed: int) -> None:
        """`UsageError` if a row is longer than a pack or than a step, or has more images than a pack may."""
        if not len(sizes):
            raise UsageError("no rows to plan for")
        longest, most = int(sizes.tokens.max()), int(sizes.images.max())
        if longest > batching.pack_tokens:
            todo = "raise pack_tokens or leave such rows out"
            raise UsageError(f"a row has {longest} tokens, a pack {batching.pack_tokens}", todo=todo)
        if batching.batch_tokens is not None and longest > batching.batch_tokens:
            what = f"a row has {longest} tokens, a step {batching.batch_tokens}"
            raise UsageError(what, todo="raise batch_tokens")
        if batching.pack_images is not None and most > batching.pack_images:
            what = f"a row has {most} images, a pack takes {batching.pack_images}"
            raise UsageError(what, todo="raise pack_images or leave such rows out")
        self.sizes, self.batching, self.seed = sizes, batching, seed
        self.total = sizes.total
        self.starts = lru_cache(2)(self._starts)
        self.groups = lru_cache(2)(self._groups)
        self.rows = lru_cache(64)(self._rows)  # step -> its row numbers; asked for by all who handle a step

    def steps(self, epochs: float) -> int:
        """Steps that so many passes over the rows take; the last one may reach into the next pass."""
        if self.batching.batch_rows is not None:
            return row_steps(len(self.sizes), self.batching.batch_rows, epochs, self.batching.grouped)
        assert self.batching.batch_tokens is not None
        return token_steps(self.total, self.batching.batch_tokens, epochs)

    def packs(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, ...]]:
        """The row numbers of each pack of the step that rank `rank` of `world` learns from.

        All ranks get equally many packs, of about equal tokens, unless the step has too few rows for that:
        then some get one less, or none.
        """
        rows = self.rows(step)
        sizes = self.sizes.at(rows)
        lengths, images = sizes.tokens.tolist(), sizes.images.tolist()
        divide = split_padded if self.batching.grouped else split
        packs = divide(lengths, self.batching.pack_tokens, images, self.batching.pack_images)
        if world > 1:
            if self.batching.grouped:
                packs = widen(packs, lengths, world)
            else:
                packs = evened(packs, lengths, world, images, self.batching.pack_images)
            costs = [places([lengths[i] for i in members], self.batching.grouped) for members in packs]
            packs = [packs[p] for p in share(costs, world)[rank]]
        return [tuple(rows[i] for i in members) for members in packs]

    def _rows(self, step: int) -> tuple[int, ...]:
        """The row numbers of step 0, 1, ..."""
        batch = self.batching
        if batch.batch_rows is None:
            return tuple(self._by_tokens(step))
        if not batch.grouped:
            return tuple(rows_of_step(len(self.sizes), batch.batch_rows, self.seed, step))
        epoch, at = divmod(step, -(-len(self.sizes) // batch.batch_rows))
        return tuple(self.groups(epoch)[at].tolist())

    def _by_tokens(self, step: int) -> list[int]:
        """The rows whose first token falls into the step's stretch of the stream of all passes."""
        assert self.batching.batch_tokens is not None
        begin = step * self.batching.batch_tokens
        end = begin + self.batching.batch_tokens
        found: list[int] = []
        for epoch in range(begin // self.total, -(-end // self.total)):
            first, last = np.searchsorted(self.starts(epoch), np.array([begin, end]) - epoch * self.total)
            found += epoch_order(len(self.sizes), self.seed, epoch)[first:last].tolist()
        return found

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        """Where each row begins in the pass's stream of tokens, in the pass's order."""
        tokens = self.sizes.tokens[epoch_order(len(self.sizes), self.seed, epoch)].astype(np.int64)
        return np.concatenate([[0], np.cumsum(tokens)[:-1]])

    def _groups(self, epoch: int) -> list[NDArray[np.int64]]:
        """The pass's steps: full ones of one kind in random order, then what was left of both kinds."""
        size = self.batching.batch_rows
        assert size is not None
        order = epoch_order(len(self.sizes), self.seed, epoch)
        with_image = self.sizes.images[order] > 0
        full: list[NDArray[np.int64]] = []
        left: list[NDArray[np.int64]] = []
        for members in (order[with_image], order[~with_image]):
            whole = len(members) // size * size
            full += [members[i : i + size] for i in range(0, whole, size)]
            left.append(members[whole:])
        mixed = np.concatenate(left)
        turns = np.random.default_rng([self.seed, epoch, 1]).permutation(len(full))
        return [full[i] for i in turns] + [mixed[i : i + size] for i in range(0, len(mixed), size)]


def row_steps(rows: int, batch_rows: int, epochs: float, grouped: bool) -> int:
    """Steps of `batch_rows` that so many passes take; grouped passes begin with a step of their own."""
    per = -(-rows // batch_rows)
    whole = int(epochs) if grouped else 0
    return max(1, whole * per - int(-rows * (epochs - whole) // batch_rows))


def token_steps(tokens: float, batch_tokens: int, epochs: float) -> int:
    """Steps of `batch_tokens` that so many passes over rows of so many tokens take."""
    return max(1, -int(-tokens * epochs // batch_tokens))


def places(lengths: Sequence[int], padded: bool) -> int:
    """Places that a pack of documents of these lengths takes."""
    return len(lengths) * max(lengths) if padded else sum(lengths)
