"""Which of millions of 64-bit hashes differ in at most a few bits: exact, and without comparing all with all.

Two words that differ in d bits, cut into d + k bands, agree in at least k bands. So words are sorted by every
choice of k bands, and only neighbours that agree there are compared. It must never miss a pair.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

SMALL = 256
"""Words that agree in a key are compared all with all up to so many; more are cut into bands again."""

PIECE = 4_000_000
"""Pairs that are compared at a time between two sets."""

_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


def words_of(texts: Sequence[str]) -> Words:
    """Hashes of 16 lower-case hex digits as 64-bit words; `ValueError` for anything else."""
    if any(len(text) != 16 or not text.isascii() for text in texts):
        raise ValueError("a hash has 16 hex digits")
    digits = _DIGITS[np.array(texts, dtype="S16").view(np.uint8).reshape(-1, 16)]
    if (digits > 15).any():
        raise ValueError("a hash has 16 hex digits")
    pairs = (digits[:, ::2] << 4) | digits[:, 1::2]
    return np.ascontiguousarray(pairs).view(">u8").ravel().astype(np.uint64)


def distance(a: Words, b: Words | np.uint64) -> NDArray[np.uint8]:
    """In how many bits the words differ."""
    differing: NDArray[np.uint8] = np.bitwise_count(a ^ b)
    return differing


def components(words: Words, bits: int) -> Places:
    """For each of the different `words`, the first word that it is linked with by steps of at most `bits`.

    This joins all pairs within `bits`, but looks at no pair whose words are linked already: a crowd of words
    that are all alike costs no more than others do.
    """
    assert len(np.unique(words)) == len(words), "equal words are joined by the caller"
    links = _Links(len(words))
    _join(words, np.arange(len(words)), bits, links)
    return links.find(np.arange(len(words)))


def _join(words: Words, members: Places, bits: int, links: "_Links") -> None:
    """Link all pairs within `bits` among `members`, which may agree in many bits."""
    own = words[members]
    varying = _varying(own)
    if len(varying) <= bits:
        links.join(members[:-1], members[1:])
    elif len(members) <= SMALL:
        _join_runs(words, members, np.zeros(1, np.int64), bits, links)
    else:
        for mask in _masks(len(members), varying, bits):
            keys = own & mask
            order = np.argsort(keys)
            keys = keys[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            _join_runs(words, members[order], starts, bits, links)


def _join_runs(words: Words, members: Places, starts: Places, bits: int, links: "_Links") -> None:
    """Link pairs within each run of members; runs that are linked as a whole already cost nothing."""
    own = words[members]
    lengths = np.diff(np.append(starts, len(own)))
    roots = links.find(members)
    apart = np.minimum.reduceat(roots, starts) != np.maximum.reduceat(roots, starts)
    for run in np.flatnonzero(apart & (lengths > SMALL)):
        _join(words, members[starts[run] : starts[run] + lengths[run]], bits, links)
    compared = np.where(apart & (lengths <= SMALL), lengths, 0)
    behind = np.repeat(starts + compared, lengths) - np.arange(len(own)) - 1  # words after it in its run
    places, step = np.flatnonzero(behind > 0), 1
    while len(places):
        near = places[distance(own[places], own[places + step]) <= bits]
        links.join(members[near], members[near + step])
        step += 1
        places = places[behind[places] >= step]


class _Links:
    """Union and find over arrays: every word points at an earlier one of its component, or at itself."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def find(self, places: Places) -> Places:
        """The first word of each one's component."""
        roots = self._parent[places]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        self._parent[places] = roots
        return roots

    def join(self, a: Places, b: Places) -> None:
        """Link `a[i]` with `b[i]`, for all i."""
        while len(a):
            a, b = self.find(a), self.find(b)
            apart = a != b
            a, b = a[apart], b[apart]
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self._parent, high, low)
            # Long chains arise at once (1 to 0, 2 to 1, ...): shortened by doubling, not step by step.
            while not np.array_equal(above := self._parent[self._parent[high]], self._parent[high]):
                self._parent[high] = above


def pairs_between(left: Words, right: Words, bits: int) -> tuple[Places, Places]:
    """All (i, j) with `left[i]` and `right[j]` within `bits`; each pair once, in order of j, then i.

    Both sides hold different words; equal ones are joined by the caller.
    """
    found: list[Places] = [np.zeros(0, np.int64)]
    if len(left) and len(right):
        varying = _varying(np.concatenate([left, right]))
        for mask in _masks(len(left) + len(right), varying, bits):
            found.extend(_agreeing(left, right, mask, bits))
    codes = np.unique(np.concatenate(found))
    return codes % max(len(left), 1), codes // max(len(left), 1)


def _agreeing(left: Words, right: Words, mask: np.uint64, bits: int) -> Iterator[Places]:
    order = np.argsort(left & mask)
    keys = (left & mask)[order]
    first = np.searchsorted(keys, right & mask, "left")
    counts = np.searchsorted(keys, right & mask, "right") - first
    total, start = np.cumsum(counts), 0
    while start < len(right):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + PIECE, "right")))
        some = counts[start:stop]
        j = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(j)) - np.repeat(np.cumsum(some) - some, some)
        i = order[np.repeat(first[start:stop], some) + within]
        near = distance(left[i], right[j]) <= bits
        yield j[near] * len(left) + i[near]
        start = stop


def _varying(words: Words) -> list[int]:
    """The bits in which not all words agree."""
    differing = int(np.bitwise_or.reduce(words ^ words[:1]))
    return [bit for bit in range(64) if differing >> bit & 1]


def _masks(count: int, varying: Sequence[int], bits: int) -> list[np.uint64]:
    """Keys to sort by: two words that differ in at most `bits` of the `varying` bits agree in one of them."""
    if len(varying) <= bits:
        return [np.uint64(0)]

    def cost_ns(spare: int) -> float:
        """Of sorting by all keys, and comparing what agrees if words are spread evenly."""
        pairs = count * count / 2 / 2 ** (len(varying) * spare / (bits + spare))
        return comb(bits + spare, spare) * (100.0 * count + 5.0 * pairs)

    spare = min(range(1, min(4, len(varying) - bits) + 1), key=cost_ns)
    bands = [sum(1 << bit for bit in varying[band :: bits + spare]) for band in range(bits + spare)]
    return [np.uint64(sum(chosen)) for chosen in combinations(bands, spare)]
