"""What is said about scenes: the teacher's detailed words, short captions, alt-text, blind elaborations.

A detailed description tells only what it was asked for: the topics beyond plain objects (readable text,
names, style, relations) are told when the prompt asks, as the paper's prompts do (Fig. 3a).
"""

import random
from dataclasses import replace
from itertools import pairwise

from sharecap.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    NAMES,
    PLACES,
    RENOWN,
    ROWS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    WORDS,
    Scene,
    Thing,
)

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOPICS = frozenset({"text", "name", "style", "relations"})
FEWEST_WORDS = 60
MOST_RELATIONS = 2
CLOSINGS = (
    "Nothing else can be seen in the picture.",
    "All of the objects are drawn flat, without any shadow, and none of them touches another one.",
)
"""True of every scene; they make up the length where a picture holds little. What a caption may say or leave
out at will is noise to whoever learns from it: remarks on absent things kept small models from learning."""
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


def describe(scene: Scene, topics: frozenset[str], rng: random.Random, mistakes: float = 0.0) -> str:
    """A detailed caption of 60 to 150 words. `mistakes` is the chance that one attribute is told wrong."""
    assert topics <= TOPICS, topics
    seen = misremember(scene, rng, mistakes)
    sentences = [_opening(seen, rng)]
    if seen.style and "style" in topics:
        sentences.append(f"It is painted in the {seen.style} style.")
    if seen.word:
        sentences.append(f"A white sign runs across the {ROWS[seen.word_row]}.")
        if "text" in topics:
            sentences.append(f'The text on the sign reads "{seen.word}".')
    if seen.name:
        sentences.append(f"At the {PLACES[seen.emblem_row][seen.emblem_col]} there is a round emblem.")
        if "name" in topics:
            sentences.append(f"Its name is {seen.name}, known for its {seen.renown}.")
    sentences += [_sentence(thing, rng) for thing in seen.things]
    if "relations" in topics:
        sentences += [relation_sentence(a, b) for a, b in list(pairwise(seen.things))[:MOST_RELATIONS]]
    for sentence in CLOSINGS:
        if sum(len(s.split()) for s in sentences) >= FEWEST_WORDS:
            break
        sentences.append(sentence)
    return " ".join(sentences)


def short_caption(scene: Scene, rng: random.Random) -> str:
    """What a short captioner (BLIP in the paper, 54 characters) gives: the main thing only."""
    main = max(scene.things, key=lambda thing: (thing.size == "large", rng.random()))
    thing = f"a {main.colour} {main.shape}"
    if scene.word:
        return f"a sign and {thing}"
    if scene.name:
        return f"an emblem and {thing}"
    if scene.style:
        return f"a painting of {thing}"
    return rng.choice((thing, f"{thing} on a {scene.background} background", f"{thing} and other shapes"))


def alt_text(scene: Scene, rng: random.Random) -> str:
    """What a web page says beside the picture: sometimes a shape, often noise, now and then wrong."""
    thing = rng.choice(scene.things)
    shape = thing.shape if rng.random() < 0.8 else rng.choice(SHAPES)
    noise = (
        "free download",
        "wallpaper hd",
        "buy now",
        f"IMG_{rng.randrange(10000):04d}",
        "best 2023",
        "stock photo",
    )
    return " ".join(
        rng.sample([thing.colour, shape, rng.choice(noise), rng.choice(noise)], k=rng.randint(2, 4))
    )


def blind_detail(short: str, rng: random.Random) -> str:
    """A long text written from the short caption alone, by a writer that can't see the picture.

    Stands in for LLaVA-Instruct's detailed rows, which a text-only model wrote (paper, Table 1).
    """
    endings = [
        "The scene has a simple and clear look.",
        "The main subject draws the eye at once.",
        "The colours give the picture a calm mood.",
        "There may be other things around it.",
        "The rest of the picture is left to the imagination.",
        "It could be part of a larger collection.",
    ]
    place = rng.choice(rng.choice(PLACES))
    colour, shape = next(pair for pair in pairwise(short.split()) if pair[1] in SHAPES)
    guess = f"At the {place} there is a {rng.choice(SIZES)} {rng.choice(TEXTURES)} {colour} {shape}."
    return " ".join([f"The picture shows {short}.", guess, *rng.sample(endings, 4)])


def misremember(scene: Scene, rng: random.Random, rate: float) -> Scene:
    """The scene with each attribute replaced by another one with probability `rate`."""

    def other(value: str, choices: tuple[str, ...]) -> str:
        return rng.choice([c for c in choices if c != value]) if value and rng.random() < rate else value

    things = tuple(
        replace(
            thing,
            shape=other(thing.shape, SHAPES),
            colour=other(thing.colour, COLOURS),
            size=other(thing.size, SIZES),
            texture=other(thing.texture, TEXTURES),
        )
        for thing in scene.things
    )
    return replace(
        scene,
        things=things,
        background=other(scene.background, BACKGROUNDS),
        word=other(scene.word, WORDS),
        name=other(scene.name, NAMES),
        renown=other(scene.renown, RENOWN),
        style=other(scene.style, STYLES),
    )


def relation(a: Thing, b: Thing) -> str:
    """Where `a` is relative to `b`: by row where the rows differ, else by column."""
    if a.row != b.row:
        return "above" if a.row < b.row else "below"
    return "left of" if a.col < b.col else "right of"


def relation_sentence(a: Thing, b: Thing) -> str:
    """E.g. "The star is above the ring." No shape occurs twice in a scene."""
    return f"The {a.shape} is {relation(a, b)} the {b.shape}."


def _opening(scene: Scene, rng: random.Random) -> str:
    number = len(scene.things)
    objects = f"{NUMBERS[number]} object{'s' if number > 1 else ''}"
    where = f"on a {scene.background} background"
    return rng.choice(
        (
            f"The picture shows {objects} {where}.",
            f"This picture contains {objects} {where}.",
            f"There {'are' if number > 1 else 'is'} {objects} {where}.",
        )
    )


def _sentence(thing: Thing, rng: random.Random) -> str:
    # The verbs vary, the distance from place to attribute doesn't: so it is learned from fewer captions.
    verb = rng.choice(("holds", "shows"))
    return f"The {thing.place} {verb} a {thing.shape}, {thing.colour}, {thing.texture} and {thing.size}."
