"""How good the captions of the story are, held against the truth: the report's tables and its gallery.

Reads sealed layers and the truth beside the pictures. A picture that a captioner had no caption for counts as
one of which it stated nothing; it is never left out of recall.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharecap.captions.layer import read_layer
from sharecap.images.catalog import Catalog
from sharecap.report.document import Cell, Gallery, GalleryItem, Interval, Mark, MarkedText, Number, Table
from sharecap.scenes.facts import TOLD, Quality, stated, summed, tally, truth
from sharecap.scenes.world import SOURCES, Truth
from sharecap.statistics import Estimate, Floats, interval_of

if TYPE_CHECKING:
    from sharecap.scenes.quickstart import Story

SHORT, TEACHER, CAPTIONER = "short captions", "teacher", "captioner"
PICTURES_A_SOURCE = 2
"""In the gallery."""

RESAMPLES = 1_000


@dataclass(frozen=True)
class Told:
    """What one captioner said about one set of pictures."""

    captioner: str
    pictures: str  # name of the set
    said: tuple[tuple[str, Truth], ...]  # "" where there is no caption


@dataclass(frozen=True)
class Measured:
    """One captioner's agreement with the truth of one set of pictures."""

    captioner: str
    pictures: str
    captions: int
    without: int  # pictures that it has no caption for
    words: float | None  # mean of a caption
    stated: float | None  # facts, mean of a caption
    precision: Estimate  # share of stated facts that are true, per cent
    recall: Estimate  # share of the facts of a full description that were stated, per cent
    kinds: Mapping[str, Quality]  # per kind of fact, and "all"


def read_told(story: "Story") -> dict[tuple[str, str], Told]:
    """(captioner, set of pictures) -> what was said: all that the story holds of it."""
    told = [
        Told(SHORT, "probe", short(probed(story))),
        Told(TEACHER, "probe", layer(story.root / "probe" / "dataset", TEACHER, probed(story))),
        Told(CAPTIONER, "probe", layer(story.root / "probe" / "dataset", CAPTIONER, probed(story))),
        Told(SHORT, "large", short(story.truths("large"))),
        Told(TEACHER, "first", layer(story.root / "first" / "dataset", TEACHER, story.truths("first"))),
        Told(CAPTIONER, "large", layer(story.root / "large" / "dataset", CAPTIONER, story.truths("large"))),
    ]
    return {(one.captioner, one.pictures): one for one in told}


def probed(story: "Story") -> list[Truth]:
    """The held-out pictures that both captioners were shown."""
    shown = {file_of(image.path) for image in Catalog.open(story.root / "probe" / "dataset")}
    return [one for one in story.truths("heldout") if one.file in shown]


def short(truths: Sequence[Truth]) -> tuple[tuple[str, Truth], ...]:
    """The short captions that came with the pictures."""
    return tuple((one.short, one) for one in truths)


def layer(dataset: Path, name: str, truths: Sequence[Truth]) -> tuple[tuple[str, Truth], ...]:
    """The captions of a layer, each beside the truth of its picture."""
    texts = {caption.image_id: caption.text for caption in read_layer(dataset, name)}
    by_file = {file_of(image.path): texts.get(image.id, "") for image in Catalog.open(dataset)}
    # The catalog holds a picture once, though two scenes may have come out equal.
    return tuple((by_file[one.file], one) for one in truths if one.file in by_file)


def file_of(path: str) -> str:
    """A catalogued picture's name in its world: images/SOURCE/NNNNNN.png."""
    return "/".join(Path(path).parts[-3:])


def measure(told: Told) -> Measured:
    """Precision and recall over all facts, with intervals over pictures."""
    pairs = [(text, one.scene) for text, one in told.said]
    texts = [text for text, _ in pairs if text]
    tallies = [tally(text, scene) for text, scene in pairs]
    each = [summed([one])["all"] for one in tallies]
    files = [one.file for _, one in told.said]
    counts = np.array([(q.stated, q.right, q.told, q.true) for q in each], dtype=np.float64).T
    number = len(texts) or None
    return Measured(
        captioner=told.captioner,
        pictures=told.pictures,
        captions=len(texts),
        without=len(pairs) - len(texts),
        words=sum(len(text.split()) for text in texts) / number if number else None,
        stated=float(counts[0].sum()) / number if number else None,
        precision=interval_of(per_cent(counts[1], counts[0]), files, resamples=RESAMPLES),
        recall=interval_of(per_cent(counts[2], counts[3]), files, resamples=RESAMPLES),
        kinds=summed(tallies),
    )


