"""What the next captions of the teacher would buy: captioners of growing shares of a layer, and a fit.

The same held-out pictures judge all of them, and a smaller share is part of a larger one. What is lost,
1 - likeness, falls about as a power of the number of captions (as losses do: Hestness et al. 2017); a line
through its logarithms tells what twice as many would give. Four points carry no more than that: the fit is
given with its interval over held-out pictures, and says nothing beyond one doubling.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharecap.artifact import Artifact, partial_of, plain, write_atomically
from sharecap.errors import SharecapError
from sharecap.recipes.captioner import ALL, HELD_OUT, Asked, make_captioner
from sharecap.recipes.recipe import Recipe
from sharecap.recipes.run import Watch
from sharecap.statistics import Estimate, Floats, interval_of

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the teacher's captions."""

TABLE, PICTURE = "curve.json", "curve.png"


@dataclass(frozen=True)
class Point:
    """One captioner."""

    captions: int  # that it learned from
    spent_usd: float | None
    quality: Mapping[str, Mapping[str, float]]  # per source and "all": value, low, high


@dataclass(frozen=True)
class Next:
    """What twice the captions of one source, or of all, are expected to give."""

    source: str
    pictures: int  # held-out ones
    now: Estimate  # mean likeness
    gain: Estimate  # by twice as many captions


@dataclass(frozen=True)
class Curve:
    """The captioners in the order of their shares, and what comes next, the largest gain first."""

    points: tuple[Point, ...]
    next: tuple[Next, ...]
    next_usd: float | None  # what as many captions again would cost; None: prices are not known


def make_curve(asked: Asked, how: Recipe, to: Path, watch: Watch) -> Curve:
    """Train a captioner of each share below `to`, those that are not there; write the curve beside them."""
    made = [make_captioner(replace(asked, share=share), how, to, watch) for share in SHARES]
    curve = curve_of(made)
    write_atomically(to / TABLE, json.dumps(plain(curve), indent=1))
    draw(curve, to / PICTURE)
    return curve


def curve_of(made: Sequence[Artifact]) -> Curve:
    """The curve through finished captioners."""
    points = tuple(Point(x.metrics["captions"], x.metrics["spent_usd"], x.metrics["quality"]) for x in made)
    scores = [likenesses(x.path / HELD_OUT) for x in made]
    if any(found.keys() != scores[0].keys() for found in scores):
        raise SharecapError("captioners of other held-out pictures", where=made[0].path.parent)
    images = sorted(scores[0])
    source = {image: scores[0][image][0] for image in images}
    counts = [point.captions for point in points]
    ahead = []
    for name in [ALL, *sorted(set(source.values()))]:
        own = [image for image in images if name in (ALL, source[image])]
        table = np.array([[found[image][1] for image in own] for found in scores])

        def gain(weights: Floats, table: Floats = table) -> float:
            return doubled(counts, table @ weights / weights.sum())

        now = Estimate(**points[-1].quality[name])
        ahead.append(Next(name, len(own), now, interval_of(gain, own)))
    ahead.sort(key=lambda x: (x.source != ALL, -x.gain.value))
    return Curve(points, tuple(ahead), points[-1].spent_usd)


def doubled(captions: Sequence[int], quality: Floats) -> float:
    """How much likeness twice the last number of captions would add, by the line through the logarithms.

    What is lost never falls below a thousandth here, so that a perfect score can be drawn.
    """
    lost = np.log(np.maximum(1 - quality, 1e-3))
    slope = np.polyfit(np.log(captions), lost, 1)[0]
    return float(np.exp(lost[-1]) * (1 - 2**slope))


def likenesses(path: Path) -> dict[str, tuple[str, float]]:
    """Source and likeness of each held-out picture."""
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # captions may hold U+2028
    return {line["image"]: (line["source"], line["likeness"]) for line in map(json.loads, lines)}


def draw(curve: Curve, path: Path) -> None:
    """Quality over captions, a line a source, as a picture."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    captions = [point.captions for point in curve.points]
    for name in (one.source for one in curve.next):
        found: list[Any] = [point.quality[name] for point in curve.points]
        values = [x["value"] for x in found]
        if name == ALL and None not in [x["low"] for x in found]:
            sides = ([x["value"] - x["low"] for x in found], [x["high"] - x["value"] for x in found])
            ends = np.maximum(sides, 0)  # where all pictures score alike, rounding can put a side below
            axes.errorbar(captions, values, ends, color="#2563a8", marker="o", linewidth=2, label=name)
        else:
            axes.plot(captions, values, color="#8a8f98", linewidth=1)
            axes.annotate(name, (captions[-1], values[-1]), (5, 0), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks(captions, [f"{n:,}" for n in captions])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("captions of the teacher that it learned from")
    axes.set_ylabel("likeness to the teacher")
    axes.spines[["top", "right"]].set_visible(False)
    partial = partial_of(path)
    figure.savefig(partial, format="png")
    partial.replace(path)
