"""Scores and comparisons in lines for the terminal.

Every number stands beside its interval, and what could not be parsed is said.
"""

from collections.abc import Mapping
from io import StringIO
from shutil import get_terminal_size
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sharecap.evals.results import RunComparison
from sharecap.evals.statistics import Comparison, Estimate


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


def comparison_lines(found: RunComparison) -> list[str]:
    """Two runs: every metric of both, and the paired difference."""
    table = _table("benchmark", "metric", "a", "b", "a - b", f"{found.level:.0%} interval", "")
    for task, metrics in found.benchmarks.items():
        for name, comparison in metrics.items():
            table.add_row(task, _title(name, *found.headlines[task]), *_compared(comparison))
        table.add_section()
    if len(found.benchmarks) > 1:
        for kind, comparison in found.kinds.items():
            table.add_row("all, by kind", f"{kind} (% right)", *_compared(comparison))
        table.add_section()
        table.add_row("overall", "mean (of 100)", *_compared(found.overall))
    notes = ["*: the paired interval of a - b leaves zero out"]
    notes += [
        f"{task}: {a:,} and {b:,} of {found.items[task]:,} answers could not be parsed and count as wrong"
        for task, (a, b) in found.unparsed.items()
    ]
    notes += [f"{name}: only one of the runs has it, not compared" for name in found.only_in_one]
    return [f"a: {found.a}", f"b: {found.b}", *_lines(table), *notes]


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, justify="right" if title in ("score", "a", "b", "a - b") else "left")
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


def _cells(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.2f}", _interval(estimate.low, estimate.high, ".2f")


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "too few images" if low is None or high is None else f"{low:{form}} .. {high:{form}}"
