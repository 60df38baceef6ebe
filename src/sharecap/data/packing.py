"""Which rows a step takes and how they share packs: pure functions of lengths and a seed.

A pack is one row of tokens that holds several documents whose borders keep them apart (model/forward.py).
The order depends on seed, epoch and index alone, never on workers, files or what ran before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sharecap.chat.tokenise import Document


@lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one pass over all rows: a permutation of range(rows)."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def rows_of_step(rows: int, batch_rows: int, seed: int, step: int) -> list[int]:
    """The `batch_rows` row numbers of step 0, 1, ...; at the end it goes on in the next pass."""
    at = range(step * batch_rows, (step + 1) * batch_rows)
    return [int(epoch_order(rows, seed, i // rows)[i % rows]) for i in at]


def split(lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Positions 0..n-1 in packs of at most `pack_tokens`, longest first, each into the first pack with room.

    Documents of like length land side by side, which keeps attention's padding small.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[i] <= pack_tokens, "longer documents are refused before training starts"
        for p, left in enumerate(room):
            if lengths[i] <= left:
                packs[p].append(i)
                room[p] -= lengths[i]
                break
        else:
            packs.append([i])
            room.append(pack_tokens - lengths[i])
    return packs


@dataclass(frozen=True, slots=True)
class Pack:
    """Documents laid end to end. T tokens, S positions whose next token is learned."""

    ids: NDArray[np.int64]  # [T]
    lengths: tuple[int, ...]  # of the documents, sum T
    predict: NDArray[np.int64]  # [S] positions whose logits are needed
    targets: NDArray[np.int64]  # [S] the token that each of them must give
    images: tuple[str, ...]  # in order of their places


def pack(documents: Sequence[Document]) -> Pack:
    """Lay documents end to end. The first token of a document is never a target: nothing comes before it."""
    ids = np.concatenate([d.ids for d in documents]).astype(np.int64)
    learned = np.concatenate([d.learned for d in documents])
    starts = np.cumsum([0] + [len(d) for d in documents])[:-1]
    learned[starts] = False
    targets_at = np.flatnonzero(learned)
    images = tuple(image for d in documents for image in d.images)
    return Pack(ids, tuple(len(d) for d in documents), targets_at - 1, ids[targets_at], images)
