"""Questions about scenes, with the right answer and plausible wrong ones, in the forms the benchmarks ask.

The same questions about training pictures are the instruction rows; about held-out pictures, the evaluation.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sharecap.scenes.language import NUMBERS, OPPOSITE, relation
from sharecap.scenes.world import COLOURS, PLACES, SHAPES, STYLES, Scene, WorldSpec, names_of, words_of

KINDS = ("existence", "count", "shape", "color", "position", "relation", "text", "name", "style")
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
"""The instruction suffixes of the benchmarks' own protocol (paper, section 4; LLaVA-1.5)."""


@dataclass(frozen=True)
class Asked:
    """One thing asked about one scene."""

    kind: str  # one of KINDS
    text: str  # open question
    answer: str
    wrong: tuple[str, ...]  # answers that some other scene would have
    claim: str  # yes/no question with `{}` where an answer goes


def ask(scene: Scene, spec: WorldSpec, rng: random.Random) -> Iterator[Asked]:
    """One question of every kind that this scene can answer, in a random order."""
    questions = [make(scene, spec, rng) for make in _MAKERS]
    rng.shuffle(questions)
    yield from (question for question in questions if question is not None)


def yes_no(asked: Asked, yes: bool, rng: random.Random) -> str:
    """The question as a claim that is true (`yes`) or false."""
    return asked.claim.format(asked.answer if yes else rng.choice(asked.wrong))


def options(asked: Asked, number: int, rng: random.Random) -> tuple[tuple[str, ...], int]:
    """`number` answers to choose from, and the index of the right one."""
    chosen = [asked.answer, *rng.sample(asked.wrong, min(number - 1, len(asked.wrong)))]
    rng.shuffle(chosen)
    return tuple(chosen), chosen.index(asked.answer)


def turn(asked: Asked, form: str, rng: random.Random) -> tuple[str, str]:
    """Question and answer as an instruction row has them. `form` is "short", "yes_no" or "letter"."""
    # Which shape is there has several right answers unless it offers some to choose from.
    if form == "yes_no" or (form == "short" and asked.kind == "existence"):
        yes = rng.random() < 0.5
        return f"{yes_no(asked, yes, rng)}\n{SHORT}", "Yes" if yes else "No"
    if form == "letter":
        choices, right = options(asked, 4, rng)
        lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=False))
        return f"{asked.text}\n{lines}\n{LETTER}", "ABCD"[right]
    assert form == "short", form
    return f"{asked.text}\n{SHORT}", asked.answer


def _others(value: str, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(v for v in values if v != value)


def _existence(scene: Scene, _: WorldSpec, rng: random.Random) -> Asked:
    present = [thing.shape for thing in scene.things]
    absent = tuple(shape for shape in SHAPES if shape not in present)
    text = "Which shape is there in the picture?"
    return Asked("existence", text, rng.choice(present), absent, "Is there a {} in the picture?")


def _count(scene: Scene, _: WorldSpec, __: random.Random) -> Asked:
    answer = NUMBERS[len(scene.things)]
    text = "How many objects are there in the picture?"
    return Asked("count", text, answer, _others(answer, NUMBERS[1:8]), "Are there {} objects in the picture?")


def _shape(scene: Scene, _: WorldSpec, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    claim = f"Is there a {{}} at the {thing.place}?"
    return Asked(
        "shape", f"Which shape is at the {thing.place}?", thing.shape, _others(thing.shape, SHAPES), claim
    )


def _color(scene: Scene, _: WorldSpec, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    text, claim = (
        f"What color is the object at the {thing.place}?",
        f"Is the object at the {thing.place} {{}}?",
    )
    return Asked("color", text, thing.colour, _others(thing.colour, COLOURS), claim)


def _position(scene: Scene, _: WorldSpec, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    places = tuple(place for row in PLACES for place in row)
    claim = f"Is the {thing.shape} at the {{}}?"
    return Asked("position", f"Where is the {thing.shape}?", thing.place, _others(thing.place, places), claim)


def _relation(scene: Scene, _: WorldSpec, rng: random.Random) -> Asked | None:
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    answer = relation(a, b)
    text = f"Where is the {a.shape} relative to the {b.shape}?"
    return Asked(
        "relation", text, answer, _others(answer, tuple(OPPOSITE)), f"Is the {a.shape} {{}} the {b.shape}?"
    )


def _text(scene: Scene, spec: WorldSpec, _: random.Random) -> Asked | None:
    if not scene.word:
        return None
    wrong = _others(scene.word, words_of(spec))
    return Asked("text", "Which word is on the sign?", scene.word, wrong, "Does the sign say {}?")


def _name(scene: Scene, spec: WorldSpec, _: random.Random) -> Asked | None:
    if not scene.name:
        return None
    wrong = _others(scene.name, names_of(spec))
    return Asked("name", "What is the name of the emblem?", scene.name, wrong, "Is this the emblem of {}?")


def _style(scene: Scene, _: WorldSpec, __: random.Random) -> Asked | None:
    if not scene.style:
        return None
    text = "In which style is the picture painted?"
    return Asked(
        "style", text, scene.style, _others(scene.style, STYLES), "Is the picture painted in the {} style?"
    )


_MAKERS = (_existence, _count, _shape, _color, _position, _relation, _text, _name, _style)
