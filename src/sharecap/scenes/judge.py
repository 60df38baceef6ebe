"""The simulator as a judge: it knows what is true of a picture, and errs as often as it is told to.

It understands the questions of `quality/wording.py` alone, and of their texts what `facts.py` can read. What
it says of itself is exact, so an estimate made from its verdicts can be held against the truth.
"""

import random
import re
from collections.abc import Callable, Sequence

from sharecap.captions.sentences import sentences
from sharecap.quality.wording import (
    ANSWER,
    CHECK,
    NOT_TOLD,
    PREFER,
    SPLIT,
    VERDICTS,
    WRITE,
    texts_given,
)
from sharecap.scenes.facts import CLAIMS, Fact, quality, stated, truth
from sharecap.scenes.questions import ask, options
from sharecap.scenes.world import Scene, WorldSpec

UNSEEN = frozenset({"renown"})
"""Kinds of fact that no picture shows."""

_WRITE = WRITE.partition("{")[0]


def judgement(prompt: str, scene: Scene | None, rng: random.Random, errors: float) -> str | None:
    """The answer to a judge's question; None if it is none, or is about a scene that isn't known.

    `errors` is the chance that a verdict, a preference or an answer is one of the wrong ones.
    """
    given = texts_given(prompt)
    if prompt.startswith(SPLIT):
        return "\n".join(_split(int(name.split()[1]), text) for name, text in given.items())
    if prompt.startswith(ANSWER):
        letters = [text for name, text in given.items() if name.startswith("answer ")]
        said = answered(given["caption"], given["question"], letters)
        return _erring(said, "ABCD"[: len(letters)] + NOT_TOLD, rng, errors)
    if scene is None:
        return None
    if prompt.startswith(CHECK):
        return _erring(true_verdict(given["statement"], scene), VERDICTS, rng, errors)
    if prompt.startswith(PREFER):
        said = preferred(given["caption 1"], given["caption 2"], scene)
        return _erring(said, "120", rng, errors)
    return _questions(scene, rng) if prompt.startswith(_WRITE) else None


def claims_of(sentence: str) -> list[str]:
    """The claims that a sentence makes, as far as its facts can be read; each once."""
    return list(dict.fromkeys(CLAIMS[one.fact[0]].format(*one.fact[1:]) for one in stated(sentence)))


def true_verdict(claim: str, scene: Scene) -> str:
    """One of `VERDICTS`, without error."""
    facts = {one.fact for one in stated(claim)}
    if not facts or any(fact[0] in UNSEEN for fact in facts):
        return "unverifiable"
    return "supported" if facts <= truth(scene) else "contradicted"


def preferred(first: str, second: str, scene: Scene) -> str:
    """Which caption has the higher fact F1, as "1", "2" or "0"."""
    a, b = _f1(first, scene), _f1(second, scene)
    return "0" if a == b else "1" if a > b else "2"


def answered(caption: str, question: str, letters: Sequence[str]) -> str:
    """The letter of the answer that the caption gives, or `NOT_TOLD`."""
    facts = {one.fact for sentence in sentences(caption) for one in stated(sentence)}
    for reader, told in _TOLD:
        if match := reader.fullmatch(question):
            said = [told(fact, match.groups()) for fact in sorted(facts)]
            found = [letter for letter, text in zip("ABCD", letters, strict=False) if text in said]
            return found[0] if len(found) == 1 else NOT_TOLD
    return NOT_TOLD


Told = Callable[[Fact, tuple[str, ...]], str | None]


def _simple(kind: str) -> Told:
    return lambda fact, _: fact[1] if fact[0] == kind else None


def _at(kind: str) -> Told:
    return lambda fact, asked: fact[2] if (fact[0], fact[1]) == (kind, asked[0]) else None


_TOLD: tuple[tuple[re.Pattern[str], Told], ...] = (
    (re.compile(r"Which shape is there in the picture\?"), lambda f, _: f[2] if f[0] == "object" else None),
    (re.compile(r"How many objects are there in the picture\?"), _simple("count")),
    (re.compile(r"Which shape is at the (.+)\?"), _at("object")),
    (re.compile(r"What color is the object at the (.+)\?"), _at("colour")),
    (
        re.compile(r"Where is the (\w+) relative to the (\w+)\?"),
        lambda f, asked: f[2] if f[0] == "relation" and (f[1], f[3]) == asked else None,
    ),
    (
        re.compile(r"Where is the (\w+)\?"),
        lambda f, asked: f[1] if f[0] == "object" and f[2] == asked[0] else None,
    ),
    (re.compile(r"Which word is on the sign\?"), _simple("text")),
    (re.compile(r"What is the name of the emblem\?"), _simple("name")),
    (re.compile(r"In which style is the picture painted\?"), _simple("style")),
)


def _split(number: int, sentence: str) -> str:
    return "\n".join(f"{number}: {claim}" for claim in claims_of(sentence) or ["-"])


def _questions(scene: Scene, rng: random.Random) -> str:
    lines = []
    for number, asked in enumerate(ask(scene, WorldSpec(), rng), 1):
        choices, right = options(asked, 4, rng)
        if len(choices) < 4:
            continue
        listed = " ".join(f"{letter}) {text}" for letter, text in zip("ABCD", choices, strict=True))
        lines.append(f"{number} | - | {asked.text} | {listed} | {'ABCD'[right]}")
    return "\n".join(lines)


def _f1(caption: str, scene: Scene) -> float:
    of = quality([(caption, scene)])["all"]
    return 2 * of.precision * of.recall / (of.precision + of.recall) if of.told else 0.0


def _erring(said: str, choices: Sequence[str], rng: random.Random, errors: float) -> str:
    return rng.choice([other for other in choices if other != said]) if rng.random() < errors else said
