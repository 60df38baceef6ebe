"""Scores and comparisons in lines for the terminal.

Every number stands beside its interval, and what could not be parsed is said.
"""

from collections.abc import Mapping, Sequence
from io import StringIO
from shutil import get_terminal_size
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sharecap.evals.comparison import RunComparison
from sharecap.statistics import POWER, Comparison, Estimate

NUMBERS = ("score", "difference", "first - it", "could show")


def score_lines(summary: Mapping[str, Any]) -> list[str]:
    """One run, from what `results.summary` returns."""
    table = _table("benchmark", "metric", "score", f"{summary['level']:.0%} interval")
    notes = []
    for task, found in summary["benchmarks"].items():
        headline, out_of = found["headline"], found["out_of"]
        for name, estimate in found["scores"].items():
            table.add_row(task, _title(name, headline, out_of), *_cells(Estimate(**estimate)))
        table.add_section()
        if found["withheld"]:
            table.add_row(task, headline, "none", found["withheld"])
        share = f"{found['unparsed']:,} of {found['items']:,} answers could not be parsed"
        share += f" and {found['unparsed_answers']}"
        notes += [f"{task}: {line}" for line in (share, *found["notes"])]
    if len(summary["benchmarks"]) > 1:
        for kind, estimate in summary["kinds"].items():
            table.add_row("all, by kind", f"{kind} (% right)", *_cells(Estimate(**estimate)))
        table.add_section()
        if summary["overall"]:
            table.add_row("overall", "mean (of 100)", *_cells(Estimate(**summary["overall"])))
    notes += [f"{name}: not found, not run" for name in summary.get("missing", ())]
    protocol = f", protocol {summary['protocol']}" if "protocol" in summary else ""
    if judge := summary.get("judge"):
        cost = "" if judge["usd"] is None else f", ${judge['usd']:.4f}"
        notes.append(f"judge: {judge['name']}{cost}")
    return [summary["model"] + protocol, *_lines(table), *notes]


def comparison_lines(found: Sequence[RunComparison]) -> list[str]:
    """The first model with each of the others; every metric where there is one other, else the headlines."""
    lines = [*_lines(_headlines(found)), *_legend(found)]
    return lines if len(found) > 1 else [*_lines(_all_metrics(found[0])), *lines]


def _all_metrics(found: RunComparison) -> Table:
    table = _table("benchmark", "metric", found.a, found.b, "difference", f"{found.level:.0%} interval", "")
    for task, metrics in found.benchmarks.items():
        for name, comparison in metrics.items():
            table.add_row(task, _title(name, *found.headlines[task]), *_compared(comparison))
        table.add_section()
    if len(found.benchmarks) > 1:
        for kind, comparison in found.kinds.items():
            table.add_row("all, by kind", f"{kind} (% right)", *_compared(comparison))
        table.add_section()
        table.add_row("overall", "mean (of 100)", *_compared(found.overall))
    return table


def _headlines(found: Sequence[RunComparison]) -> Table:
    interval = f"{found[0].level:.0%} interval"
    table = _table("headline", "model", "score", interval, "first - it", interval, "p", "Holm", "could show")
    first = found[0]
    for task in dict.fromkeys(task for one in found for task in one.benchmarks):
        seen = [one for one in found if task in one.benchmarks]
        metric, out_of = seen[0].headlines[task]
        lead = seen[0].benchmarks[task][metric].a
        ours = _spread(seen[0].spread[task][0])
        table.add_row(f"{task}: {_title(metric, metric, out_of)}", first.a, *_cells(lead, ours))
        for one in seen:
            comparison = one.benchmarks[task][metric]
            table.add_row(
                "",
                one.b,
                *_cells(comparison.b, _spread(one.spread[task][1])),
                *_compared(comparison)[2:4],
                _chance(comparison.p),
                _chance(one.corrected.get(task))
                + ("*" if one.corrected.get(task, 1.0) < 1 - one.level else ""),
                "" if comparison.detectable is None else f"{comparison.detectable:.2f}",
            )
        table.add_section()
    return table


def _legend(found: Sequence[RunComparison]) -> list[str]:
    """What the columns mean, and what a reader must know beside them."""
    family = sum(len(one.corrected) for one in found)
    notes = [
        f"first - it: {found[0].a} less this model, on the same items",
        f"could show: the smallest true difference that so many items would show in {POWER:.0%} of samples",
        f"Holm: p corrected for looking {family} times; *: below {1 - found[0].level:.2f} even so",
    ]
    if any(runs > 1 for one in found for runs in one.runs):
        notes.append(
            "±: standard deviation over a model's runs; their mean is compared, and intervals hold it"
        )
    for one in found:
        if sorted(one.runs)[0] == 1 < max(one.runs):
            alone = one.a if one.runs[0] == 1 else one.b
            notes.append(f"{alone}: one run only, so how it varies from run to run is in no interval")
        for task, test in one.mcnemar.items():
            only = f"{test.only_a:,} right in {one.a} only, {test.only_b:,} in {one.b} only"
            notes.append(f"{task}: McNemar p {_chance(test.p)} ({only})")
        notes += [
            f"{task}: {a:,} and {b:,} of {one.items[task]:,} answers could not be parsed"
            for task, (a, b) in one.unparsed.items()
            if a or b
        ]
        notes += [f"{name}: not in all runs, not compared" for name in one.only_in_one]
    return list(dict.fromkeys(notes))


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, justify="right" if title in NUMBERS else "left")
    return table


def _lines(table: Table) -> list[str]:
    # A pipe has no width: wide enough there that nothing is cut.
    console = Console(file=StringIO(), width=get_terminal_size((140, 24)).columns)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def _title(name: str, headline: str, out_of: float) -> str:
    return f"{name} (of {out_of:g})" if name == headline else name


def _compared(comparison: Comparison) -> tuple[str, ...]:
    low, high = comparison.difference.low, comparison.difference.high
    values = (f"{comparison.a.value:.2f}", f"{comparison.b.value:.2f}")
    return (
        *values,
        f"{comparison.difference.value:+.2f}",
        _interval(low, high, "+.2f"),
        "*" if comparison.decided else "",
    )


def _cells(estimate: Estimate, spread: str = "") -> tuple[str, str]:
    return f"{estimate.value:.2f}{spread}", _interval(estimate.low, estimate.high, ".2f")


def figure(one: Estimate) -> str:
    """A value with its interval in a sentence."""
    known = one.low is not None and one.high is not None
    return f"{one.value:.2f} ({one.low:.2f} .. {one.high:.2f})" if known else f"{one.value:.2f}"


def _spread(deviation: float | None) -> str:
    return "" if deviation is None else f" ±{deviation:.2f}"


def _chance(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "too few images" if low is None or high is None else f"{low:{form}} .. {high:{form}}"
