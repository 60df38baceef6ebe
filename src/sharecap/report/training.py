"""Training runs drawn from the lines that they write: a section a stage, a plot a measure.

It reads what is there: a stage that stopped halfway is drawn as far as it came, which is when its curves are
looked at most. Nothing here is computed again, and a value that is no number is left out of a line.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.report.document import Fact, Paragraph, Plot, Report, Section, Series
from sharecap.report.html import write_report

Line = Mapping[str, Any]
GIB = 2**30
NEEDED = {
    *("step", "loss", "tokens", "tokens_per_s", "seconds", "data_wait_s", "memory_bytes"),
    *("rates", "gradient_norm", "gradient_norms"),
}
"""What every line has."""


def write(title: str, stages: Mapping[str, Path], path: Path) -> Path | None:
    """The page of these stages' files of metrics, those that are there; None, and no page, if none is."""
    found = {name: lines for name, file in stages.items() if (lines := lines_of(file))}
    return write_report(page(title, found), path) if found else None


def lines_of(path: Path) -> list[Line]:
    """The lines of a file, without a last one that a kill cut off; none if there is no such file.

    `SharecapError` names one that isn't a step's.
    """
    todo = "the models are whole; move this file away to see the curves of the others"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SharecapError(f"cannot read the metrics ({error})", where=path, todo=todo) from None
    lines = list[Line]()
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not found.keys() >= NEEDED:
            raise SharecapError(f"line {number} is no step's metrics", where=path, todo=todo)
        lines.append(found)
    return lines


def page(title: str, stages: Mapping[str, Sequence[Line]]) -> Report:
    """What was measured in each stage."""
    every = [line for lines in stages.values() for line in lines]
    seconds = sum(line["seconds"] for line in every)
    waited = sum(line["data_wait_s"] for line in every)
    return Report(
        title=f"Training {title}",
        lead="What each step measured. The same numbers are in metrics.jsonl of each stage.",
        facts=(
            Fact("steps", f"{len(every):,}"),
            Fact("tokens", f"{sum(line['tokens'] for line in every):,}"),
            Fact("in steps", f"{seconds / 3600:,.2f} h", "without looks at what is held out, and saving"),
            Fact("waiting for rows", f"{100 * waited / seconds:.1f} %"),
            Fact("most memory", f"{max(line['memory_bytes'] for line in every) / GIB:,.1f} GiB"),
        ),
        sections=tuple(Section(name, (said(lines), *plots(lines))) for name, lines in stages.items()),
    )


def said(lines: Sequence[Line]) -> Paragraph:
    """A stage in a sentence."""
    first, last = lines[0], lines[-1]
    seconds = sum(line["seconds"] for line in lines)
    rate = sum(line["tokens"] for line in lines) / seconds
    return Paragraph(
        f"Loss from {first['loss']:.3f} to {last['loss']:.3f} (step {last['step']:,}), {rate:,.0f} tokens/s."
    )


def plots(lines: Sequence[Line]) -> tuple[Plot, ...]:
    """One plot a measure; those of which no line has a value are left out."""
    per_step = ("step", "")
    made = (
        Plot(
            "Loss",
            (
                series(lines, "learned rows", lambda line: line["loss"], emphasis=True),
                series(lines, "held-out rows", lambda line: line.get("held_out_loss")),
            ),
            "step",
            "per learned token",
        ),
        Plot(
            "Quality on what is held out",
            (series(lines, "held out", lambda line: line.get("held_out_quality"), emphasis=True),),
            *per_step,
        ),
        Plot("Rates", by_part(lines, "rates"), *per_step, note="Of each line of the trainable table."),
        Plot(
            "Gradient norms",
            by_part(lines, "gradient_norms", "gradient_norm"),
            *per_step,
            note="Before clipping: whole, and of each part.",
        ),
        Plot("Speed", (series(lines, "run", lambda line: line["tokens_per_s"]),), "step", "tokens a second"),
        Plot("MFU", (series(lines, "run", percent("mfu")),), "step", "% of the peak"),
        Plot("Waiting for rows", (series(lines, "run", waiting),), "step", "% of the step"),
        Plot(
            "Memory", (series(lines, "run", lambda line: line["memory_bytes"] / GIB),), "step", "GiB, at most"
        ),
    )
    kept = (Plot(p.title, drawn(p.series), p.x_label, p.y_label, p.note) for p in made)
    return tuple(plot for plot in kept if plot.series)


def drawn(every: Sequence[Series]) -> tuple[Series, ...]:
    """The lines that have a point."""
    return tuple(one for one in every if one.xs)


def series(
    lines: Sequence[Line], name: str, value: Callable[[Line], float | None], emphasis: bool = False
) -> Series:
    """One measure over the steps that have it."""
    points = [(float(line["step"]), float(y)) for line in lines if (y := value(line)) is not None]
    return Series(name, tuple(x for x, _ in points), tuple(y for _, y in points), emphasis)


def by_part(lines: Sequence[Line], key: str, whole: str = "") -> tuple[Series, ...]:
    """A line for each part under `key`, after that of the whole model if there is one."""
    parts = dict.fromkeys(part for line in lines for part in line[key])
    found = [series(lines, part, inner(key, part)) for part in parts]
    if not whole:
        return tuple(found)
    return (series(lines, "whole", lambda line: line[whole], emphasis=True), *found)


def inner(key: str, part: str) -> Callable[[Line], float | None]:
    """The value of one part."""
    return lambda line: line[key].get(part)


def percent(key: str) -> Callable[[Line], float | None]:
    """A share in percent, where the line has it."""
    return lambda line: 100 * line[key] if key in line else None


def waiting(line: Line) -> float:
    """Percent of the step in which no rows were there."""
    return float(100 * line["data_wait_s"] / line["seconds"])
