"""Two or more layers, compared caption by caption by a judge that sees the picture and no names.

Every pair is asked in both orders, since judges favour a place: only what they say in both is a preference,
anything else a tie. A pair of which one order failed is counted as failed, and is no answer.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from sharecap.artifact import write_atomically
from sharecap.captions.page_files import SCORES
from sharecap.errors import SharecapError, UsageError
from sharecap.images.dataset import disk_errors
from sharecap.quality.cases import Bench, Case
from sharecap.quality.preference import (
    Preference,
    Strength,
    preference_lines,
    preferences,
    strengths,
)
from sharecap.quality.sample import drawn
from sharecap.quality.shares import wilson
from sharecap.quality.shown import lost, percent, took
from sharecap.quality.wording import DIGEST, prefer_prompt, read_choice
from sharecap.statistics import Estimate

PREFER_TOKENS = 256
"""Tokens of an answer: a digit, that some models think about first."""


@dataclass(frozen=True)
class Compared:
    """One line of preference.jsonl: what the judge said of two captions of one image, in both orders."""

    image_id: str
    left: str  # layer
    right: str  # layer
    choice: str  # "left", "right" or "tie"
    first: str  # the digit when the left one was caption 1
    second: str  # the digit when the right one was caption 1
    judge: str
    prompt: str  # digest of the wording of the questions


@dataclass(frozen=True)
class PreferReport:
    """Which layer a judge prefers."""

    judge: str
    images: int  # that were drawn
    same: int  # pairs of captions that are word for word the same: ties that were not asked
    preferences: list[Preference]
    strengths: list[Strength]
    consistent: Estimate | None  # pairs of which both orders gave the same answer, of those asked
    first_place: Estimate | None  # answers for the caption that came first, of those for either
    failures: dict[str, int]  # kind -> pairs that one or both orders failed of
    requests: int
    cost_usd: float | None
    path: str


def compare_layers(bench: Bench, layers: Sequence[str], *, images: int | None = None) -> PreferReport:
    """Have the layers' captions compared, on all images that have one in each, or on so many of them.

    Raises what `Bench.ask` raises, and `UsageError` where the judge wrote some of the captions.
    """
    if len(layers) < 2 or len(set(layers)) < len(layers):
        raise UsageError("two or more different layers can be compared", where=", ".join(layers))
    rows = drawn(bench.dataset, layers, images)
    bench.refuse_captioners({caption.captioner for _, captions in rows for caption in captions})
    same: list[Compared] = []
    asked: list[tuple[Compared, Case, Case]] = []
    for image, captions in rows:
        for (left, a), (right, b) in combinations(zip(layers, captions, strict=True), 2):
            pair = Compared(image.id, left, right, "tie", "", "", bench.name, DIGEST)
            if a.text == b.text:
                same.append(pair)
                continue
            orders = (prefer_prompt(a.text, b.text), prefer_prompt(b.text, a.text))
            first, second = (Case(prompt, image.id, image) for prompt in orders)
            asked.append((pair, first, second))
    name = "-".join(layers)[:80]
    answers = bench.ask(name, "prefer", [c for _, *cases in asked for c in cases], PREFER_TOKENS)
    failures: Counter[str] = Counter()
    said: list[Compared] = []
    for pair, *cases in asked:
        (one, why_one, _), (two, why_two, _) = (answers.read(case, read_choice) for case in cases)
        if one is None or two is None:
            failures[why_one or why_two] += 1
            continue
        heard = {"choice": combined(one, two), "first": one, "second": two}
        said.append(Compared(**{**asdict(pair), **heard}))
    if failures and not said:
        what = f"not one pair was compared ({', '.join(f'{n:,} {kind}' for kind, n in failures.items())})"
        raise SharecapError(what, where=name, todo="run the same command with --retry-failed")
    path = bench.dataset / SCORES / f"{name}.preference.jsonl"
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(json.dumps(asdict(one)) + "\n" for one in (*said, *same)))
    places = [digit == "1" for one in said for digit in (one.first, one.second) if digit != "0"]
    return PreferReport(
        judge=bench.name,
        images=len(rows),
        same=len(same),
        preferences=preferences(layers, [*said, *same]),
        strengths=strengths(layers, [*said, *same]),
        consistent=wilson([float(_agrees(one)) for one in said]) if said else None,
        first_place=wilson(list(map(float, places))) if places else None,
        failures=dict(sorted(failures.items())),
        requests=sum(report.requests for report in bench.reports),
        cost_usd=bench.spent_usd if bench.price else None,
        path=str(path),
    )


def combined(first: str, second: str) -> str:
    """The choice, from the digit given in one order and that given when the captions had changed places."""
    return {("1", "2"): "left", ("2", "1"): "right"}.get((first, second), "tie")


def _agrees(one: Compared) -> bool:
    return one.choice != "tie" or one.first == one.second == "0"


def prefer_lines(report: PreferReport) -> list[str]:
    """For people."""
    lines = [f"judged by {report.judge} on {report.images:,} images, every pair in both orders"]
    lines += preference_lines(report.preferences, report.strengths)
    if report.same:
        lines.append(f"pairs that are the same word for word, and count as comparable: {report.same:,}")
    if report.consistent:
        lines.append(f"pairs of which both orders got the same answer: {percent(report.consistent).strip()}")
    if report.first_place:
        lines.append(f"choices that went to the caption put first: {percent(report.first_place).strip()}")
    lines += [*lost(report.failures), took(report.requests, report.cost_usd)]
    return [*lines, f"answers in {report.path}"]
