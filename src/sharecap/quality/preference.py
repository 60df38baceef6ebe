"""Which captions are preferred, how often, with intervals: one table for people's answers and a judge's.

The layout is that of the paper's Table 2 (one preferred, the other, comparable). Answers about one image are
not independent, so an image counts once in an interval, however many answered. Pure; only answers count.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np

from sharecap.quality.shares import Z, wilson
from sharecap.quality.shown import number, rows
from sharecap.statistics import Estimate, Floats

PRIOR = 0.5
"""Answers that every pair of layers is given for and against beforehand: without them a layer that always
wins would be infinitely strong."""


class Choice(Protocol):
    """One answer to the question which of two captions of an image is better."""

    @property
    def image_id(self) -> str:
        """The image."""

    @property
    def left(self) -> str:
        """The layer of one caption."""

    @property
    def right(self) -> str:
        """The layer of the other."""

    @property
    def choice(self) -> str:
        """ "left", "right" or "tie"."""


@dataclass(frozen=True)
class Preference:
    """One layer against another. The estimates are None where there are no answers."""

    a: str
    b: str
    wins: int
    losses: int
    ties: int
    share: Estimate | None  # of `a`, a tie counting half, with Wilson's interval over images
    prefer_a: Estimate | None  # share of answers, with the same interval; the three are the paper's row
    prefer_b: Estimate | None
    comparable: Estimate | None


@dataclass(frozen=True)
class Strength:
    """A layer among all."""

    layer: str
    value: Estimate  # Bradley-Terry, in log-odds against the mean of the layers


def preferences(layers: Sequence[str], choices: Sequence[Choice]) -> list[Preference]:
    """Every pair of the layers, in their order."""
    return [
        _preference(a, b, [one for one in choices if {one.left, one.right} == {a, b}])
        for a, b in combinations(layers, 2)
    ]


def preferred(one: Choice, layer: str) -> float:
    """1 if the layer was preferred, 0 if the other one was, and a half for neither."""
    if one.choice == "tie":
        return 0.5
    return float((one.left if one.choice == "left" else one.right) == layer)


def _preference(a: str, b: str, choices: Sequence[Choice]) -> Preference:
    found = Counter(preferred(one, a) for one in choices)
    images: dict[str, list[float]] = defaultdict(list)
    for one in choices:
        images[one.image_id].append(preferred(one, a))

    def share(of: float) -> Estimate | None:
        return wilson([x.count(of) / len(x) for x in images.values()]) if images else None

    half = wilson([sum(x) / len(x) for x in images.values()]) if images else None
    return Preference(a, b, found[1.0], found[0.0], found[0.5], half, share(1.0), share(0.0), share(0.5))


def strengths(layers: Sequence[str], choices: Sequence[Choice]) -> list[Strength]:
    """Bradley-Terry strengths, the strongest first; none without answers.

    The interval is by the likelihood's curvature and the spread of its slope over images (Huber's sandwich).
    The answers given beforehand are in both, so for two layers and images that are won or lost it is Gart's
    interval of the log-odds, and ten answers that agree don't make a point of it.
    """
    if not choices:
        return []
    place = {layer: n for n, layer in enumerate(layers)}
    left = np.array([place[one.left] for one in choices])
    right = np.array([place[one.right] for one in choices])
    share = np.array([preferred(one, one.left) for one in choices])
    trials = [(one.image_id, *sorted((one.left, one.right))) for one in choices]
    often = Counter(trials)
    weight = np.array([1 / often[one] for one in trials])  # an image counts once, however many answered

    wins = np.full((len(layers), len(layers)), PRIOR)
    np.add.at(wins, (left, right), weight * share)
    np.add.at(wins, (right, left), weight * (1 - share))
    value = bradley_terry(wins)
    chance = _chances(value)
    images, image = np.unique([one.image_id for one in choices], return_inverse=True)
    slopes = np.zeros((len(images), len(layers)))
    slope = weight * (share - chance[left, right])
    np.add.at(slopes, (image, left), slope)
    np.add.at(slopes, (image, right), -slope)
    beforehand = PRIOR * ((1 - chance) ** 2 + chance**2)  # squares, of one answer for and one against
    curve = np.linalg.pinv(_laplacian((wins + wins.T) * chance * (1 - chance)))
    error = np.sqrt(np.diag(curve @ (slopes.T @ slopes + _laplacian(beforehand)) @ curve))
    found = [
        Strength(layer, Estimate(float(v), float(v - Z * e), float(v + Z * e)))
        for layer, v, e in zip(layers, value, error, strict=True)
    ]
    return sorted(found, key=lambda one: -one.value.value)


def bradley_terry(wins: Floats) -> Floats:
    """Log-strengths [n], of mean 0, from wins[i, j], how often i was preferred to j; by Newton's method."""
    n = len(wins)
    games = wins + wins.T
    np.fill_diagonal(games, 0)
    won = wins.sum(axis=1) - np.diag(wins)
    strength = np.zeros(n)
    for _ in range(100):
        chance = _chances(strength)
        # Only differences matter: the constant pins the mean, which the likelihood leaves open.
        curve = _laplacian(games * chance * (1 - chance)) + 1 / n
        step = np.linalg.solve(curve, won - (games * chance).sum(axis=1)).clip(-1.5, 1.5)
        strength = strength + step - step.mean()
        if np.abs(step).max() < 1e-9:
            break
    return strength


def _chances(strength: Floats) -> Floats:
    """[n, n] how likely i is preferred to j."""
    chances: Floats = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    return chances


def _laplacian(weights: Floats) -> Floats:
    """[n, n] second derivatives of a sum over pairs, each of its strengths' difference alone."""
    return np.diag(weights.sum(axis=1)) - weights


def preference_lines(found: Sequence[Preference], strong: Sequence[Strength]) -> list[str]:
    """For people: the paper's row of each pair, then the strengths."""
    lines = []
    for one in found:
        lines.append(f"{one.a} against {one.b}: {one.wins + one.losses + one.ties:,} answers")
        lines += rows({one.a: one.prefer_a, one.b: one.prefer_b, "comparable": one.comparable})
    if strong:
        lines.append("strength in log-odds (Bradley-Terry), against the mean")
        width = max(len(one.layer) for one in strong) + 2
        lines += [f"  {one.layer:<{width}}{number(one.value, '+.2f')}" for one in strong]
    return lines
