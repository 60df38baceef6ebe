"""What a report consists of: plain frozen data, in the order in which it is read.

Whoever has numbers builds these; `html.py` turns them into one page. Nothing here knows where the numbers
came from, and nothing here computes one: a score that could not be computed is `None`, never 0.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fact:
    """One figure of the strip below the title."""

    label: str
    value: str  # as it is to be read, unit included
    note: str = ""  # one short line below it


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """One sentence that says what the numbers say."""

    text: str
    status: Literal["good", "bad", "neutral"]


@dataclass(frozen=True)
class Number:
    """A number in a table cell."""

    value: float | None  # None: it could not be computed
    digits: int = 1  # after the decimal point
    unit: str = ""  # printed after the number, e.g. "%"


@dataclass(frozen=True)
class Interval:
    """A value with its interval, drawn as a whisker on the scale of its column."""

    value: float | None  # None: it could not be computed
    low: float = 0.0
    high: float = 0.0
    digits: int = 1  # after the decimal point
    difference: bool = True  # signed, with a line at zero, coloured when the interval excludes zero


Cell = str | int | Number | Interval | None
"""`None` prints as a dash: there is nothing to tell."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under one heading each. A column of numbers is set to the right, words to the left."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""  # how to read it; printed below
    total: tuple[Cell, ...] | None = None  # a last row that sums up the others
    strong: int | None = None  # index of the column that matters most

    def __post_init__(self) -> None:
        for row in (*self.rows, *([self.total] if self.total else [])):
            assert len(row) == len(self.columns), f"row of {len(row)} cells under {len(self.columns)} columns"


@dataclass(frozen=True)
class Mark:
    """A stretch of a text that states a fact. Where marks overlap, wrong wins."""

    start: int  # index of the first character
    end: int  # index after the last character
    kind: Literal["wrong", "right"]


@dataclass(frozen=True)
class MarkedText:
    """One captioner's words about one picture, with the facts in them that were checked."""

    label: str  # who says it
    text: str  # untrusted: it may hold anything
    marks: tuple[Mark, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class GalleryItem:
    """One picture and what was said about it."""

    png: bytes  # a whole PNG file
    title: str
    texts: tuple[MarkedText, ...]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures with their texts."""

    items: tuple[GalleryItem, ...]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    emphasis: bool = False  # drawn in the accent colour; the others are grey, told apart by their dashes

    def __post_init__(self) -> None:
        assert len(self.xs) == len(self.ys), f"{self.name}: {len(self.xs)} xs, {len(self.ys)} ys"


@dataclass(frozen=True)
class Plot:
    """Lines over one pair of axes. Plots that follow each other are set side by side."""

    title: str
    series: tuple[Series, ...]
    x_label: str
    y_label: str
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline."""

    name: str
    made: str  # what came out, in a few words
    seconds: float | None = None  # working time; None: not known
    cost_usd: float | None = None  # None: nothing was to be paid
    start: float | None = None  # seconds after the whole began; None: not known


@dataclass(frozen=True)
class Pipeline:
    """Stages in the order in which they ran.

    Where every start is known, bars lie on one time axis, so that stages that ran side by side are seen to;
    else all bars begin at the left and only their lengths tell.
    """

    stages: tuple[Stage, ...]
    seconds: float | None = None  # from start to finish; None: the sum over the stages
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    png: bytes  # a whole PNG file
    alt: str  # what it shows, for who can't see it


@dataclass(frozen=True)
class Link:
    """A way to another page beside this one."""

    href: str  # relative, such as "other.html"
    title: str
    text: str  # what is to be found there
    status: Literal["good", "bad", "neutral"] = "neutral"


@dataclass(frozen=True)
class Links:
    """Other pages, one below the other."""

    links: tuple[Link, ...]


@dataclass(frozen=True)
class Commands:
    """Command lines to copy."""

    lines: tuple[str, ...]


Block = Paragraph | Verdict | Table | Gallery | Plot | Pipeline | Picture | Links | Commands


@dataclass(frozen=True)
class Section:
    """Blocks under one heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A whole page."""

    title: str
    lead: str  # one or two sentences: what was asked, what came out
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    footer: str = ""
