"""How sure a captioner must be of a name: what is counted, and which probability is chosen."""

import pytest

from sharecap.captions.names import names_in, sure_of
from sharecap.model.generation import Reply
from sharecap.recipes.captioner_names import NEVER, Sureness, is_given, sureness
from sharecap.records import Usage


def reply(name: str, chance: float) -> Reply:
    text = f"Its name is {name}."
    return Reply(text, "stop", Usage(1, 5), ((11, 1.0), (len(text) - 1, chance), (len(text), 1.0)))


SAID = [("Velmora", 0.99), ("Velmora", 0.97), ("Tarvik", 0.95), ("Ostrand", 0.95), ("Tarvik", 0.6)]
REPLIES = [reply(*one) for one in SAID]
TEACHER = ["It is velmora.", "Velmora, at last.", "It is Tarvik.", "An emblem.", "There are Tarviks."]


@pytest.mark.parametrize(
    ("wrong", "least", "kept", "invented"),
    [(0.0, 0.97, 2, 0), (0.25, 0.95, 4, 1), (0.3, 0.95, 4, 1), (0.4, 0.6, 5, 2), (1.0, 0.6, 5, 2)],
)
def test_as_many_names_are_kept_as_the_share_of_invented_ones_allows(
    wrong: float, least: float, kept: int, invented: int
) -> None:
    assert sureness(REPLIES, TEACHER, wrong) == Sureness(least, 5, 2, kept, invented)


def test_where_no_name_can_be_trusted_none_is_given() -> None:
    assert sureness(REPLIES[3:4], TEACHER[3:4], 0.5) == Sureness(NEVER, 1, 1, 0, 0)
    assert sureness([], [], 0.5) == Sureness(NEVER, 0, 0, 0, 0)


def test_a_name_counts_as_the_teacher_s_word_for_word_in_any_case() -> None:
    (name,) = names_in(REPLIES[0].text, REPLIES[0].chances)
    assert is_given(name, "VELMORA's tower")
    assert not is_given(name, "Velmorans")


def test_a_name_goes_with_its_sentence_and_is_not_counted_as_kept() -> None:
    text = "A town is called Velmora or Tarvik."
    both = Reply(text, "stop", Usage(1, 5), ((16, 1.0), (24, 0.99), (27, 1.0), (34, 0.5), (35, 1.0)))
    one = reply("Ostrand", 0.9)
    # From 0.9 on two are probable enough, but Velmora's sentence goes with Tarvik: Ostrand stays alone.
    found = sureness([both, one], ["Velmora.", "An emblem."], 0.5)
    assert sure_of(both.text, both.chances, 0.9) == ""
    assert found == Sureness(NEVER, 3, 2, 0, 0)
