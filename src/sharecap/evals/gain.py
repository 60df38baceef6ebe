"""How much of a score the images give: MMStar's multi-modal gain and leakage (arXiv 2403.20330, section 3.3).

The gain is the model's score less its score without images; the leakage is what the model without images is
above its language model, never less than 0: what it has learnt of the benchmark's questions by heart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sharecap.errors import SharecapError
from sharecap.evals.comparison import compare_runs
from sharecap.evals.results import Run
from sharecap.evals.tables import figure
from sharecap.statistics import Comparison, Estimate

CHOSEN = ("mme", "mmbench", "mmbench-cn", "seed-bench", "qbench", "scienceqa", "pope", "mmstar")
"""Multiple choice and yes/no: where a model that sees nothing can still be right."""


@dataclass(frozen=True)
class Gain:
    """One benchmark; all figures on the scale of its headline metric."""

    metric: str
    out_of: float
    gain: Comparison  # seeing less blind, paired
    leakage: Estimate | None  # None where no run of the language model was given


def gains(seen: Run, blind: Run, language: Run | None = None) -> Mapping[str, Gain]:
    """Gain, and leakage if `language` (the language model's blind run) is given, by benchmark.

    `SharecapError` if the runs share no multiple-choice or yes/no benchmark, or were asked differently.
    """
    shown = [name for name in CHOSEN if name in seen.records and name in blind.records]
    if not shown:
        todo = f"evaluate one of {', '.join(CHOSEN)} both with and without --blind"
        raise SharecapError("the runs share no multiple-choice or yes/no benchmark", todo=todo)
    pair = compare_runs(_only(seen, shown), _only(blind, shown))
    below = {}
    if language is not None:
        missing = [name for name in shown if name not in language.records]
        if missing:
            raise SharecapError(f"the language model's run lacks {missing[0]}", where=language.name)
        below = dict(compare_runs(_only(blind, shown), _only(language, shown)).benchmarks)
    found = {}
    for name in shown:
        metric, out_of = pair.headlines[name]
        leak = _floored(below[name][metric].difference) if name in below else None
        found[name] = Gain(metric, out_of, pair.benchmarks[name][metric], leak)
    return found


def gain_lines(found: Mapping[str, Gain]) -> list[str]:
    """A line a benchmark."""
    return [_told(name, one) for name, one in found.items()]


def _told(name: str, one: Gain) -> str:
    seen, blind = one.gain.a.value, one.gain.b.value
    line = f"{name} {one.metric} (of {one.out_of:g}): seeing {seen:.2f}, blind {blind:.2f}"
    line += f", gain {figure(one.gain.difference)}"
    return line if one.leakage is None else f"{line}, leakage {figure(one.leakage)}"


def _floored(one: Estimate) -> Estimate:
    low, high = (None if x is None else max(0.0, x) for x in (one.low, one.high))
    return Estimate(max(0.0, one.value), low, high)


def _only(run: Run, names: list[str]) -> Run:
    return Run(run.name, {name: run.records[name] for name in names}, run.measures)
