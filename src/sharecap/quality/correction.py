"""Shares of verdicts, put right for a judge that errs at rates known from checked verdicts.

Rogan and Gladen's estimator (Am. J. Epidemiol. 107, 1978) for any number of verdicts: what a judge says is
what is true, mixed by its confusion matrix, so the inverse of that matrix unmixes it. Pure. It must never
make up a rate that no checked verdict speaks for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharecap.errors import SharecapError
from sharecap.statistics import LEVEL, RESAMPLES, Estimate

Counts = NDArray[np.float64]

HARDLY = 0.05
"""A confusion matrix whose smallest singular value is below this tells next to nothing of the truth."""

PRIOR = 0.5
"""Jeffreys' half an answer of each kind: five checked verdicts without an error are no proof of none."""


def corrected(said: Counts, checked: Counts, names: Sequence[str], *, seed: int = 0) -> list[Estimate]:
    """The true shares, each with its 95 % interval.

    `said` [images, k] counts what the judge said, `checked` [k, k] counts checked verdicts (row: what is
    true, column: what the judge said of it). The interval holds both doubts: images are resampled, and the
    rates drawn from what the checked verdicts leave open. Verdicts that are neither said nor true in any
    check have the share 0. `SharecapError` if some said verdict was never checked as the true one, or the
    judge is hardly better than chance.
    """
    k = len(names)
    assert said.shape[1:] == (k,)
    assert checked.shape == (k, k)
    known = checked.sum(axis=1) > 0
    seen = (said.sum(axis=0) > 0) | (checked.sum(axis=0) > 0)
    if lacking := [name for name, bare in zip(names, seen & ~known, strict=True) if bare]:
        what = f"no checked verdict that is truly {lacking[0]!r}, so the judge's errors on such are unknown"
        raise SharecapError(what, todo="check more of the claims")
    at = np.flatnonzero(known)
    said, checked = said[:, at], checked[np.ix_(at, at)]
    rates = checked / checked.sum(axis=1, keepdims=True)
    if np.linalg.svd(rates, compute_uv=False)[-1] < HARDLY:
        what = "by the checked verdicts the judge is hardly better than chance, so nothing can be put right"
        raise SharecapError(what, todo="ask another judge, or check more of the claims")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(said), np.full(len(said), 1 / len(said)), size=RESAMPLES) @ said
    drawn /= np.maximum(drawn.sum(axis=1, keepdims=True), 1)
    mixed = np.stack([rng.dirichlet(row + PRIOR, size=RESAMPLES) for row in checked], axis=1)
    replicates = _shares(np.linalg.solve(mixed.transpose(0, 2, 1), drawn[:, :, None])[:, :, 0])
    total = said.sum(axis=0)
    value = _shares(np.linalg.solve(rates.T, total / total.sum()))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    found = [Estimate(0.0, 0.0, 0.0)] * k
    for n, place in enumerate(at):
        bounds = min(low[n], value[n]), max(high[n], value[n])
        found[place] = Estimate(float(value[n]), float(bounds[0]), float(bounds[1]))
    return found


def _shares(unmixed: Any) -> Counts:
    """The nearest shares, roughly: none below 0, and 1 in all. Unmixing noise can lead out of them."""
    bounded: Counts = np.maximum(np.asarray(unmixed, dtype=np.float64), 0.0)
    shares: Counts = bounded / np.maximum(bounded.sum(axis=-1, keepdims=True), 1e-12)
    return shares
