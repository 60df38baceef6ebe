"""How much of one caption another one says, in words: what a captioner and its teacher can be compared by.

The mean of two F1 scores, over content words and over pairs of neighbours among them, as ROUGE-1 and ROUGE-2
(Lin 2004) count them but without the small words that every caption shares. Pairs tell a red circle beside a
blue square from a blue circle beside a red square. Two ways of saying the same thing are not alike here: it
orders captioners of one teacher; it is no measure of truth.
"""

import re
from collections import Counter
from itertools import pairwise
from typing import Any

_WORD = re.compile(r"\w+(?:['’]\w+)*")

_SMALL = """
    a an the this that these those there here it its it's they them their he she his her him and or but as
    of at to by with from for is are was were be been being has have had can could may might seems seem
    appears appear which who whose what where while also other another some any very quite image picture photo
    photograph scene"""
SMALL = frozenset(_SMALL.split())
"""Words that say nothing of a picture. Words for places stay: what is above what is half of a caption."""


def words_of(text: str) -> list[str]:
    """The content words, in order and in lower case."""
    return [word for word in _WORD.findall(text.lower()) if word not in SMALL]


def likeness(text: str, reference: str) -> float:
    """0 (nothing shared) to 1 (the same content words in the same order)."""
    said, wanted = words_of(text), words_of(reference)
    return (f1(Counter(said), Counter(wanted)) + f1(Counter(pairwise(said)), Counter(pairwise(wanted)))) / 2


def f1(said: Counter[Any], wanted: Counter[Any]) -> float:
    """Twice what both hold, by what they hold together; nothing against nothing is 1."""
    total = said.total() + wanted.total()
    return 2 * (said & wanted).total() / total if total else 1.0
