"""Names: where they stand in a caption, how sure the captioner was, what stays without the doubtful ones."""

import pytest

from sharecap.captions.names import Name, names_in, sure_of

TEXT = "Two boats lie in the harbour of Velmora. The Old Bridge of Ostrand’s town I know; O'Neil built it."


def chances(text: str, **given: float) -> list[tuple[int, float]]:
    """A token for each word, all sure but those that are given, by their beginning."""
    found, at = [], 0
    for word in text.split(" "):
        at += len(word) + (1 if at else 0)
        sure = next((p for begin, p in given.items() if word.startswith(begin)), 0.99)
        found.append((at, sure))
    return found


def test_a_name_is_a_run_of_words_with_capitals_inside_a_sentence() -> None:
    found = list(names_in(TEXT, chances(TEXT, Bridge=0.4)))
    assert [(name.text, name.sentence) for name in found] == [
        ("Velmora", 0),
        ("Old Bridge", 1),
        ("Ostrand’s", 1),
        ("O'Neil", 1),
    ]
    assert found[1] == Name("Old Bridge", 1, 0.4)  # its least sure token counts


def test_the_sentence_with_a_doubtful_name_goes_and_the_rest_stays_as_it_is() -> None:
    assert sure_of(TEXT, chances(TEXT), 0.9) == TEXT
    assert sure_of(TEXT, chances(TEXT, Velmora=0.5), 0.9).startswith("The Old Bridge")
    assert sure_of(TEXT, chances(TEXT, Old=0.5), 0.9) == "Two boats lie in the harbour of Velmora."
    assert sure_of(TEXT, chances(TEXT), 2.0) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Boats.",
        "no capitals at all",
        "一艘红色的船。",
        "I'm sure that I am.",
        "So I’ve seen, and I'll say.",
    ],
)
def test_without_names_nothing_is_lost(text: str) -> None:
    assert list(names_in(text, [])) == []
    assert sure_of(text, [], 2.0) == text


def test_a_name_whose_tokens_are_not_told_is_doubtful() -> None:
    assert sure_of("This is Velmora.", [(4, 0.9)], 0.5) == ""
