"""A report as one HTML file that needs nothing else: no script, no network, images inside.

Captions are hostile input: every text is escaped by the template engine, kept apart from the page's text
direction, and the content security policy admits nothing but this page's own style sheet and data images.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError
from sharecap.report import document, plots, tables

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML or UTF-8 cannot hold; a caption may hold them all the same."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a marked text in one style."""

    text: str
    kind: str  # "wrong", "right" or "" for words that state no checked fact


@dataclass(frozen=True)
class StageView:
    """One stage of a pipeline as it is printed."""

    stage: document.Stage
    start: float  # where its bar begins, in percent of the longest
    share: float  # how long its bar is, in percent of the longest


@dataclass(frozen=True)
class PlotView:
    """One plot as it is printed."""

    plot: document.Plot
    svg: Markup  # "" when there was nothing to draw
    looks: Mapping[str, plots.Look]
    bin_size: int  # how many values a point is the mean of


@dataclass(frozen=True)
class SectionView:
    """One section, with plots that follow each other gathered in one tuple."""

    anchor: str
    title: str
    groups: tuple[tuple[str, tuple[object, ...]], ...]  # name of the block's class, blocks


def write_report(report: document.Report, path: Path) -> Path:
    """Write `report` to `path`, which holds the whole page or what it held before; returns `path`."""
    page = render(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        todo = "make room or choose another place, then run again"
        raise SharecapError(f"could not write the report ({error.strerror})", where=path, todo=todo) from None
    return path


def render(report: document.Report) -> str:
    """`report` as an HTML page; equal reports give equal pages."""
    style = files("sharecap.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            sections=sections(report),
            style=Markup(style),
            style_digest=digest,
        )
    )
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", page)


@cache
def environment() -> Environment:
    """The template engine, with everything that the templates may call."""
    made = Environment(
        loader=PackageLoader("sharecap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        duration=tables.duration,
        dollars=tables.dollars,
        lay_out=tables.lay_out,
        pieces=pieces,
        data_url=data_url,
        stages=stages,
        total=total,
    )
    return made


def sections(report: document.Report) -> list[SectionView]:
    """Draw the plots, and gather the ones that follow each other."""
    every_plot = [b for s in report.sections for b in s.blocks if isinstance(b, document.Plot)]
    look_of = plots.looks(every_plot)
    place = itertools.count()

    def drawn(block: document.Block) -> object:
        if not isinstance(block, document.Plot):
            return block
        svg = Markup(plots.draw(block, look_of, next(place)))
        bin_size = max((plots.thinned(s.xs, s.ys)[2] for s in block.series), default=1)
        return PlotView(block, svg, {s.name: look_of[s.name] for s in block.series}, bin_size)

    def groups(section: document.Section) -> Iterator[tuple[str, tuple[object, ...]]]:
        for kind, blocks in itertools.groupby(section.blocks, type):
            made = tuple(drawn(block) for block in blocks)
            if kind is document.Plot:
                yield "Plot", made
            else:
                yield from ((kind.__name__, (block,)) for block in made)

    return [SectionView(f"s{i}", s.title, tuple(groups(s))) for i, s in enumerate(report.sections, start=1)]


def pieces(marked: document.MarkedText) -> list[Piece]:
    """Cut a text at its marks' borders. The pieces joined are the text; where marks overlap, wrong wins."""
    length = len(marked.text)
    spans = [(max(0, m.start), min(length, m.end), m.kind) for m in marked.marks]
    cuts = sorted({0, length, *(edge for start, end, _ in spans if start < end for edge in (start, end))})
    found: list[Piece] = []
    for start, end in itertools.pairwise(cuts):
        kinds = {kind for low, high, kind in spans if low <= start and end <= high}
        kind = "wrong" if "wrong" in kinds else "right" if kinds else ""
        text = marked.text[start:end]
        if found and found[-1].kind == kind:
            found[-1] = Piece(found[-1].text + text, kind)
        else:
            found.append(Piece(text, kind))
    return found


def data_url(png: bytes) -> str:
    """A picture inside the page."""
    assert png.startswith(PNG_SIGNATURE), "a gallery's picture is a PNG file's bytes"
    return "data:image/png;base64," + base64.b64encode(png).decode()


def stages(pipeline: document.Pipeline) -> list[StageView]:
    """Place every stage's bar: on a common time axis if all starts are known, else from the left."""
    starts = [stage.start for stage in pipeline.stages]
    on_axis = None not in starts
    spans = [((s.start or 0.0) if on_axis else 0.0, s.seconds or 0.0) for s in pipeline.stages]
    whole = max((start + seconds for start, seconds in spans), default=0.0) or 1.0
    return [
        StageView(stage, round(100 * start / whole, 3), round(100 * seconds / whole, 3))
        for stage, (start, seconds) in zip(pipeline.stages, spans, strict=True)
    ]


def total(pipeline: document.Pipeline) -> document.Stage:
    """All stages together; what no stage knows stays unknown."""
    seconds = [s.seconds for s in pipeline.stages if s.seconds is not None]
    costs = [s.cost_usd for s in pipeline.stages if s.cost_usd is not None]
    whole = pipeline.seconds if pipeline.seconds is not None else sum(seconds) if seconds else None
    return document.Stage(
        "Start to finish" if pipeline.seconds is not None else "Together",
        "",
        whole,
        sum(costs) if costs else None,
    )
