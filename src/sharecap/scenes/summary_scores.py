"""The arms compared: verdicts and score tables, from the evaluations alone.

The claim holds only if the detailed arm's paired interval lies above zero against both others; anything else
is said as plainly.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.artifact import plain
from sharecap.evals.comparison import RunComparison, compare_runs
from sharecap.evals.results import Run, read_run
from sharecap.report.document import Cell, Interval, Number, Paragraph, Table, Verdict
from sharecap.report.tables import number
from sharecap.scenes.benchmark_files import KIND_NAMES
from sharecap.statistics import Comparison, Estimate

OURS, OTHERS = "detailed", ("short", "none")
ARM_NAMES = {"none": "no captions", "short": "short captions", "detailed": "detailed captions"}
BENCHMARKS = {"mme": "MME", "mmbench": "MMBench", "vqav2": "VQAv2"}


@dataclass(frozen=True)
class Scores:
    """The detailed arm against each of the others, on the same questions."""

    against: Mapping[str, RunComparison]  # other arm -> detailed - other
    asked: Mapping[str, int]  # kind -> questions
    pictures: int

    @property
    def questions(self) -> int:
        """Questions that every arm answered."""
        return sum(next(iter(self.against.values())).items.values())

    @property
    def holds(self) -> bool:
        """Whether the detailed arm beats every other one."""
        return all(is_above(found.overall) for found in self.against.values())


def read_scores(evals: Path) -> Scores:
    """Compare the runs below `evals`."""
    runs = {arm: read_run(evals / arm) for arm in ARM_NAMES}
    against = {other: compare_runs(runs[OURS], runs[other], names=KIND_NAMES) for other in OTHERS}
    images = {image for records in runs[OURS].records.values() for r in records for image in r.images}
    return Scores(against, asked(runs[OURS]), len(images))


def asked(run: Run) -> dict[str, int]:
    """How many questions of each kind there are, over all benchmarks."""
    kinds = [record.kind for records in run.records.values() for record in records if record.kind]
    return dict(Counter(KIND_NAMES.get(kind, kind) for kind in kinds))


def is_above(found: Comparison) -> bool:
    """Whether the whole interval of the difference lies above zero."""
    return found.difference.low is not None and found.difference.low > 0


def verdicts(scores: Scores) -> list[Verdict]:
    """What the numbers say: whether the claim holds, each comparison, the kinds, and what they leave out."""
    claim = (
        "In this run detailed captions made the better model: it beats both others, and both intervals lie "
        "above zero."
        if scores.holds
        else "In this run the claim does not hold: the model of detailed captions does not beat both others."
    )
    found = [Verdict(claim, "good" if scores.holds else "bad")]
    for other, comparison in scores.against.items():
        told = sentence(other, comparison.overall, scores.questions)
        found.append(Verdict(told, "good" if is_above(comparison.overall) else "bad"))
    for other, comparison in scores.against.items():
        worse = [kind for kind, c in comparison.kinds.items() if c.decided and c.difference.value < 0]
        if worse:
            told = f"Against {ARM_NAMES[other]}, detailed captions are worse on {listed(worse)}."
            found.append(Verdict(told, "bad"))
        open_ = [kind for kind, c in comparison.kinds.items() if not c.decided]
        if open_:
            told = f"Against {ARM_NAMES[other]}, undecided by kind of question: {listed(open_)}."
            found.append(Verdict(told, "neutral"))
    luck = (
        "The intervals are over pictures. How lucky this one training was is not in them: another --seed, or "
        "another processor's rounding, moves a difference by some points."
    )
    return [*found, Verdict(luck, "neutral")]


def sentence(other: str, found: Comparison, questions: int) -> str:
    """One comparison in words."""
    values = f"{found.a.value:.1f} against {found.b.value:.1f} of 100"
    difference = found.difference
    if difference.low is None or difference.high is None:
        return f"Detailed against {ARM_NAMES[other]}: {values}; too few pictures for an interval."
    how = "beat" if difference.low > 0 else "lose to" if difference.high < 0 else "can't be told apart from"
    value, low, high = (number(x, signed=True) for x in (difference.value, difference.low, difference.high))
    return (
        f"Detailed captions {how} {ARM_NAMES[other]}: {values}, a difference of {value} points "
        f"(95 % interval {low} to {high}, paired, {questions:,} questions)."
    )


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tables(scores: Scores) -> tuple[Paragraph, Table, Table]:
    """Right answers per kind of question; the benchmarks' own scores."""
    first = next(iter(scores.against.values()))
    kinds = tuple(
        (kind, scores.asked[kind], *cells({o: c.kinds[kind] for o, c in scores.against.items()}))
        for kind in first.kinds
    )
    heads = ("Detailed − short", "Detailed − none")
    arms = tuple(name.capitalize() for name in ARM_NAMES.values())
    by_kind = Table(
        ("Question", "Asked", *arms, *heads),
        kinds,
        title="Right answers by kind of question, per cent",
        note="Mean over the benchmarks that ask the kind. Yes/no questions are half right by chance, four "
        "choices a quarter. MME asks relations as positions. Differences in points, with their paired "
        "95 % intervals.",
        strong=4,
    )
    rows = tuple(
        (
            f"{BENCHMARKS.get(task, task)}, of {out_of:,.0f}",
            first.items[task],
            *cells({o: c.benchmarks[task][metric] for o, c in scores.against.items()}),
        )
        for task, (metric, out_of) in first.headlines.items()
    )
    total = (
        "Overall, of 100",
        scores.questions,
        *cells({o: c.overall for o, c in scores.against.items()}),
    )
    by_benchmark = Table(
        ("Benchmark", "Answers", *arms, *heads),
        rows,
        total=total,
        title="The benchmarks by their own rules",
        note="MME: questions right, and pictures with both questions right. MMBench: right however the "
        "choices are rolled. Overall: the mean, each benchmark on a scale of 100. Intervals draw pictures "
        "anew, the same ones for both sides.",
        strong=4,
    )
    unparsed = {OURS: sum(a for a, _ in first.unparsed.values())}
    unparsed |= {o: sum(b for _, b in c.unparsed.values()) for o, c in scores.against.items()}
    counts = ", ".join(f"{unparsed[arm]:,} ({name})" for arm, name in ARM_NAMES.items())
    words = Paragraph(
        f"All three answered the same {scores.questions:,} questions about {scores.pictures:,} held-out "
        f"pictures. Answers that could not be read count as wrong: {counts}."
    )
    return words, by_kind, by_benchmark


