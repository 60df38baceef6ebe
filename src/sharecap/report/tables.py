"""How numbers are written and tables laid out. Pure: from cells to what the template prints, no HTML here.

All intervals of one kind in a table share one scale, so that whiskers can be compared across its columns.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sharecap.report.document import Cell, Interval, Number, Table

NOT_A_NUMBER = "n/a"
"""Printed for a value that could not be computed; it is never shown as 0."""

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
MARGIN = 4.0  # percent of a whisker's width that stay free on either side


@dataclass(frozen=True)
class Whisker:
    """Positions along a whisker, in percent of its width."""

    low: float
    value: float
    high: float
    zero: float | None  # None: no line at zero


@dataclass(frozen=True)
class CellView:
    """One cell as it is printed."""

    text: str
    detail: str = ""  # the interval in words
    status: str = ""  # "good", "bad" or "unclear" for a difference
    whisker: Whisker | None = None


@dataclass(frozen=True)
class TableView:
    """A table as it is printed."""

    table: Table
    kinds: tuple[str, ...]  # per column: "words", "number" or "interval"
    rows: tuple[tuple[CellView, ...], ...]
    total: tuple[CellView, ...] | None


def number(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """`value` with `digits` after the point, a true minus and thousands separated; `n/a` if it is none."""
    if value is None or not math.isfinite(value):
        return NOT_A_NUMBER
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOT_A_NUMBER
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def dollars(usd: float | None) -> str:
    """US dollars; four decimals below a dollar, where cents would round the cost of a caption away."""
    if usd is None or not math.isfinite(usd):
        return NOT_A_NUMBER
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def lay_out(table: Table) -> TableView:
    """Write every cell, and place the whiskers on their shared scales."""
    every_row = [*table.rows, *([table.total] if table.total else [])]
    intervals = [cell for row in every_row for cell in row if isinstance(cell, Interval) and is_known(cell)]
    scales = {kind: scale_of([i for i in intervals if i.difference is kind]) for kind in (True, False)}

    def views(row: Iterable[Cell]) -> tuple[CellView, ...]:
        return tuple(view(cell, scales) for cell in row)

    kinds = tuple(kind_of([row[i] for row in every_row]) for i in range(len(table.columns)))
    rows = tuple(views(row) for row in table.rows)
    return TableView(table, kinds, rows, views(table.total) if table.total else None)


def kind_of(column: list[Cell]) -> str:
    """`interval` or `number` for a column that holds such cells and no words, else `words`."""
    if any(isinstance(cell, str) for cell in column):
        return "words"
    if any(isinstance(cell, Interval) for cell in column):
        return "interval"
    return "number" if any(isinstance(cell, int | Number) for cell in column) else "words"


def view(cell: Cell, scales: dict[bool, tuple[float, float]]) -> CellView:
    """One cell in words, with its whisker if it is an interval."""
    match cell:
        case None:
            return CellView(DASH)
        case str():
            return CellView(cell)
        case int():
            return CellView(number(cell, 0))
        case Number(value, digits, unit):
            text = number(value, digits)
            return CellView(f"{text}\N{NO-BREAK SPACE}{unit}" if unit and text != NOT_A_NUMBER else text)
        case Interval() if not is_known(cell):
            return CellView(NOT_A_NUMBER)
        case Interval(value, low, high, digits, difference):
            assert low <= high, f"interval from {low} to {high}"
            detail = f"{number(low, digits, signed=difference)} to {number(high, digits, signed=difference)}"
            text = number(value, digits, signed=difference)
            return CellView(text, detail, status_of(cell), whisker(cell, scales[difference]))


def is_known(cell: Interval) -> bool:
    """Whether there is a value and an interval to show."""
    return cell.value is not None and all(map(math.isfinite, (cell.value, cell.low, cell.high)))


def status_of(cell: Interval) -> str:
    """`good` or `bad` when the whole interval of a difference lies above or below zero, else `unclear`."""
    if not cell.difference:
        return ""
    return "good" if cell.low > 0 else "bad" if cell.high < 0 else "unclear"


def scale_of(intervals: list[Interval]) -> tuple[float, float]:
    """Lowest and highest value to show; differences always show zero."""
    ends = [
        end for i in intervals for end in (i.low, i.high, i.value or 0.0, *([0.0] if i.difference else []))
    ]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def whisker(cell: Interval, scale: tuple[float, float]) -> Whisker:
    """Place an interval on its scale."""
    low, high = scale

    def place(x: float) -> float:
        return round(MARGIN + (100 - 2 * MARGIN) * (x - low) / (high - low), 2)

    assert cell.value is not None
    zero = place(0.0) if cell.difference else None
    return Whisker(place(cell.low), place(cell.value), place(cell.high), zero)
