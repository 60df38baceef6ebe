"""The order and the packs of a run are functions of lengths and a seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.chat.tokenise import Document
from sharecap.data.packing import pack, rows_of_step, split

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def document(ids: list[int], learned: list[bool], images: tuple[str, ...] = ()) -> Document:
    return Document("d", np.array(ids, dtype=np.int32), np.array(learned), images)


@given(rows=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_row_comes_once_per_pass_and_every_step_is_full(rows: int, batch: int, seed: int) -> None:
    stream = [i for step in range(2 * rows) for i in rows_of_step(rows, batch, seed, step)]
    assert all(len(rows_of_step(rows, batch, seed, step)) == batch for step in range(3))
    for at in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[at : at + rows]) == list(range(rows))


def test_the_order_depends_on_seed_and_pass() -> None:
    first, second = (rows_of_step(50, 50, 0, epoch) for epoch in (0, 1))
    assert first != second
    assert first != rows_of_step(50, 50, 1, 0)
    assert first == rows_of_step(50, 50, 0, 0)


@given(lengths=LENGTHS, room=st.integers(50, 120))
def test_packs_hold_every_document_once_and_never_too_much(lengths: list[int], room: int) -> None:
    packs = split(lengths, room)
    assert sorted(i for members in packs for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= room for members in packs)
    # First fit: no two packs would go into one.
    sums = [sum(lengths[i] for i in members) for members in packs]
    assert all(a + b > room for n, a in enumerate(sums) for b in sums[:n])


def test_a_document_longer_than_a_pack_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        split([10, 60], 50)


def test_targets_are_the_learned_tokens_predicted_from_the_place_before() -> None:
    a = document([5, 6, 7, 8], [False, False, True, True], ("a.png",))
    b = document([9, 10], [False, True], ("b.png", "c.png"))
    made = pack([a, b])
    assert made.ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert made.lengths == (4, 2)
    assert made.predict.tolist() == [1, 2, 4]
    assert made.targets.tolist() == [7, 8, 10]
    assert made.images == ("a.png", "b.png", "c.png")


def test_nothing_is_predicted_across_a_border() -> None:
    made = pack([document([1, 2], [False, True]), document([3, 4], [True, True])])
    assert made.predict.tolist() == [0, 2]
    assert made.targets.tolist() == [2, 4]
