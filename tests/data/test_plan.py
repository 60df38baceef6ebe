"""A plan holds every row once a pass, never crosses a bound, and is the same for any number of ranks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.data.packing import split, split_padded, widen
from sharecap.data.plan import Batching, Plan, Sizes
from sharecap.errors import UsageError

ROWS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=60)
"""Tokens and images of each row."""


def sizes(rows: list[tuple[int, int]]) -> Sizes:
    tokens, images = np.array(rows, dtype=np.int32).T
    return Sizes(tokens, images, tokens // 2)


@settings(deadline=None)
@given(
    rows=ROWS,
    batch=st.one_of(
        st.builds(lambda n: {"batch_rows": n}, st.integers(1, 70)),
        st.builds(lambda n: {"batch_tokens": n}, st.integers(50, 900)),
        st.builds(lambda n: {"batch_rows": n, "grouped": True}, st.integers(1, 70)),
    ),
    pack_tokens=st.integers(50, 300),
    pack_images=st.one_of(st.none(), st.integers(3, 9)),
    seed=st.integers(0, 3),
)
def test_each_pass_has_every_row_once_in_packs_that_keep_their_bounds(
    rows: list[tuple[int, int]], batch: dict[str, Any], pack_tokens: int, pack_images: int | None, seed: int
) -> None:
    batching = Batching(pack_tokens=pack_tokens, pack_images=pack_images, **batch)
    plan = Plan(sizes(rows), batching, seed)
    stream: list[int] = []
    step = 0
    while len(stream) < 2 * len(rows):
        chosen = plan.rows(step)
        assert chosen
        stream += chosen
        packs = plan.packs(step)
        assert sorted(i for pack in packs for i in pack) == sorted(chosen)
        for members in packs:
            lengths = [rows[i][0] for i in members]
            assert (max(lengths) * len(lengths) if batching.grouped else sum(lengths)) <= pack_tokens
            assert pack_images is None or sum(rows[i][1] for i in members) <= pack_images
        for world in (2, 3, 5):
            ranks = [plan.packs(step, rank, world) for rank in range(world)]
            assert sorted(i for packs in ranks for pack in packs for i in pack) == sorted(chosen)
            counts = [len(packs) for packs in ranks]
            assert max(counts) - min(counts) <= bool(len(chosen) % world)
        step += 1
    for at in (0, len(rows)):
        assert sorted(stream[at : at + len(rows)]) == list(range(len(rows)))
    assert plan.rows(step // 2) == Plan(sizes(rows), batching, seed).rows(step // 2)


def test_ranks_get_equally_many_packs_of_about_equal_tokens() -> None:
    rows = [(int(n), 1) for n in np.random.default_rng(0).integers(20, 1200, 256)]
    plan = Plan(sizes(rows), Batching(batch_rows=256, pack_tokens=2048), 0)
    loads = []
    for rank in range(8):
        packs = plan.packs(0, rank, 8)
        loads.append(sum(rows[i][0] for pack in packs for i in pack))
        assert len(packs) == len(plan.packs(0, 0, 8))
    assert max(loads) * 8 < 1.02 * sum(loads)  # what all wait for, against what they could do


def test_steps_of_tokens_are_about_as_large_as_asked_for() -> None:
    rows = [(int(n), 1) for n in np.random.default_rng(0).integers(5, 300, 1000)]
    plan = Plan(sizes(rows), Batching(batch_tokens=5000, pack_tokens=512), 0)
    tokens = [sum(rows[i][0] for i in plan.rows(step)) for step in range(plan.steps(2))]
    assert all(abs(n - 5000) <= 300 for n in tokens)
    assert abs(sum(tokens) - 2 * plan.total) <= 5300


@pytest.mark.parametrize("images", [0, 1])
def test_groups_need_not_have_both_kinds(images: int) -> None:
    plan = Plan(sizes([(5, images)] * 10), Batching(batch_rows=4, grouped=True), 0)
    assert sorted(i for step in range(3) for i in plan.rows(step)) == list(range(10))
    assert plan.steps(2) == 6
    assert plan.steps(0.5) == 2


def test_groups_keep_text_and_images_apart_but_for_the_rest_of_a_pass() -> None:
    rows = [(5 + i % 7, int(i % 3 > 0)) for i in range(100)]
    plan = Plan(sizes(rows), Batching(batch_rows=8, grouped=True), 0)
    kinds = [{rows[i][1] for i in plan.rows(step)} for step in range(plan.steps(1))]
    assert sum(len(kind) == 2 for kind in kinds) <= 2
    assert kinds[:11].count({0}) == 33 // 8
    assert [plan.rows(s) for s in range(13)] != [plan.rows(s) for s in range(13, 26)]


def test_padded_packs_waste_little_where_lengths_are_alike() -> None:
    assert split_padded([3, 9, 4, 9, 3], 18) == [[1, 3], [2, 0, 4]]
    assert split([3, 9, 4, 9, 3], 28) == [[1, 3, 2, 0, 4]]
    assert split([3, 3, 3], 28, [2, 2, 0], 3) == [[0, 2], [1]]


def test_only_too_few_documents_leave_ranks_uneven() -> None:
    assert [len(p) for p in widen([[0, 1, 2], [3]], [5, 4, 3, 2], 3)] == [2, 1, 1]
    assert widen([[0], [1]], [5, 4], 3) == [[0], [1]]


def test_bounds_that_a_row_cannot_keep_are_usage_errors() -> None:
    some = sizes([(10, 1), (60, 4)])
    good = Batching(batch_rows=2, pack_tokens=60)
    Plan(some, good, 0)
    with pytest.raises(UsageError, match="a row has 60 tokens, a pack 59"):
        Plan(some, dataclasses.replace(good, pack_tokens=59), 0)
    with pytest.raises(UsageError, match="a row has 60 tokens, a step 50"):
        Plan(some, Batching(batch_tokens=50, pack_tokens=60), 0)
    with pytest.raises(UsageError, match="a row has 4 images, a pack takes 3"):
        Plan(some, dataclasses.replace(good, pack_images=3), 0)
    for wrong in ({}, {"batch_rows": 1, "batch_tokens": 1}):
        with pytest.raises(UsageError, match="either batch_rows or batch_tokens"):
            Batching(**wrong)
    with pytest.raises(UsageError, match="at least 1"):
        Batching(batch_rows=0)
    with pytest.raises(UsageError, match="counted in rows"):
        Batching(batch_tokens=100, grouped=True)
