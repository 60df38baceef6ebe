"""What a preference study found: who is preferred how often, with intervals; and how far raters agree.

Only first answers count for the layers; repeated trials measure raters. Answers about one image are not
independent, so an image counts once in an interval, however many raters saw it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sharecap.statistics import Estimate, interval_of
from sharecap.web.study import Study, Vote

Z = 1.959964
"""Of a 95 % interval."""

RESAMPLES = 400
PRIOR = 0.5
"""Answers that every pair of layers is given for and against beforehand: without them a layer that always
wins would be infinitely strong."""


@dataclass(frozen=True)
class Preference:
    """One layer against another."""

    a: str
    b: str
    wins: int
    losses: int
    ties: int
    share: (
        Estimate | None
    )  # of `a`, a tie counting half, with Wilson's interval over images; None: no answers


@dataclass(frozen=True)
class Strength:
    """A layer among all."""

    layer: str
    value: Estimate  # Bradley-Terry, in log-odds against the mean of the layers


@dataclass(frozen=True)
class Agreement:
    """Of two raters, or of one with themselves: same answers of all that both gave."""

    who: str
    same: int
    of: int


@dataclass(frozen=True)
class Outcome:
    """Everything that a study's page says of its votes."""

    preferences: list[Preference]
    strengths: list[Strength]
    between: list[Agreement]
    alpha: float | None  # Krippendorff's, nominal; None where nobody saw what another saw
    themselves: list[Agreement]
    judge: Agreement | None  # of raters and scores; None where there are no scores of both captions


ScoreOf = Callable[[str, str], float | None]
"""The score of (image id, layer), such as a judge gave it."""


def outcome_of(
    study: Study, cast: Sequence[Vote], score_of: ScoreOf = lambda _image, _layer: None
) -> Outcome:
    """The outcome as the votes are now."""
    first = [vote for vote in cast if not vote.repeat]
    pairs = list(combinations(study.layers, 2))
    between, alpha = _between(first)
    return Outcome(
        [_preference(a, b, [v for v in first if {v.left, v.right} == {a, b}]) for a, b in pairs],
        _strengths(study.layers, first) if first else [],
        between,
        alpha,
        _themselves(cast),
        _with_judge(first, score_of),
    )


def _preferred(vote: Vote, layer: str) -> float:
    """1 if the layer was preferred, 0 if the other one was, and a half for neither."""
    if vote.choice == "tie":
        return 0.5
    return float((vote.left if vote.choice == "left" else vote.right) == layer)


def _preference(a: str, b: str, votes: Sequence[Vote]) -> Preference:
    found = Counter(_preferred(vote, a) for vote in votes)
    images: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        images[vote.image_id].append(_preferred(vote, a))
    share = wilson([sum(x) / len(x) for x in images.values()]) if images else None
    return Preference(a, b, found[1.0], found[0.0], found[0.5], share)


def wilson(shares: Sequence[float]) -> Estimate:
    """Mean of values between 0 and 1, one per image, with Wilson's 95 % interval.

    It stays within 0 and 1 and does not shrink to a point when all agree. Values between 0 and 1 vary less
    than the zeros and ones that it is made for, so with ties and several raters it is on the wide side.
    """
    n, p = len(shares), sum(shares) / len(shares)
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half))


def _strengths(layers: Sequence[str], votes: Sequence[Vote]) -> list[Strength]:
    place = {layer: n for n, layer in enumerate(layers)}
    left = np.array([place[v.left] for v in votes])
    right = np.array([place[v.right] for v in votes])
    share = np.array([_preferred(v, v.left) for v in votes])
    images = [v.image_id for v in votes]

    def strength(n: int) -> Estimate:
        def metric(weights: NDArray[np.float64]) -> float:
            wins = np.full((len(layers), len(layers)), PRIOR)
            np.add.at(wins, (left, right), weights * share)
            np.add.at(wins, (right, left), weights * (1 - share))
            return float(bradley_terry(wins)[n])

        return interval_of(metric, images, resamples=RESAMPLES)

    found = [Strength(layer, strength(n)) for n, layer in enumerate(layers)]
    return sorted(found, key=lambda one: -one.value.value)


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-strengths [n], of mean 0, from wins[i, j], how often i was preferred to j; by Newton's method."""
    n = len(wins)
    games = wins + wins.T
    np.fill_diagonal(games, 0)
    won = wins.sum(axis=1) - np.diag(wins)
    strength = np.zeros(n)
    for _ in range(100):
        chance = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))  # of i over j
        spread = games * chance * (1 - chance)
        # Only differences matter: the constant pins the mean, which the likelihood leaves open.
        curve = np.diag(spread.sum(axis=1)) - spread + 1 / n
        step = np.linalg.solve(curve, won - (games * chance).sum(axis=1)).clip(-1.5, 1.5)
        strength = strength + step - step.mean()
        if np.abs(step).max() < 1e-9:
            break
    return strength


def _between(first: Sequence[Vote]) -> tuple[list[Agreement], float | None]:
    """How often each two raters said the same of a pair, and Krippendorff's alpha over all."""
    by_pair: dict[int, dict[str, str]] = defaultdict(dict)
    for vote in first:
        said = "tie" if vote.choice == "tie" else vote.left if vote.choice == "left" else vote.right
        by_pair[vote.pair][vote.rater] = said
    same: Counter[tuple[str, str]] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for answers in by_pair.values():
        for two in combinations(sorted(answers), 2):
            both[two[0], two[1]] += 1
            same[two[0], two[1]] += answers[two[0]] == answers[two[1]]
    found = [Agreement(f"{a} and {b}", same[a, b], n) for (a, b), n in sorted(both.items())]
    return found, krippendorff(by_pair)


def krippendorff(answers: Mapping[int, Mapping[str, str]]) -> float | None:
    """Nominal alpha over units (pairs of one kind of layers) and raters; None where it is not defined.

    1 is perfect agreement, 0 what chance would bring.
    """
    units = [Counter(said.values()) for said in answers.values() if len(said) > 1]
    total = Counter[str]()
    disagreed = 0.0
    for unit in units:
        size = unit.total()
        total.update(unit)
        disagreed += (size * size - sum(n * n for n in unit.values())) / (size - 1)
    n = total.total()
    expected = (n * n - sum(x * x for x in total.values())) / (n - 1) if n > 1 else 0.0
    return 1 - disagreed / expected if expected else None


def _with_judge(first: Sequence[Vote], score_of: ScoreOf) -> Agreement | None:
    """How often raters prefer the caption of the higher score; ties on either side are left out."""
    same = of = 0
    for vote in first:
        left, right = score_of(vote.image_id, vote.left), score_of(vote.image_id, vote.right)
        if vote.choice != "tie" and left is not None and right is not None and left != right:
            of += 1
            same += (vote.choice == "left") == (left > right)
    return Agreement("all raters and the scores", same, of) if of else None


def _themselves(cast: Sequence[Vote]) -> list[Agreement]:
    first = {(v.rater, v.pair): v for v in cast if not v.repeat}
    same: Counter[str] = Counter()
    of: Counter[str] = Counter()
    for vote in cast:
        before = first.get((vote.rater, vote.pair))
        if vote.repeat and before:
            of[vote.rater] += 1
            same[vote.rater] += _preferred(vote, vote.left) == _preferred(before, vote.left)
    return [Agreement(rater, same[rater], n) for rater, n in sorted(of.items())]
