"""What one row of a table learns from and which of its parts learn: the paper's experiments, without a size.

A design is plain data. `experiments.py` holds the tables; a size turns a design into runs: `at_size.py` into
recipes for real models, the embedded world into models that two cores train in minutes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sharecap.errors import UsageError

Captions = Literal[
    "none",
    "questions",
    "short",
    "captioner",
    "teacher",
    "human",
    "one_prompt",
    "mixed",
    "alt_text",
    "trimmed",
]
"""What pre-training reads. none: there is no such stage; questions: instruction rows instead of captions;
one_prompt: the teacher's, without prompts made for each source; mixed: a short caption for every other image;
alt_text: the captioner's, behind the words that the image came with; trimmed: the captioner's, without
sentences that are wrong."""

Model = Literal["llava_7b", "llava_1_5_7b", "llava_1_5_13b", "qwen_vl"]

Details = Literal["blind", "teacher"]
"""Who wrote the detailed rows among the instructions."""

Measure = Literal["score", "facts", "preference"]
"""What a claim is about. score: overall on the benchmarks, of 100; facts: F1 of a caption's facts against the
truth, of 100; preference: per cent of pairs in which one is preferred, less those in which the other is."""

MARGINS: Mapping[Measure, float] = {"score": 2.0, "facts": 2.0, "preference": 10.0}
"""How far apart, in points, two rows may be that a claim says are about the same. Fixed before any run: two
points are less than the paper's gains are on such a scale; of preferences, ten are three times the paper's
own distance between teacher and captioner."""

CURVES = ("images", "tower", "mistakes")
"""Fields of a design along which a curve can be drawn."""

CAPTIONERS = ("teacher", "captioner")
"""Who can be compared without a model that learns."""

MISTAKES = 0.02
"""Wrong attributes of the teacher, where nothing else is said."""


@dataclass(frozen=True)
class Design:
    """One model of a table: by default ShareGPT4V-7B's recipe. `UsageError` for what can't be trained."""

    name: str = "both"  # the row's label
    model: Model = "llava_1_5_7b"
    pretrain: Captions = "captioner"
    images: float = 1.0  # share of the images whose captions are read in pre-training
    short_ones: bool = False  # only of images that have short captions too; on scenes all have
    tower: float = 0.5  # share of the vision tower's blocks that learn in pre-training, from the last on
    details: Details = "teacher"
    mistakes: float = MISTAKES  # share of attributes that the teacher tells wrong (pretrain="teacher" only)

    def __post_init__(self) -> None:
        where = f"row {self.name!r}"
        check_text(where, name=self.name)
        if self.short_ones not in (False, True) or (self.short_ones and self.pretrain != "captioner"):
            todo = "it is True or False, and True with pretrain='captioner' only"
            raise UsageError(f"short_ones={self.short_ones!r} can't be", where=where, todo=todo)
        one_of(where, "model", self.model, get_args(Model))
        one_of(where, "pretrain", self.pretrain, get_args(Captions))
        one_of(where, "details", self.details, get_args(Details))
        for name in CURVES:
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1 or (name == "images" and not value):
                raise UsageError(f"{name}={value!r} is no share", where=where, todo="give one from 0 to 1")


@dataclass(frozen=True)
class Claim:
    """That one row's score is better than another's, or about the same."""

    row: str
    than: str
    paper: str = ""  # what the paper measured for it; "" if it is not the paper's claim
    equal: bool = False  # it says: about the same, within the margin of its measure
    measure: Measure = "score"

    def __post_init__(self) -> None:
        check_text("a claim", row=self.row, than=self.than, paper=self.paper)

    @property
    def margin(self) -> float:
        """Points within which two rows are about the same."""
        return MARGINS[self.measure]


@dataclass(frozen=True)
class Experiment:
    """One table or figure: its rows, and what it claims of them. `UsageError` for one that can't be run."""

    name: str  # letters, digits and underscores: its pages are called so
    title: str
    where: str  # in the paper; "" for a question beyond it
    claim: str  # one sentence for someone who hasn't read the paper
    designs: tuple[Design, ...]
    claims: tuple[Claim, ...]
    follows: str  # what follows if it is true
    curve: str = ""  # one of `CURVES`, along which a curve is drawn; "": none is
    note: str = ""  # how the small world differs
    captioners: tuple[str, ...] = ()  # of `CAPTIONERS`, compared on the same pictures in place of designs

    def __post_init__(self) -> None:
        where = f"experiment {self.name!r}"
        texts = ("name", "title", "where", "claim", "follows", "note")
        check_text(where, **{k: getattr(self, k) for k in texts})
        if not re.fullmatch(r"\w{1,60}", self.name, re.ASCII) or self.name.lower() == "index":
            todo = "its pages are called so: use letters, digits and underscores, and not index"
            raise UsageError("not a name for an experiment", where=repr(self.name), todo=todo)
        for name, kind in (("designs", Design), ("claims", Claim)):
            if not all_are(getattr(self, name), kind):
                todo = f"give a tuple of sharecap.recipes.design.{kind.__name__}"
                raise UsageError(f"{name} are something else", where=where, todo=todo)
        names = [*(design.name for design in self.designs), *self.captioners]
        if not names or len(set(names)) < len(names):
            raise UsageError("rows must be one or more, of different names", where=where)
        if not all_are(self.captioners, str):
            raise UsageError("captioners are something else", where=where, todo="give a tuple of names")
        for name in self.captioners:
            one_of(where, "captioner", name, CAPTIONERS)
        if self.captioners and self.designs:
            todo = "make two experiments"
            raise UsageError("rows are either designs or captioners", where=where, todo=todo)
        if self.curve:
            one_of(where, "curve", self.curve, CURVES)
        measures: tuple[Measure, ...] = ("facts", "preference") if self.captioners else ("score",)
        for claim in self.claims:
            one_of(where, "a claim's measure", claim.measure, measures)
            for name in (claim.row, claim.than):
                if name not in names:
                    raise UsageError(f"a claim about a row {name!r} that isn't there", where=where)

    def design(self, name: str) -> Design:
        """The row of that name."""
        return next(design for design in self.designs if design.name == name)


def check_text(of: str, **texts: Any) -> None:
    """`UsageError` for a value that should be words and isn't: users write these themselves."""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UsageError(f"{name}={text!r} is no text", where=of)


def one_of(where: str, name: str, value: object, known: tuple[str, ...]) -> None:
    """`UsageError` unless it is one of them."""
    if value not in known:
        raise UsageError(f"unknown {name} {value!r}", where=where, todo=f"known: {', '.join(known)}")


def all_are(values: object, kind: type) -> bool:
    """Whether it is a tuple of these."""
    return isinstance(values, tuple) and all(isinstance(value, kind) for value in values)
