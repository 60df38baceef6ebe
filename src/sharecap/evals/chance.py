"""What guessing gives: the expected score of picking one of the offered answers at random, by each rule.

No model is asked. Guesses are balanced: over the drawings every answer of a question is picked equally often
(up to five answers), so that the mean of plain accuracies is exact and that of other metrics nearly so.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sharecap.errors import UsageError
from sharecap.evals.gain import CHOSEN
from sharecap.evals.task import Record, Sample, Task, graded
from sharecap.statistics import value

DRAWINGS = 120
"""Of guesses at the whole benchmark: a multiple of 1 to 5, the numbers of answers that are offered."""

_OPTION = re.compile(r"(?:^|[\n(,;]|[Oo]ptions:)\s*\(?([A-H])[.:)]\s", re.MULTILINE)
"""A letter in front of an option: on a line of its own, or in MMStar's row of them."""


@dataclass(frozen=True)
class Chance:
    """One benchmark, guessed."""

    benchmark: str
    metric: str
    out_of: float
    expected: float  # mean over the drawings
    low: float  # between these lie 95 of 100 single drawings
    high: float
    items: int


def chances(tasks: Sequence[Task], seed: int = 0) -> list[Chance]:
    """For every multiple-choice and yes/no benchmark among the tasks; `UsageError` if there is none."""
    found = [_guessed(task, seed) for task in tasks if task.name in CHOSEN]
    if not found:
        todo = f"guessing needs answers to choose from: {', '.join(CHOSEN)}"
        raise UsageError("no multiple-choice or yes/no benchmark here", todo=todo)
    return found


def offered(sample: Sample) -> tuple[str, ...]:
    """The answers that a question leaves open: yes and no, or its options' letters."""
    if isinstance(sample.reference, dict):
        return tuple(sample.reference["options"])
    if str(sample.reference).lower() in ("yes", "no"):
        return ("Yes", "No")
    letters = tuple(sorted(set(_OPTION.findall(sample.question))))
    if len(letters) < 2:
        raise UsageError(f"question {sample.id} shows no options to guess among")
    return letters


def _guessed(task: Task, seed: int) -> Chance:
    rng = random.Random(f"{seed} {task.name}")
    columns = [_column(task, sample, rng) for sample in task.samples]
    scores, headline, out_of = [], "", 0.0
    for drawing in zip(*columns, strict=True):
        measures = task.measure(drawing)
        if not measures.withheld:
            headline, out_of = measures.headline, measures.out_of
            scores.append(value(measures.scores[headline]))
    ranked = sorted(scores)
    edge = round(0.025 * (len(ranked) - 1))
    ends = ranked[edge], ranked[-1 - edge]
    return Chance(task.name, headline, out_of, fmean(scores), *ends, items=len(task.samples))


def _column(task: Task, sample: Sample, rng: random.Random) -> list[Record]:
    """The question's guessed records, one a drawing: each answer equally often, in an order of its own."""
    answers = offered(sample)
    images = (f"{task.name}/{sample.image_name or sample.group}",)
    records = [graded(task, sample, answer, images=images) for answer in answers]
    column = records * -(-DRAWINGS // len(records))
    rng.shuffle(column)
    return column[:DRAWINGS]


def chance_lines(found: Sequence[Chance]) -> list[str]:
    """A line a benchmark."""
    return [
        f"{one.benchmark} {one.metric} (of {one.out_of:g}): guessing gives {one.expected:.2f}, "
        f"19 of 20 times {one.low:.2f} .. {one.high:.2f} ({one.items:,} items)"
        for one in found
    ]