def per_cent(part: Floats, whole: Floats) -> Callable[[Floats], float]:
    """Weights of pictures -> 100 x weighted part / weighted whole; nan where there is no whole."""

    def of(weights: Floats) -> float:
        below = float(weights @ whole)
        return 100.0 * float(weights @ part) / below if below else float("nan")

    return of


def quality_table(measured: Sequence[Measured], title: str, note: str) -> Table:
    """One row a captioner."""
    rows = tuple(
        (
            one.captioner.capitalize(),
            one.captions,
            Number(one.words),
            Number(one.stated),
            interval(one.precision),
            interval(one.recall),
        )
        for one in measured
    )
    without = [
        f"{one.captioner}: {one.without:,} pictures without a caption" for one in measured if one.without
    ]
    notes = (note, *(f"{line}, counted as stating nothing." for line in without))
    columns = ("Captions", "Pictures", "Words", "Facts stated", "Precision, %", "Recall, %")
    return Table(columns, rows, title=title, note=" ".join(notes))


def kinds_table(teacher: Measured, captioner: Measured) -> Table:
    """Precision and recall per kind of fact."""
    kinds = [kind for kind in {**teacher.kinds, **captioner.kinds} if kind != "all"]
    kinds.sort(key=lambda kind: (TOLD.index(kind) if kind in TOLD else len(TOLD), kind))

    def cells(kind: str) -> tuple[Cell, ...]:
        found = [one.kinds.get(kind, Quality(0, 0, 0, 0)) for one in (teacher, captioner)]
        precisions = [Number(100 * q.precision) if q.stated else None for q in found]
        recalls = [Number(100 * q.recall) if kind in TOLD else None for q in found]
        return kind.capitalize(), *(q.stated for q in found), *precisions, *recalls

    told = ("states", "right, %", "recall, %")
    columns = ("Fact", *(f"{who} {what}" for what in told for who in ("Teacher", "Captioner")))
    note = (
        f"The teacher on the {teacher.captions:,} pictures of the first set, the captioner on the "
        f"{captioner.captions:,} of the large set. A dash: nothing stated, or nothing that must be told."
    )
    return Table(columns, tuple(cells(kind) for kind in kinds), title="By kind of fact", note=note)


def interval(found: Estimate) -> Cell:
    """A share with its interval; n/a when it could not be computed."""
    if found.low is None or found.high is None:
        return Number(found.value)
    return Interval(found.value, found.low, found.high, difference=False)


def gallery(story: "Story", told: Mapping[tuple[str, str], Told]) -> Gallery:
    """Some pictures of every source, drawn by the seed, with all that was said about them."""
    names = (SHORT, TEACHER, CAPTIONER)
    columns = [told[name, "probe"].said for name in names]  # the same pictures in the same order
    shown = [(row[0][1], [text for text, _ in row]) for row in zip(*columns, strict=True)]
    rng = random.Random(f"gallery/{story.spec.seed}")
    items = []
    for source in SOURCES:
        there = [row for row in shown if row[0].source == source]
        for one, texts in rng.sample(there, min(PICTURES_A_SOURCE, len(there))):
            said = tuple(marked(name, text, one) for name, text in zip(names, texts, strict=True))
            png = (story.root / "world" / "heldout" / one.file).read_bytes()
            note = f"Alt-text: {one.alt_text}" if one.alt_text else ""
            items.append(GalleryItem(png, f"{source} {Path(one.file).stem}", said, note))
    note = (
        "Held-out pictures: no captioner has learned from them. Stated facts are underlined: with dots where "
        "right, with waves where wrong. The teacher was asked with a prompt made for the source."
    )
    return Gallery(tuple(items), note)


def marked(name: str, text: str, about: Truth) -> MarkedText:
    """A caption with every fact that it states marked as right or wrong."""
    if not text:
        return MarkedText(name.capitalize(), "", note="no caption")
    known = truth(about.scene)
    marks = tuple(Mark(s.start, s.end, "right" if s.fact in known else "wrong") for s in stated(text))
    wrong = sum(mark.kind == "wrong" for mark in marks)
    note = f"{wrong} of {len(marks)} stated facts wrong" if marks else "states no fact that can be read"
    return MarkedText(name.capitalize(), text, marks, note)


def as_json(one: Measured) -> dict[str, Any]:
    """For `results.json`; what could not be computed is null."""

    def estimate(found: Estimate) -> dict[str, float | None]:
        return {"value": found.value if isfinite(found.value) else None, "low": found.low, "high": found.high}

    return {
        "captioner": one.captioner,
        "pictures": one.pictures,
        "captions": one.captions,
        "without_caption": one.without,
        "words_mean": one.words,
        "facts_mean": one.stated,
        "precision": estimate(one.precision),
        "recall": estimate(one.recall),
    }
