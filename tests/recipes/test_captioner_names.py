"""How sure a captioner must be of a name: what is counted, and which probability is chosen."""

import numpy as np
import pytest

from sharecap.artifact import plain
from sharecap.captions.names import names_in, sure_of
from sharecap.cli.captioner import names_told
from sharecap.model.generation import Reply
from sharecap.recipes.captioner_names import NEVER, Sureness, is_given, sureness
from sharecap.records import Usage


def reply(name: str, chance: float) -> Reply:
    text = f"Its name is {name}."
    return Reply(text, "stop", Usage(1, 5), ((11, 1.0), (len(text) - 1, chance), (len(text), 1.0)))


def replies_of(right: int, invented: int, chance: float) -> tuple[list[Reply], list[str]]:
    """Captions with one name each, all as probable, and what the teacher says."""
    return [reply("Velmora", chance)] * (right + invented), ["Velmora."] * right + ["An emblem."] * invented


def together(*parts: tuple[list[Reply], list[str]]) -> tuple[list[Reply], list[str]]:
    return [one for part in parts for one in part[0]], [one for part in parts for one in part[1]]


@pytest.mark.parametrize(
    ("wrong", "least", "kept", "invented"),
    [(0.0, NEVER, 0, 0), (0.05, 0.99, 100, 0), (0.1, 0.99, 100, 0), (0.2, 0.9, 200, 20), (1.0, 0.5, 300, 90)],
)
def test_as_many_names_are_kept_as_the_share_of_invented_ones_allows(
    wrong: float, least: float, kept: int, invented: int
) -> None:
    replies, teacher = together(replies_of(100, 0, 0.99), replies_of(80, 20, 0.9), replies_of(30, 70, 0.5))
    found = sureness(replies[::-1], teacher[::-1], wrong)
    assert found == Sureness(least, 300, 90, kept, invented, found.share)
    if found.share is not None:
        assert found.share.value == pytest.approx(invented / kept)
        assert found.share.high is not None
        assert found.share.high <= wrong


def test_the_share_is_promised_of_other_pictures_too() -> None:
    """Drawn again and again, the share of all names as probable exceeds a tenth once in 20 times at most."""
    rng = np.random.default_rng(0)
    broken, some = 0, 0
    for _ in range(200):
        chances = np.sort(rng.random(300))
        right = rng.random(300) < chances**0.2  # how often a name so probable is right
        replies = [reply("Velmora", chance) for chance in chances]
        least = sureness(replies, ["Velmora." if one else "An emblem." for one in right], 0.1).least
        some += least < NEVER
        true = 1 - (1 - least**1.2) / 1.2 / (1 - least) if least < 1 else 0.0
        broken += true > 0.1
    assert broken <= 10
    assert some > 150


def test_names_of_one_picture_are_one_piece_of_evidence() -> None:
    text = "There are Velmora, Tarvik, and Ostrand."
    ends = ((11, 1.0), (17, 0.9), (25, 0.9), (38, 0.9), (39, 1.0))
    three = Reply(text, "stop", Usage(1, 5), ends)
    assert sureness([three] * 34, [text] * 34, 0.1) == Sureness(NEVER, 102, 0, 0, 0)
    assert sureness([three] * 40, [text] * 40, 0.1).kept == 120


def test_where_no_name_can_be_trusted_or_too_few_are_there_none_is_given() -> None:
    assert sureness(*replies_of(1, 1, 0.95), 0.5) == Sureness(NEVER, 2, 1, 0, 0)
    assert sureness(*replies_of(34, 0, 0.95), 0.1) == Sureness(NEVER, 34, 0, 0, 0)
    assert sureness([], [], 0.5) == Sureness(NEVER, 0, 0, 0, 0)


def test_the_command_says_what_is_promised_or_that_nothing_can_be() -> None:
    few = names_told(plain(sureness(*replies_of(30, 0, 0.9), 0.1)))
    assert few.startswith("names: of 30 the teacher does not give 0; it gives none: they are too few")
    enough = names_told(plain(sureness(*replies_of(99, 1, 0.9), 0.1)))
    assert enough.endswith(
        "of the 100 that it goes on giving, in sentences whose names have a probability "
        "from 0.9000 on, 1, a share of 0.010 (0.002 to 0.054)"
    )


def test_a_name_counts_as_the_teacher_s_word_for_word_in_any_case() -> None:
    one = reply("Velmora", 0.99)
    (name,) = names_in(one.text, one.chances)
    assert is_given(name, "VELMORA's tower")
    assert not is_given(name, "Velmorans")


def test_a_name_goes_with_its_sentence_and_is_not_counted_as_kept() -> None:
    text = "A town is called Velmora or Tarvik."
    both = Reply(text, "stop", Usage(1, 5), ((16, 1.0), (24, 0.99), (27, 1.0), (34, 0.5), (35, 1.0)))
    one = reply("Ostrand", 0.9)
    # From 0.9 on two are probable enough, but Velmora's sentence goes with Tarvik: Ostrand stays alone.
    found = sureness([both, one] * 50, ["Velmora.", "Ostrand."] * 50, 0.1)
    assert sure_of(both.text, both.chances, 0.9) == ""
    assert (found.least, found.given, found.invented, found.kept) == (0.9, 150, 50, 50)
