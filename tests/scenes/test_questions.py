"""Questions about scenes: the answer is true, no other one is, and rows ask in the benchmarks' own words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.evals.task import OPTION_LETTER, SHORT_ANSWER
from sharecap.scenes.language import NUMBERS, relation
from sharecap.scenes.questions import KINDS, Asked, ask, options, turn, yes_no
from sharecap.scenes.world import Scene, WorldSpec, imagine

SPEC = WorldSpec(seed=7)
indices = st.integers(0, 10**6)


def is_true(scene: Scene, asked: Asked, answer: str) -> bool:
    """Whether `answer` is right, found from the scene without the code that asks."""
    by_shape = {thing.shape: thing for thing in scene.things}
    at = next((thing for thing in scene.things if f"at the {thing.place}?" in asked.text), None)
    named = [word.strip("?") for word in asked.text.split() if word.strip("?") in by_shape]
    right = {
        "existence": set(by_shape),
        "count": {NUMBERS[len(scene.things)]},
        "shape": {at.shape} if at else set(),
        "color": {at.colour} if at else set(),
        "position": {by_shape[shape].place for shape in named},
        "relation": {relation(by_shape[named[0]], by_shape[named[1]])} if len(named) == 2 else set(),
        "text": {scene.word},
        "name": {scene.name},
        "style": {scene.style},
    }
    return answer in right[asked.kind]


@given(index=indices)
def test_the_answer_is_true_and_no_other_choice_is(index: int) -> None:
    scene = imagine(SPEC, index)
    for asked in ask(scene, SPEC, random.Random(index)):
        assert is_true(scene, asked, asked.answer)
        assert asked.wrong
        assert not any(is_true(scene, asked, wrong) for wrong in asked.wrong)
        assert len(set(asked.wrong)) == len(asked.wrong)


@given(index=indices)
def test_a_scene_is_asked_each_kind_that_it_can_answer_once(index: int) -> None:
    scene = imagine(SPEC, index)
    kinds = [asked.kind for asked in ask(scene, SPEC, random.Random(index))]
    there = {"text": scene.word, "name": scene.name, "style": scene.style}
    assert sorted(kinds) == sorted(kind for kind in KINDS if there.get(kind, "always"))


@given(index=indices, yes=st.booleans())
def test_a_claim_is_as_true_as_it_should_be(index: int, yes: bool) -> None:
    scene = imagine(SPEC, index)
    for asked in ask(scene, SPEC, random.Random(index)):
        claim = yes_no(asked, yes, random.Random(index))
        claimed = [a for a in (asked.answer, *asked.wrong) if asked.claim.format(a) == claim]
        assert [is_true(scene, asked, a) for a in claimed] == [yes]


@given(index=indices, number=st.integers(2, 4))
def test_choices_hold_the_answer_once_where_it_is_said_to_be(index: int, number: int) -> None:
    for asked in ask(imagine(SPEC, index), SPEC, random.Random(index)):
        choices, right = options(asked, number, random.Random(index))
        assert choices[right] == asked.answer
        assert 2 <= len(set(choices)) == len(choices) <= number
        assert set(choices) <= {asked.answer, *asked.wrong}


@given(index=indices)
def test_rows_ask_in_the_words_of_the_benchmarks(index: int) -> None:
    scene = imagine(SPEC, index)
    for asked in ask(scene, SPEC, random.Random(index)):
        question, answer = turn(asked, "short", random.Random(index))
        assert question.endswith(f"\n{SHORT_ANSWER}")
        assert answer == asked.answer or asked.kind == "existence"
        question, answer = turn(asked, "yes_no", random.Random(index))
        assert question.endswith(f"?\n{SHORT_ANSWER}")
        assert answer in ("Yes", "No")
        question, answer = turn(asked, "letter", random.Random(index))
        assert question.endswith(f"\n{OPTION_LETTER}")
        assert f"\n{answer}. {asked.answer}\n" in question


@pytest.mark.parametrize("form", ["yes_no", "letter"])
def test_no_answer_can_be_guessed_from_its_place(form: str) -> None:
    answers: dict[str, int] = {}
    for index in range(400):
        rng = random.Random(index)
        asked = next(ask(imagine(SPEC, index), SPEC, rng))
        _, answer = turn(asked, form, rng)
        answers[answer] = answers.get(answer, 0) + 1
    assert max(answers.values()) < 1.4 * 400 / len(answers)
