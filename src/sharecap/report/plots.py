"""Line plots as inline SVG, drawn by matplotlib without a display.

Only ticks, grid and lines are in the SVG; words stay in the page, where they can be selected and wrapped.
Colours are CSS classes of the page, so one drawing serves light and dark, and no `style` attribute remains
for the page's content security policy to forbid.
"""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

from sharecap.report.document import Plot

POINTS = 160
"""A line is thinned to at most this many points, each the mean of a bin."""

SIZE_INCHES = (4.2, 2.5)
DASHES = ("", "5 2.5", "1.2 2.2", "7 2.5 1.2 2.5")  # for the lines without emphasis, in points

# matplotlib must be told some colour: these stand for the page's own, and become classes after drawing.
CLASSES = {"#00000a": "ink", "#00000b": "grid", "#00000c": "accent", "#00000d": "plain"}
INK, GRID, ACCENT, PLAIN = CLASSES
KEPT = ("stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "text-anchor")


@dataclass(frozen=True)
class Look:
    """How one line is drawn, in the plot and beside its name."""

    css_class: str  # "accent" or "plain"
    dashes: str  # SVG's stroke-dasharray; "" is a solid line


def looks(plots: Iterable[Plot]) -> dict[str, Look]:
    """One look per series name, the same in every plot of the report."""
    found: dict[str, Look] = {}
    plain = 0
    for series in (s for plot in plots for s in plot.series):
        if series.name in found:
            continue
        if series.emphasis:
            found[series.name] = Look("accent", "")
        else:
            found[series.name] = Look("plain", DASHES[plain % len(DASHES)])
            plain += 1
    return found


def thinned(
    xs: Iterable[float], ys: Iterable[float], points: int = POINTS
) -> tuple[list[float], list[float], int]:
    """Means over equal bins of the finite points, and the size of a bin (1: nothing was averaged)."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    size = max(1, math.ceil(len(pairs) / points))
    bins = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [sum(x for x, _ in b) / len(b) for b in bins], [sum(y for _, y in b) / len(b) for b in bins], size


def draw(plot: Plot, look_of: dict[str, Look], place: int) -> str:
    """`plot` as an `<svg>` element for an HTML page; "" when no series holds a finite point.

    `place` is the plot's number on the page: it keeps the identifiers inside apart from other plots' ones.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = [(look_of[s.name], *thinned(s.xs, s.ys)) for s in plot.series]
    if not any(xs for _, xs, _, _ in lines):
        return ""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": str(place), "font.size": 9.5}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set(color=GRID, linewidth=1)
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.locator_params(nbins=5)
        # The emphasised line comes last, so that it lies on top.
        for look, xs, ys, _ in sorted(lines, key=lambda line: line[0].css_class == "accent"):
            accent = look.css_class == "accent"
            (line,) = axes.plot(xs, ys, color=ACCENT if accent else PLAIN)
            line.set(
                marker="o" if len(xs) == 1 else "",
                linewidth=2.0 if accent else 1.4,
                markersize=4,
                solid_capstyle="round",
            )
            if look.dashes:
                line.set(dashes=[float(d) / 1.4 for d in look.dashes.split()], dash_capstyle="round")
        out = io.BytesIO()
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return adopt(out.getvalue(), plot.title)


def adopt(svg: bytes, title: str) -> str:
    """matplotlib's SVG as a part of the page: names without prefix, classes for colours, no `style` left."""
    root = ET.fromstring(svg)
    used = set(re.findall(rb"#([\w-]+)", svg))
    for element in root.iter():
        element.tag = local(element.tag)
        if element.attrib.get("id", "").encode() not in used:
            element.attrib.pop("id", None)
        for name in list(element.attrib):
            value = element.attrib.pop(name)
            if name != "style":
                element.set(local(name), value)
                continue
            restyle(element, value)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in ("metadata", "style")]:
            parent.remove(child)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(title)}
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def restyle(element: ET.Element, style: str) -> None:
    """Turn the declarations of a `style` attribute into classes and presentation attributes."""
    classes = []
    for declaration in filter(None, (d.strip() for d in style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("fill", "stroke") and value in CLASSES:
            classes.append(f"{name}-{CLASSES[value]}")
        elif name in ("fill", "stroke"):
            element.set(name, value)
        elif name == "font-size":
            element.set(name, value.removesuffix("px"))
        elif name in KEPT:
            element.set(name, value)
    if classes:
        element.set("class", " ".join(dict.fromkeys(classes)))


def local(name: str) -> str:
    """The name without its XML namespace."""
    return name.rpartition("}")[2]


def printable(text: str) -> str:
    """`text` without characters that XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)
