"""What a preference study found: who is preferred how often, with intervals; and how far raters agree.

Only first answers count for the layers; repeated trials measure raters. Who is preferred how often is counted
as a judge's answers are (`quality/preference.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sharecap.quality.preference import Preference, Strength, preferences, preferred, strengths
from sharecap.web.study import Study, Vote


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
    between, alpha = _between(first)
    return Outcome(
        preferences(study.layers, first),
        strengths(study.layers, first),
        between,
        alpha,
        _themselves(cast),
        _with_judge(first, score_of),
    )


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
            same[vote.rater] += preferred(vote, vote.left) == preferred(before, vote.left)
    return [Agreement(rater, same[rater], n) for rater, n in sorted(of.items())]