def cells(found: Mapping[str, Comparison]) -> tuple[Cell, ...]:
    """None, short, detailed; then detailed - short and detailed - none."""
    values = (found["none"].b, found["short"].b, found["short"].a)
    return *(Number(v.value) for v in values), *(difference(found[o].difference) for o in OTHERS)


def difference(found: Estimate) -> Cell:
    """A difference with its interval; without one where there are too few pictures."""
    if found.low is None or found.high is None:
        return Number(found.value)
    return Interval(found.value, found.low, found.high)


def as_json(scores: Scores) -> dict[str, Any]:
    """For `results.json`."""

    def compared(found: Mapping[str, Comparison]) -> dict[str, Any]:
        arms = {"none": found["none"].b, "short": found["short"].b, OURS: found["short"].a}
        differences = {f"{OURS} - {other}": found[other].difference for other in OTHERS}
        return plain({**arms, **differences})  # type: ignore[no-any-return]

    first = next(iter(scores.against.values()))
    return {
        "holds": scores.holds,
        "questions": scores.questions,
        "pictures": scores.pictures,
        "overall": compared({o: c.overall for o, c in scores.against.items()}),
        "kinds": {
            kind: {
                "asked": scores.asked[kind],
                **compared({o: c.kinds[kind] for o, c in scores.against.items()}),
            }
            for kind in first.kinds
        },
        "benchmarks": {
            task: {
                "metric": metric,
                "out_of": out_of,
                **compared({o: c.benchmarks[task][metric] for o, c in scores.against.items()}),
            }
            for task, (metric, out_of) in first.headlines.items()
        },
    }
