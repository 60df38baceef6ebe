"""Which rows a step takes and how they share packs: pure functions of lengths and a seed.

A pack is one row of tokens that holds several documents whose borders keep them apart (model/forward.py).
The order depends on seed, epoch and index alone, never on workers, files or what ran before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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


def split(
    lengths: Sequence[int],
    pack_tokens: int,
    images: Sequence[int] | None = None,
    pack_images: int | None = None,
) -> list[list[int]]:
    """Positions 0..n-1 in packs of at most `pack_tokens`, longest first, each into the first pack with room.

    Documents of like length land side by side, which keeps attention's padding small. With `pack_images` no
    pack holds more `images` than that.
    """
    cap = sum(images or (0,)) if pack_images is None else pack_images
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # tokens, images
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[i] <= pack_tokens, "longer documents are refused before training starts"
        pictures = 0 if images is None else images[i]
        assert pictures <= cap, "documents of more images are refused before training starts"
        for p, (tokens, places) in enumerate(room):
            if lengths[i] <= tokens and pictures <= places:
                packs[p].append(i)
                room[p] = tokens - lengths[i], places - pictures
                break
        else:
            packs.append([i])
            room.append((pack_tokens - lengths[i], cap - pictures))
    return packs


def split_padded(
    lengths: Sequence[int],
    pack_tokens: int,
    images: Sequence[int] | None = None,
    pack_images: int | None = None,
) -> list[list[int]]:
    """Like `split`, for packs in which every document takes as many places as the longest of its pack."""
    packs: list[list[int]] = []
    pictures = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[i] <= pack_tokens, "longer documents are refused before training starts"
        more = 0 if images is None else images[i]
        fits = packs and (len(packs[-1]) + 1) * lengths[packs[-1][0]] <= pack_tokens
        if fits and (pack_images is None or pictures + more <= pack_images):
            packs[-1].append(i)
            pictures += more
        else:
            packs.append([i])
            pictures = more
    return packs


def widen(packs: Sequence[list[int]], lengths: Sequence[int], world: int) -> list[list[int]]:
    """The packs, the fullest cut in two until `world` ranks can have equally many of them.

    Sharded training runs in step: a rank with a pack less would leave the others waiting. Only where there
    are too few documents does their number stay uneven.
    """
    made = [list(members) for members in packs]
    while len(made) % world:
        p = max(range(len(made)), key=lambda p: (len(made[p]) > 1, sum(lengths[i] for i in made[p]), -p))
        if len(made[p]) == 1:
            break
        made[p : p + 1] = [made[p][::2], made[p][1::2]]
    return made


def share(costs: Sequence[int], world: int) -> list[list[int]]:
    """Which packs each of `world` ranks gets: equally many where that goes up, and about equal cost.

    The costliest first, each to the rank that has least to do and room for another.
    """
    least, more = divmod(len(costs), world)  # `more` ranks have one more than `least`
    ranks: list[list[int]] = [[] for _ in range(world)]
    load = [0] * world
    for p in sorted(range(len(costs)), key=lambda p: (-costs[p], p)):
        open_ = (r for r in range(world) if len(ranks[r]) < least or (more and len(ranks[r]) == least))
        rank = min(open_, key=lambda r: (load[r], r))
        more -= len(ranks[rank]) == least
        ranks[rank].append(p)
        load[rank] += costs[p]
    return ranks


@dataclass(frozen=True, slots=True)
class Pack:
    """Documents laid end to end. T tokens, S positions whose next token is learned."""

    ids: NDArray[np.int64]  # [T]
    lengths: tuple[int, ...]  # of the documents (their padding included), sum T
    predict: NDArray[np.int64]  # [S] positions whose logits are needed
    targets: NDArray[np.int64]  # [S] the token that each of them must give
    images: tuple[str, ...]  # in order of their places


def pack(documents: Sequence[Document], padded: bool = False) -> Pack:
    """Lay documents end to end. The first token of a document is never a target: nothing comes before it.

    `padded` makes each as long as the longest by repeating its last token: attention is causal, so that what
    comes after a document's end changes nothing in it, and nothing there is learned.
    """
    longest = max(len(d) for d in documents)
    lengths = [longest if padded else len(d) for d in documents]
    ids = np.concatenate([filled(d.ids, n, d.ids[-1]) for d, n in zip(documents, lengths, strict=True)])
    learned = np.concatenate([filled(d.learned, n, False) for d, n in zip(documents, lengths, strict=True)])
    starts = np.cumsum([0, *lengths])[:-1]
    learned[starts] = False
    targets_at = np.flatnonzero(learned)
    ids = ids.astype(np.int64)
    images = tuple(image for d in documents for image in d.images)
    return Pack(ids, tuple(lengths), targets_at - 1, ids[targets_at], images)


def filled(values: NDArray[Any], length: int, last: Any) -> NDArray[Any]:
    """`values`, then `last` up to `length`."""
    if len(values) == length:
        return values
    return np.concatenate([values, np.full(length - len(values), last, dtype=values.dtype)])
