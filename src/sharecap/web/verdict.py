"""What a study found, as its page shows it; the statistics are `quality/preference.py`'s."""

from collections.abc import Sequence
from dataclasses import dataclass

from sharecap.web.study import Study, Vote


@dataclass(frozen=True)
class Finding:
    """One pair of layers: how often each was preferred."""

    a: str
    b: str
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Verdict:
    """Everything that a study's page says of its votes."""

    pairs: list[Finding]


def verdict_of(study: Study, cast: Sequence[Vote]) -> Verdict:
    """Count the first answers of all raters; repeats are for agreement alone."""
    pairs = []
    for n, a in enumerate(study.layers):
        for b in study.layers[n + 1 :]:
            here = [v for v in cast if not v.repeat and {v.left, v.right} == {a, b}]
            ties = sum(v.choice == "tie" for v in here)
            wins = sum(v.choice != "tie" and (v.left if v.choice == "left" else v.right) == a for v in here)
            pairs.append(Finding(a, b, wins, len(here) - ties - wins, ties))
    return Verdict(pairs)
