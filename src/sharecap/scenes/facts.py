"""Reads the facts that a caption states and holds them against the truth: exact precision and recall.

Works on anybody's words about scenes (teacher, captioner, short captions, a judge's claims); what it can't
read states no fact.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sharecap.scenes.language import NUMBERS, OPPOSITE, relation
from sharecap.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    ROWS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Scene,
)

Fact = tuple[str, ...]
"""(kind, ...), e.g. ("colour", "top left", "red")."""

Tally = dict[str, list[int]]
"""Kind -> numbers of facts: stated, stated rightly, told (TOLD, and rightly), true (and in TOLD)."""

TOLD = ("object", "colour", "size", "texture", "count", "background", "text", "name", "style")
"""The kinds that a complete description tells: recall counts these, precision all."""


def _one_of(words: Iterable[str]) -> str:
    return "(" + "|".join(words) + ")"


_PLACE = _one_of(place for row in PLACES for place in row)
_COLOUR, _SHAPE = _one_of(COLOURS), _one_of(SHAPES)
_OBJECT = re.compile(rf"\b{_PLACE} \w+ a {_SHAPE}, {_COLOUR}, {_one_of(TEXTURES)} and {_one_of(SIZES)}\b")
_RELATION = re.compile(rf"\b{_SHAPE} is {_one_of(OPPOSITE)} the {_SHAPE}\b")
CLAIMS = {
    "object": "At the {} there is a {}.",
    "colour": "The object at the {} is {}.",
    "size": "The object at the {} is {}.",
    "texture": "The object at the {} is {}.",
    "count": "The picture shows {} objects.",
    "background": "It has a {} background.",
    "text": 'The sign reads "{}".',
    "name": "The emblem's name is {}.",
    "renown": "What it stands for is known for its {}.",
    "style": "The picture is painted in the {} style.",
    "sign": "A sign runs across the {}.",
    "emblem": "At the {} there is a round emblem.",
    "thing": "There is a {} {}.",
    "relation": "The {} is {} the {}.",
}
"""Kind of fact -> the sentence that states it alone."""

_THERE = re.compile(rf"\b{_PLACE} there is a {_SHAPE}\b")
_IS = re.compile(rf"\bobject at the {_PLACE} is {_one_of((*COLOURS, *SIZES, *TEXTURES))}\b")
_KIND_OF = {
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(TEXTURES, "texture"),
}
_SIMPLE = {
    "count": re.compile(rf"\b{_one_of(NUMBERS)} objects?\b"),
    "background": re.compile(rf"\b{_one_of(BACKGROUNDS)} background\b"),
    "text": re.compile(r'\bsign reads "([^"]*)"'),
    "name": re.compile(r"\bname is (\w+)"),
    "renown": re.compile(r"\bknown for its (\w+)"),
    "style": re.compile(rf"\b{_one_of(STYLES)} style\b"),
    "sign": re.compile(rf"\bsign runs across the {_one_of(ROWS)}\b"),
    "emblem": re.compile(rf"\b{_PLACE} there is a round emblem\b"),
}
_SHORT = re.compile(rf"\b(?:a|an) {_COLOUR} {_SHAPE}\b")


@dataclass(frozen=True)
class Statement:
    """A fact, and where in the text it is stated."""

    fact: Fact
    start: int
    end: int


@dataclass(frozen=True)
class Quality:
    """Exact agreement of captions with the truth, over all of them."""

    stated: int
    right: int
    told: int  # stated and right, of the kinds in TOLD
    true: int  # facts of the kinds in TOLD that are true of the scenes

    @property
    def precision(self) -> float:
        """Share of stated facts that are true; nan when none was stated."""
        return self.right / self.stated if self.stated else float("nan")

    @property
    def recall(self) -> float:
        """Share of the facts that a full description tells that were stated rightly."""
        return self.told / self.true if self.true else float("nan")


def stated(text: str) -> Iterator[Statement]:
    """Every fact that `text` states, in no particular order."""
    for match in _OBJECT.finditer(text):
        place, shape, colour, texture, size = match.groups()
        values = (("object", shape), ("colour", colour), ("size", size), ("texture", texture))
        groups = {"object": 2, "colour": 3, "texture": 4, "size": 5}
        for kind, value in values:
            yield Statement((kind, place, value), *match.span(groups[kind]))
    for match in _THERE.finditer(text):
        yield Statement(("object", *match.groups()), *match.span(2))
    for match in _IS.finditer(text):
        yield Statement((_KIND_OF[match.group(2)], *match.groups()), *match.span(2))
    for match in _RELATION.finditer(text):
        yield Statement(("relation", *match.groups()), *match.span())
    for kind, pattern in _SIMPLE.items():
        for match in pattern.finditer(text):
            yield Statement((kind, match.group(1)), *match.span(1))
    for match in _SHORT.finditer(text):
        yield Statement(("thing", *match.groups()), *match.span())


def truth(scene: Scene) -> set[Fact]:
    """Every fact that is true of `scene`, of all kinds that can be stated."""
    facts: set[Fact] = {("count", NUMBERS[len(scene.things)]), ("background", scene.background)}
    for thing in scene.things:
        values = {"object": thing.shape, "colour": thing.colour, "size": thing.size, "texture": thing.texture}
        facts |= {(kind, thing.place, value) for kind, value in values.items()}
        facts.add(("thing", thing.colour, thing.shape))
        for other in scene.things:
            if other is not thing:
                facts.add(("relation", thing.shape, relation(thing, other), other.shape))
    if scene.word:
        facts |= {("text", scene.word), ("sign", ROWS[scene.word_row])}
    if scene.name:
        place = PLACES[scene.emblem_row][scene.emblem_col]
        facts |= {("name", scene.name), ("renown", scene.renown), ("emblem", place)}
    if scene.style:
        facts.add(("style", scene.style))
    return facts


def tally(text: str, scene: Scene) -> Tally:
    """One caption's agreement with its scene, by kind of fact: [stated, right, told, true]."""
    known = truth(scene)
    counts: Tally = {}
    for fact in {statement.fact for statement in stated(text)}:
        right = fact in known
        of_kind = counts.setdefault(fact[0], [0, 0, 0, 0])
        of_kind[0] += 1
        of_kind[1] += right
        of_kind[2] += right and fact[0] in TOLD
    for fact in known:
        counts.setdefault(fact[0], [0, 0, 0, 0])[3] += fact[0] in TOLD
    return counts


def quality(pairs: Iterable[tuple[str, Scene]]) -> dict[str, Quality]:
    """Agreement of captions with their scenes, over all kinds ("all") and per kind of fact."""
    return summed(tally(text, scene) for text, scene in pairs)


def summed(tallies: Iterable[Tally]) -> dict[str, Quality]:
    """The same, of captions that have been looked at."""
    sums: Tally = {"all": [0, 0, 0, 0]}
    for one in tallies:
        for kind, counts in one.items():
            for total in (sums["all"], sums.setdefault(kind, [0, 0, 0, 0])):
                for i, number in enumerate(counts):
                    total[i] += number
    order = sorted(sums, key=lambda kind: (kind != "all", kind))
    found = {kind: Quality(*sums[kind]) for kind in order}
    return {kind: one for kind, one in found.items() if one.stated or one.true}
