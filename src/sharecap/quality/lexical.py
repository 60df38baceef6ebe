"""What words a caption is made of: parts of speech, length, variety, repetition (the paper's lexical table).

A measure of a caption is a pair (top, bottom), its value top / bottom; the layer's value is the sum of the
tops over the sum of the bottoms. Where the bottom is 0 there is no value. All of it is pure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sharecap.captions.sentences import sentences
from sharecap.captions.stats import opening
from sharecap.quality.tagging import PARTS, Word

Pair = tuple[float, float]
"""(top, bottom) of a measure."""

NUMBERS = ("words", "characters", "sentences", "mtld")
"""Measures that are no shares."""

SHORTEST_MTLD = 50
"""Words below which MTLD says little: a text must fall under the threshold at least once."""

_THRESHOLD = 0.72
"""Types per token at which MTLD counts a factor (McCarthy and Jarvis 2010, doi 10.3758/BRM.42.2.381)."""

RUN = 4
"""Words in a row that make a turn of phrase: shared ones tell a template."""


def lexical(text: str, words: Sequence[Word]) -> dict[str, Pair]:
    """The measures of one caption, by name; `words` are its tagged ones.

    words, characters and sentences are counts as `sharecap stats` has them. The parts of speech are shares
    of the words. distinct_1 and distinct_2 are different words, and pairs of words, of all.
    """
    lower = [word.lower() for word, _ in words]
    parts = Counter(part for _, part in words)
    variety = mtld(lower) if len(lower) >= SHORTEST_MTLD else None
    return {
        "words": (len(text.split()), 1),
        "characters": (len(text), 1),
        "sentences": (len(sentences(text)), 1),
        **{part: (parts[part], len(words)) for part in PARTS},
        "distinct_1": distinct(lower, 1),
        "distinct_2": distinct(lower, 2),
        "mtld": (0.0, 0) if variety is None else (variety, 1),
    }


def distinct(words: Sequence[str], n: int) -> Pair:
    """Different runs of `n` words, and all of them."""
    found = list(runs(words, n))
    return len(set(found)), len(found)


def runs(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def mtld(words: Sequence[str]) -> float | None:
    """Measure of textual lexical diversity: mean length, in words, of stretches whose share of different
    words stays above 0.72, read forwards and backwards. None for a text that repeats no word.
    """
    forwards, backwards = _factors(words), _factors(words[::-1])
    if not forwards or not backwards:
        return None
    return (len(words) / forwards + len(words) / backwards) / 2


def _factors(words: Sequence[str]) -> float:
    factors, seen, length = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length <= _THRESHOLD:
            factors, seen, length = factors + 1, set(), 0
    if length:
        factors += (1 - len(seen) / length) / (1 - _THRESHOLD)
    return factors


@dataclass(frozen=True)
class Together:
    """What captions are like to each other. Depends on their number: compare equal ones."""

    captions: int
    openings: list[tuple[str, int]]  # first three words, most frequent first
    different_openings: int
    distinct_2: float | None  # different pairs of words of all pairs, over all captions
    mtld: float | None  # of the captions read one after another
    similarity: float | None  # share of turns of phrase that another caption has too


def together(captions: Sequence[tuple[str, Sequence[Word]]], top: int = 5) -> Together:
    """Compare the captions (texts with their words) with one another; `top` openings are named."""
    spoken = [[word.lower() for word, _ in words] for _, words in captions]
    begun = Counter(opening(text) for text, _ in captions)
    pairs = sum(max(0, len(words) - 1) for words in spoken)
    kinds = len({pair for words in spoken for pair in runs(words, 2)})
    turns = [set(runs(words, RUN)) for words in spoken]
    carriers = Counter(turn for one in turns for turn in one)
    shared = sum(carriers[turn] > 1 for one in turns for turn in one)
    every = sum(map(len, turns))
    return Together(
        captions=len(captions),
        openings=begun.most_common(top),
        different_openings=len(begun),
        distinct_2=kinds / pairs if pairs else None,
        mtld=mtld([word for words in spoken for word in words]),
        similarity=shared / every if every and len(captions) > 1 else None,
    )


def values(pairs: Mapping[str, Pair]) -> dict[str, float]:
    """The measures that have a value."""
    return {name: top / bottom for name, (top, bottom) in pairs.items() if bottom}
