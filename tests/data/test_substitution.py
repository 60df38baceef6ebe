"""Substitution replaces one for one, by image where it can, and says how well it did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.data.substitution import places_of, substitute
from sharecap.errors import UsageError
from sharecap.records import Conversation, Turn


def row(name: str, image: str, words: str = "old") -> Conversation:
    return Conversation(name, (image,), (Turn("user", "<image>"), Turn("assistant", words)))


BASE = [row("a", "coco/1.png"), row("q", "coco/9.png"), row("b", "coco/2.png"), row("c", "sam/3.png")]


def test_the_same_image_goes_first_then_the_same_source_then_any() -> None:
    new = [row("x", "art/5.png", "new"), row("y", "coco/7.png", "new"), row("z", "coco/1.png", "new")]
    made = substitute(BASE, [0, 2, 3], new, seed=0)
    assert [r.id for r in made.rows] == ["z", "q", "y", "x"]
    assert (made.same_image, made.same_source, made.other_source) == (1, 1, 1)


def test_the_source_can_be_told() -> None:
    new = [row("x", "p/5.png"), row("y", "q/7.png")]
    made = substitute(BASE, [3], new, seed=0, source=lambda r: {"c": "deep", "y": "deep"}.get(r.id, ""))
    assert made.rows[3].id == "y"
    assert made.same_source == 1


@given(
    images=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8),
    new=st.lists(st.sampled_from("abcdef"), min_size=8, max_size=12),
    seed=st.integers(0, 3),
)
def test_as_many_rows_stay_and_no_replacement_is_used_twice(
    images: list[str], new: list[str], seed: int
) -> None:
    base = [row(f"old{i}", f"{image}/{image}.png") for i, image in enumerate(images)]
    replacements = [row(f"new{i}", f"{image}/{image}.png") for i, image in enumerate(new)]
    replaced = range(0, len(base), 2)
    made = substitute(base, replaced, replacements, seed=seed)
    assert list(made.rows) == list(substitute(base, replaced, replacements, seed=seed).rows)
    assert len(made.rows) == len(base)
    assert list(made.rows)[1::2] == base[1::2]
    used = [r.id for r in made.rows if r.id.startswith("new")]
    assert len(set(used)) == len(used) == len(replaced)
    assert made.same_image + made.same_source + made.other_source == len(replaced)
    # As many as can be are about the same image.
    possible = sum(min(images[::2].count(i), new.count(i)) for i in set(images))
    assert made.same_image == possible


def test_which_replacement_is_taken_depends_on_the_seed() -> None:
    new = [row(f"n{i}", "coco/5.png") for i in range(50)]
    assert len({substitute(BASE, [0], new, seed=seed).rows[0].id for seed in range(10)}) > 3


def test_too_few_replacements_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="1 replacements for 2 rows"):
        substitute(BASE, [0, 1], [row("x", "coco/1.png")], seed=0)


def test_rows_with_one_id_are_told_apart_by_their_first_question() -> None:
    def asked(words: str, more: str = "") -> Conversation:
        turns = (Turn("user", words), Turn("assistant", "A"), Turn("user", more), Turn("assistant", "B"))
        return Conversation("7", ("7.png",), turns)

    base = [asked("<image>\nWhat?"), asked("<image>\nDescribe it."), asked("What?\n<image>", "And?")]
    assert places_of(base, [asked("Describe it.\n<image>")]) == [1]
    assert places_of(base, [asked("<image>\nWhat?")]) == [0, 2]
    with pytest.raises(UsageError, match=r"1 of 1 rows to be replaced are not in the base, first '7' ..Who"):
        places_of(base, [asked("Who?")])
