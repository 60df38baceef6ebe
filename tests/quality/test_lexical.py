"""Length, variety and repetition of captions, alone and together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.quality.lexical import SHORTEST_MTLD, distinct, lexical, mtld, together, values
from tests.quality.layered import nouns

RICH = " ".join(f"{word}{n}" for n in range(40) for word in ("the", "a"))


def test_a_caption_is_counted_as_pairs_of_top_and_bottom() -> None:
    text = "A red dog. The dog runs!"
    words = [("A", "other"), ("red", "adjectives"), ("dog", "nouns"), ("The", "other"), ("dog", "nouns")]
    found = lexical(text, [*words, ("runs", "verbs")])
    assert found["words"] == (6, 1)
    assert found["characters"] == (24, 1)
    assert found["sentences"] == (2, 1)
    assert found["nouns"] == (2, 6)
    assert found["adverbs"] == (0, 6)
    assert found["distinct_1"] == (5, 6)
    assert found["distinct_2"] == (5, 5)
    assert "mtld" not in values(found)


def test_an_empty_caption_has_lengths_and_no_shares() -> None:
    assert values(lexical("", [])) == {"words": 0, "characters": 0, "sentences": 0}


def test_mtld_is_the_mean_length_of_stretches_above_the_threshold() -> None:
    # "a b c a" has 3 of 4 words different, 0.75; a fifth one seen before brings it to 0.6: a factor of 5.
    assert mtld(["a", "b", "c", "a", "b"] * 4) == pytest.approx(5.0)


def test_mtld_reads_the_rest_as_part_of_a_factor_and_both_ways() -> None:
    words = ["a", "b", "c", "a", "b", "d", "d"]
    # Forwards: one factor, and "d d" (0.5), a factor of its own. Backwards "d d" first, then "b a c b a".
    assert mtld(words) == pytest.approx(7 / 2)
    assert mtld(["a", "b", "c", "d", "a"]) == pytest.approx(5 / (0.2 / 0.28))


def test_mtld_of_a_text_that_repeats_nothing_is_no_number() -> None:
    assert mtld(["a", "b", "c", "d"]) is None
    assert mtld([]) is None


@given(st.lists(st.sampled_from("abcdef"), min_size=20, max_size=200))
def test_mtld_lies_between_one_word_and_the_text_by_its_share(words: list[str]) -> None:
    found = mtld(words)
    assert found is not None
    assert found >= 1
    assert found == pytest.approx(mtld(words[::-1]))


def test_captions_too_short_for_mtld_have_none_and_long_ones_do() -> None:
    short = " ".join(["word", "other"] * (SHORTEST_MTLD // 2 - 1))
    assert "mtld" not in values(lexical(short, nouns(short)))
    long = f"{short} more words"
    assert values(lexical(long, nouns(long)))["mtld"] > 0


def test_distinct_pairs_of_fewer_than_two_words_have_no_share() -> None:
    assert distinct(["one"], 2) == (0, 0)
    assert distinct(["a", "b", "a", "b"], 2) == (2, 3)


def test_captions_of_one_template_are_alike_and_others_are_not() -> None:
    template = [f"There is a {colour} thing in here" for colour in ("red", "blue")]
    found = together([(text, nouns(text)) for text in template])
    # Of seven words, three of four turns hold the colour; "there is a" is too short to be one.
    assert found.similarity == 0
    same = together([("There is a dog in here", nouns("There is a dog in here"))] * 2)
    assert (same.similarity, same.different_openings, same.openings) == (1, 1, [("there is a", 2)])
    half = together([(t, nouns(t)) for t in ("one two three four five", "one two three four six")])
    assert half.similarity == 0.5


def test_one_caption_or_none_is_like_no_other() -> None:
    assert together([(RICH, nouns(RICH))]).similarity is None
    none = together([])
    assert (none.captions, none.distinct_2, none.mtld, none.openings) == (0, None, None, [])
