"""Loops in what is being written: found as they begin, and left where the model was least sure of going on.

A penalty on all words that came before spoils long captions, which must name things twice. Here nothing is
touched until a block of tokens has come twice in a row; then, within the third time, the one token of the
block that the model was least sure of is not said again. A caption that never goes round in circles keeps its
bits, and what becomes of a row depends on its own tokens alone.

Shape letters: B rows, V vocabulary, P periods.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONGEST = 64
"""Tokens of the longest block that is looked for: some 40 words. Longer ones `captions/verdict.py` finds."""

FEWEST = 12
"""Tokens that must have come again: a shorter block comes more often before anything is done."""

NONE = -1
"""Stands where no token is."""


class Loops:
    """What each of `queries` replies, of at most `tokens` tokens, has said, and how it repeats itself."""

    def __init__(self, queries: int, tokens: int) -> None:
        self._said = np.full((queries, LONGEST + tokens), NONE, dtype=np.int64)  # from LONGEST on
        self._sure = np.ones((queries, LONGEST + tokens))  # how probable each of these was
        self._runs = np.zeros((queries, LONGEST), dtype=np.int64)  # [., P]: tokens that equal those P before
        self._back = 1 + np.arange(LONGEST)
        self._enough = np.maximum(FEWEST, self._back)

    def left(self, logits: Tensor, queries: Sequence[int], places: Sequence[int]) -> Tensor:
        """The logits [B, V] of each row's next token, without the one that must not be said again."""
        rows = np.flatnonzero((self._runs[list(queries)] >= self._enough).any(1)).tolist()
        barred = [(row, self._barred(queries[row], LONGEST + places[row])) for row in rows]
        barred = [(row, token) for row, token in barred if token != NONE]
        if not barred:
            return logits
        logits = logits.clone()
        for row, token in barred:
            logits[row, token] = -torch.inf
        return logits

    def _barred(self, query: int, at: int) -> int:
        """The loop's next token, where it is the one of the block that the model was least sure of."""
        period = int(np.argmax(self._runs[query] >= self._enough)) + 1
        block = slice(at - period, at)
        return int(self._said[query, block][0]) if self._sure[query, block].argmin() == 0 else NONE

    def hear(
        self,
        queries: Sequence[int],
        places: Sequence[int],
        tokens: NDArray[np.int64],
        sure: NDArray[np.float32],
    ) -> None:
        """Each row's token at its place in the reply (0 is the first), and its probability."""
        own, at = np.asarray(queries), LONGEST + np.asarray(places)
        again = self._said[own[:, None], at[:, None] - self._back] == tokens[:, None]
        self._runs[own] = (self._runs[own] + 1) * again
        self._said[own, at], self._sure[own, at] = tokens, sure
