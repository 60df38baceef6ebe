"""Shares of verdicts, put right for a judge that errs, from some verdicts that people have checked.

Double sampling (Tenenbein, JASA 65, 1970): all claims have the judge's verdict, some the true one as well.
Among the checked ones of each verdict of the judge's stands how often which is true; weighted by how often
the judge gives that verdict, this is what is true of all. Unlike inverting the judge's confusion matrix
(Rogan and Gladen, 1978) it needs no checks of each true verdict, which may be rare, and can't lead out of 0
to 1.
Pure. It must never make up a rate that no checked verdict speaks for.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharecap.errors import SharecapError
from sharecap.quality.shares import wilson_bounds
from sharecap.statistics import Estimate, Mean, intervals

Counts = NDArray[np.float64]


def corrected(said: Counts, checked: Counts, names: Sequence[str]) -> list[Estimate]:
    """The true shares, each with its 95 % interval.

    `said` [images, k] counts what the judge said, `checked` [k, k] counts checked verdicts (row: what is
    true, column: what the judge said of it); they are to be drawn at random among those of each verdict of
    the judge's, or among all. The interval holds both doubts: which images were drawn, and what the checks
    leave open.
    `SharecapError` if the judge gave a verdict of which none was checked.
    """
    k = len(names)
    assert said.shape[1:] == (k,)
    assert checked.shape == (k, k)
    total, checks = said.sum(axis=0), checked.sum(axis=0)
    if bare := [name for name, n, c in zip(names, total, checks, strict=True) if n and not c]:
        what = f"no checked claim that the judge called {bare[0]}, so its errors on such are unknown"
        raise SharecapError(what, todo="check some claims of every verdict, drawn at random")
    images, claims = tuple(map(str, range(len(said)))), tuple(said.sum(axis=1).tolist())
    true = checked / np.maximum(checks, 1)  # [k, k] of the claims of each verdict
    found = intervals(
        {
            name: (Mean(1.0, images, tuple((said @ row).tolist()), claims),)
            for name, row in zip(names, true, strict=True)
        }
    )
    weights = total / total.sum()
    return [_opened(found[name], row, weights, checks) for name, row in zip(names, true, strict=True)]


def _opened(one: Estimate, true: Counts, weights: Counts, checks: Counts) -> Estimate:
    """A share with its interval over images, opened by what the checks leave open of each verdict's rate.

    Wilson's intervals of the rates, each weighted, and that over images add up by the squares of their arms
    (MOVER: Zou, Huang and Zhang, CSDA 53, 2009). So no check without an error is proof of none, and no
    error is made up: a prior's half an error in each verdict is more than there are where captions are good.
    """
    if one.low is None or one.high is None:
        return one
    below, above = [one.value - one.low], [one.high - one.value]
    for weight, rate, n in zip(weights, true, checks, strict=True):
        if n:
            low, high = wilson_bounds(rate, n)
            below.append(weight * (rate - low))
            above.append(weight * (high - rate))
    low, high = one.value - math.hypot(*below), one.value + math.hypot(*above)
    return Estimate(one.value, max(0.0, low), min(1.0, high))
