"""What is said about scenes: as long as asked for, of what was asked for, and wrong as often as set."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.scenes.facts import stated, truth
from sharecap.scenes.language import (
    OPPOSITE,
    TOPICS,
    alt_text,
    blind_detail,
    describe,
    misremember,
    relation,
    short_caption,
)
from sharecap.scenes.world import SHAPES, WorldSpec, imagine

SPEC = WorldSpec(seed=5)
KIND_OF = {"text": "text", "name": "name", "style": "style", "relations": "relation"}
"""Topic -> kind of fact that it makes the teacher tell."""

topics = st.sets(st.sampled_from(sorted(TOPICS))).map(frozenset)


@settings(max_examples=400)
@given(
    seed=st.integers(0, 10**6),
    index=st.integers(0, 10**6),
    topics=topics,
    mistakes=st.sampled_from((0.0, 0.3)),
)
def test_a_description_has_60_to_150_words(
    seed: int, index: int, topics: frozenset[str], mistakes: float
) -> None:
    scene = imagine(WorldSpec(seed=seed), index)
    text = describe(scene, topics, random.Random(seed), mistakes)
    assert 60 <= len(text.split()) <= 150
    assert text == " ".join(text.split())
    assert text.endswith(".")


@given(index=st.integers(0, 10**6), topics=topics)
def test_only_what_was_asked_for_is_told_and_all_of_it(index: int, topics: frozenset[str]) -> None:
    scene = imagine(SPEC, index)
    kinds = {s.fact[0] for s in stated(describe(scene, topics, random.Random(index)))}
    there = {"text": scene.word, "name": scene.name, "style": scene.style, "relations": "always"}
    for topic, kind in KIND_OF.items():
        assert (kind in kinds) == (topic in topics and bool(there[topic])), topic
    assert ("renown" in kinds) == ("name" in kinds)


@given(index=st.integers(0, 10**6))
def test_without_mistakes_every_word_is_true(index: int) -> None:
    scene = imagine(SPEC, index)
    facts = {s.fact for s in stated(describe(scene, TOPICS, random.Random(index)))}
    assert facts <= truth(scene)


def test_words_vary_with_the_draw_and_nothing_else() -> None:
    scene = max((imagine(SPEC, index) for index in range(20)), key=lambda scene: len(scene.things))
    texts = {describe(scene, TOPICS, random.Random(n)) for n in range(20)}
    assert len(texts) > 10
    assert describe(scene, TOPICS, random.Random(1)) == describe(scene, TOPICS, random.Random(1))


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2, 1.0])
def test_attributes_are_told_wrong_as_often_as_set(rate: float) -> None:
    wrong = Counter[str]()
    told = Counter[str]()
    for index in range(600):
        scene = imagine(SPEC, index)
        seen = misremember(scene, random.Random(index), rate)
        assert [(t.row, t.col) for t in seen.things] == [(t.row, t.col) for t in scene.things]
        for one, other in zip(scene.things, seen.things, strict=True):
            for name in ("shape", "colour", "size", "texture"):
                told[name] += 1
                wrong[name] += getattr(one, name) != getattr(other, name)
        for name in ("word", "name", "style", "background"):
            told[name] += bool(getattr(scene, name))
            wrong[name] += getattr(scene, name) != getattr(seen, name)
    assert sum(wrong.values()) / sum(told.values()) == pytest.approx(rate, abs=0.01)
    if rate in (0.0, 1.0):
        assert all(wrong[name] == rate * told[name] for name in told)


@given(index=st.integers(0, 10**6))
def test_a_short_caption_names_one_thing_and_is_right(index: int) -> None:
    scene = imagine(SPEC, index)
    text = short_caption(scene, random.Random(index))
    facts = {s.fact for s in stated(text)}
    assert len(text.split()) <= 10
    assert sum(fact[0] == "thing" for fact in facts) == 1
    assert facts <= truth(scene)


def test_alt_text_is_noise_with_a_grain_of_truth() -> None:
    right = wrong = other = 0
    for index in range(500):
        scene = imagine(SPEC, index)
        words = alt_text(scene, random.Random(index)).split()
        assert words
        shapes = {word for word in words if word in SHAPES}
        present = {thing.shape for thing in scene.things}
        right += bool(shapes & present)
        wrong += bool(shapes - present)
        other += not shapes
    assert right > 2 * wrong > 0
    assert other > 50


def test_a_blind_elaboration_depends_on_the_short_caption_alone() -> None:
    said: dict[str, set[str]] = {}
    right = 0
    for index in range(300):
        scene = imagine(SPEC, index)
        short = short_caption(scene, random.Random(index))
        text = blind_detail(short, random.Random(index % 3))
        assert short in text
        assert len(text.split()) > 3 * len(short.split())
        said.setdefault(short, set()).add(text)
        right += any(f"the {thing.place} " in text.lower() and thing.shape in short for thing in scene.things)
    assert max(map(len, said.values())) == 3  # whatever the scene
    assert 0 < right < 100  # it guesses


@given(index=st.integers(0, 10**6))
def test_relations_are_opposite_seen_from_the_other_side(index: int) -> None:
    a, b = imagine(SPEC, index).things[:2]
    assert relation(a, b) == OPPOSITE[relation(b, a)]
