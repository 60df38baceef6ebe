"""Scores with their intervals as one picture in a file: a row a score, a dot and a whisker each.

For pages that can't hold a report's own drawings (Markdown, slides). Reads nothing, decides nothing.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sharecap.artifact import partial_of
from sharecap.report.document import Interval, Number

ACCENT, GREY, INK = "#2563a8", "#8a8f98", "#333840"
COLOURS = 32
"""Of a picture, shades at the edges of letters included."""


def draw_whiskers(
    rows: Sequence[tuple[str, Interval | Number]],
    path: Path,
    *,
    title: str,
    axis: str,
    strong: Sequence[int] = (),
) -> Path:
    """Write the picture (its kind is the ending of `path`: .png, .svg); rows from top to bottom.

    `strong` are the rows drawn in the accent colour. Rows without a value keep their place and stay empty.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(rows)), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    for place, (_, found) in enumerate(rows):
        if found.value is None:
            continue
        colour = ACCENT if place in strong else GREY
        if isinstance(found, Interval):
            ends = [found.low, found.high]
            axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot([found.value], [place], color=colour, marker="o", markersize=6)
    if any(isinstance(found, Interval) and found.difference for _, found in rows):
        axes.axvline(0, color=INK, linewidth=0.8)
    words: Any = {"color": INK, "parse_math": False}  # names are people's own: a $ is a dollar
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], **words)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis, **words)
    axes.set_title(title, loc="left", fontsize=10.5, **words)
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    partial = partial_of(path)
    if path.suffix == ".png":
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        # A few colours are all there are; in a repository a third of the bytes counts.
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(partial, format="png", optimize=True)
    else:
        figure.savefig(partial, format=path.suffix[1:], metadata={"Date": None})
    partial.replace(path)
    return path
