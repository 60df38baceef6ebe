"""Shares of verdicts, put right for a judge that errs, from some verdicts that people have checked.

Double sampling (Tenenbein, JASA 65, 1970): all claims have the judge's verdict, some the true one as well.
Among the checked ones of each verdict of the judge's stands how often which is true; weighted by how often
the judge gives that verdict, this is what is true of all. Unlike inverting the judge's confusion matrix
(Rogan and Gladen, 1978) it needs no checks of each true verdict, which may be rare, and can't lead out of 0
to 1.
Pure. It must never make up a rate that no checked verdict speaks for.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharecap.errors import SharecapError
from sharecap.statistics import LEVEL, RESAMPLES, Estimate

Counts = NDArray[np.float64]

PRIOR = 0.5
"""Jeffreys' half an answer of each kind: some checked verdicts without an error are no proof of none."""


def corrected(said: Counts, checked: Counts, names: Sequence[str], *, seed: int = 0) -> list[Estimate]:
    """The true shares, each with its 95 % interval.

    `said` [images, k] counts what the judge said, `checked` [k, k] counts checked verdicts (row: what is
    true, column: what the judge said of it); they are to be drawn at random among those of each verdict of
    the judge's. The interval holds both doubts: images are resampled, and what is true of each verdict drawn
    from what the checks leave open.
    `SharecapError` if the judge gave a verdict of which none was checked.
    """
    k = len(names)
    assert said.shape[1:] == (k,)
    assert checked.shape == (k, k)
    total, checks = said.sum(axis=0), checked.sum(axis=0)
    if bare := [name for name, n, c in zip(names, total, checks, strict=True) if n and not c]:
        what = f"no checked claim that the judge called {bare[0]}, so its errors on such are unknown"
        raise SharecapError(what, todo="check some claims of every verdict, drawn at random")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(said), np.full(len(said), 1 / len(said)), size=RESAMPLES) @ said
    drawn /= np.maximum(drawn.sum(axis=1, keepdims=True), 1)
    true = np.stack([rng.dirichlet(column + PRIOR, size=RESAMPLES) for column in checked.T], axis=1)
    low, high = np.quantile(np.einsum("rs,rst->rt", drawn, true), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    value = checked @ (total / total.sum() / np.maximum(checks, 1))
    return [
        Estimate(float(v), float(min(a, v)), float(max(b, v)))
        for v, a, b in zip(value, low, high, strict=True)
    ]
