"""Rows that are too long lose turns or words at their end, never half an image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.chat.tokenise import Document
from sharecap.chat.truncation import shortened

IMAGE = 9


def document(*rounds: tuple[int, int, int], name: str = "r") -> Document:
    """Rounds of (images of 3 places each, other given tokens, learned tokens)."""
    ids: list[int] = []
    learned: list[bool] = []
    starts: list[int] = []
    for images, given_, said in rounds:
        for _ in range(images):
            starts.append(len(ids))
            ids += [IMAGE] * 3
        ids += [1] * given_ + [2] * said
        learned += [False] * (3 * images + given_) + [True] * said
    pictures = tuple(f"{i}.png" for i in range(len(starts)))
    return Document(name, np.array(ids, np.int32), np.array(learned), pictures, tuple(starts))


TALK = document((1, 4, 2), (2, 2, 4), (0, 1, 3))  # answers end at 9, 21 and 25


@pytest.mark.parametrize(
    ("room", "tokens", "images", "cut"),
    [
        (30, 25, 3, ""),
        (25, 25, 3, ""),
        (24, 21, 3, "after_an_answer"),
        (21, 21, 3, "after_an_answer"),
        (20, 9, 1, "after_an_answer"),  # not within the second answer: a whole one is there
        (9, 9, 1, "after_an_answer"),
        (8, 8, 1, "within_an_answer"),
        (7, 25, 3, ""),  # no answer would be left: it stays too long
        (2, 25, 3, ""),
    ],
)
def test_a_row_is_cut_after_the_last_answer_that_fits(room: int, tokens: int, images: int, cut: str) -> None:
    short = shortened(TALK, room)
    assert (len(short), len(short.images), short.cut) == (tokens, images, cut)
    assert short.ids.tolist() == TALK.ids[:tokens].tolist()
    assert short.learned.tolist() == TALK.learned[:tokens].tolist()


ROUND = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 5))


@given(rounds=st.lists(ROUND, min_size=1, max_size=4), room=st.integers(1, 40))
def test_whatever_the_room_images_stay_whole_and_something_is_learned(
    rounds: list[tuple[int, int, int]], room: int
) -> None:
    before = document(*rounds)
    after = shortened(before, room)
    assert int((after.ids == IMAGE).sum()) == 3 * len(after.images) == 3 * len(after.image_starts)
    assert after.learned.any()
    assert len(after) <= room or (len(after) == len(before) and not before.learned[:room].any())
