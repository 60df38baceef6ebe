"""Facts in captions: all of a true caption are right, each error is found, and garbage states nothing."""

import random
from dataclasses import replace
from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.scenes.facts import Quality, quality, stated, truth
from sharecap.scenes.language import TOPICS, describe
from sharecap.scenes.world import COLOURS, NAMES, SIZES, STYLES, TEXTURES, WORDS, Scene, WorldSpec, imagine

SPEC = WorldSpec(seed=6)


def told(scene: Scene) -> str:
    return describe(scene, TOPICS, random.Random(0))


@given(indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_a_full_true_description_has_precision_and_recall_of_one(indices: list[int]) -> None:
    scenes = [imagine(SPEC, index) for index in indices]
    found = quality((told(scene), scene) for scene in scenes)
    assert all(q.precision == 1.0 for q in found.values() if q.stated)
    assert all(q.recall == 1.0 for q in found.values() if q.true)
    assert found["all"].true == sum(q.true for kind, q in found.items() if kind != "all") > 0


@given(index=st.integers(0, 10**6), draw=st.randoms(use_true_random=False))
def test_one_attribute_told_wrong_is_one_wrong_fact(index: int, draw: random.Random) -> None:
    scene = imagine(SPEC, index)
    at = draw.randrange(len(scene.things))
    name, values = draw.choice([("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)])
    thing = scene.things[at]
    other = draw.choice([value for value in values if value != getattr(thing, name)])
    things = [*scene.things]
    things[at] = replace(thing, **{name: other})
    text = told(replace(scene, things=tuple(things)))
    wrong = [s for s in stated(text) if s.fact not in truth(scene)]
    assert [s.fact for s in wrong] == [(name, thing.place, other)]
    assert text[wrong[0].start : wrong[0].end] == other
    found = quality([(text, scene)])
    assert found[name].right == found[name].stated - 1
    assert found["all"].told == found["all"].true - 1


@pytest.mark.parametrize(
    ("source", "name", "values"),
    [("signs", "word", WORDS), ("emblems", "name", NAMES), ("paintings", "style", STYLES)],
)
def test_a_wrong_word_name_or_style_is_found(source: str, name: str, values: tuple[str, ...]) -> None:
    scene = next(s for s in (imagine(SPEC, i) for i in range(200)) if s.source == source)
    other = next(value for value in values if value != getattr(scene, name))
    text = told(replace(scene, **{name: other}))
    wrong = [s for s in stated(text) if s.fact not in truth(scene)]
    assert [text[s.start : s.end] for s in wrong] == [other]


def test_a_thing_that_is_not_there_and_one_left_out_count_against_the_caption() -> None:
    scene = imagine(SPEC, 0)
    fewer = replace(scene, things=scene.things[:-1])
    found = quality([(told(fewer), scene)])
    assert found["object"].recall == 1 - 1 / len(scene.things)
    assert found["count"].precision == 0.0
    more = quality([(told(scene), fewer)])
    assert more["object"].precision == 1 - 1 / len(scene.things)
    assert more["object"].recall == 1.0


def test_what_a_caption_repeats_counts_once() -> None:
    scene = imagine(SPEC, 1)
    assert quality([(f"{told(scene)} {told(scene)}", scene)]) == quality([(told(scene), scene)])


@given(st.text(max_size=200))
def test_any_text_can_be_read_and_spans_lie_in_it(text: str) -> None:
    for statement in stated(text):
        assert 0 <= statement.start < statement.end <= len(text)


@pytest.mark.parametrize("text", ["", "Sorry, I can't help with that.", "red red red star"])
def test_words_that_state_no_fact_have_no_precision_and_no_recall(text: str) -> None:
    scene = imagine(SPEC, 2)
    found = quality([(text, scene)])["all"]
    assert isnan(found.precision)
    assert found.recall == 0.0
    assert found == Quality(0, 0, 0, found.true)
