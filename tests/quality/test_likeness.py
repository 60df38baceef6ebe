"""Likeness of two captions: what counts, and what doesn't."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.quality.likeness import likeness, words_of

RED = "A large red circle is above the small blue square."


def test_small_words_don_t_count_and_places_do() -> None:
    assert words_of("In the picture, there is a red circle above it.") == ["in", "red", "circle", "above"]


def test_two_ways_of_writing_the_same_words_are_alike() -> None:
    assert likeness("the LARGE, red circle is above small blue square!", RED) == 1.0


def test_attributes_that_changed_places_cost_pairs_only() -> None:
    swapped = "A large blue circle is above the small red square."
    words = 1.0  # the same seven
    pairs = 2 * 2 / 12  # "circle above" and "above small", of six on each side
    assert likeness(swapped, RED) == pytest.approx((words + pairs) / 2)


def test_half_of_the_words_is_two_thirds_of_them_and_of_their_pairs() -> None:
    said, wanted = "red circle blue square", "red circle blue square green star tall tower"
    assert likeness(said, wanted) == pytest.approx((2 * 4 / 12 + 2 * 3 / 10) / 2)


def test_saying_it_twice_is_no_gain() -> None:
    assert likeness(f"{RED} {RED}", RED) < 0.8


@given(st.text(), st.text())
def test_any_texts_give_a_share_that_is_the_same_both_ways(one: str, other: str) -> None:
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, other) == likeness(other, one)
    assert likeness(one, one) == 1
