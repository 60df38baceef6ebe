"""Words are cut alike for every tagger, tagged by textblob or spaCy, and counted as the paper does."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.errors import UsageError
from sharecap.quality import tagging
from sharecap.quality.tagging import (
    OTHER,
    PARTS,
    TEXTBLOB,
    Spacy,
    Textblob,
    agreement,
    open_tagger,
    tagged,
    words_of,
)
from tests.quality.layered import Plain, small_model


@pytest.fixture(scope="module")
def textblob() -> Textblob:
    return Textblob()


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("It doesn't move.", ["It", "does", "n't", "move", "."]),
        ("The man’s left-hand pocket", ["The", "man", "'s", "left-hand", "pocket"]),
        ("They can't, at 10:30 for 1,200", ["They", "ca", "n't", ",", "at", "10:30", "for", "1,200"]),
        ("the 1950s (2nd)", ["the", "1950s", "(", "2nd", ")"]),
        ("'quoted' -- n't", ["'", "quoted", "'", "-", "-", "n't"]),
        ("", []),
    ],
)
def test_words_are_cut_as_taggers_want_them(sentence: str, words: list[str]) -> None:
    assert words_of(sentence) == words


@given(st.text(max_size=80))
def test_no_letter_or_digit_is_lost_in_cutting(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.replace("’", "'").split())


def test_textblob_counts_the_parts_of_speech_that_the_paper_does(textblob: Textblob) -> None:
    found = dict(tagged("Two old dogs quickly run over 3 stones in the garden.", textblob))
    assert found == {
        "Two": "numerals",
        "old": "adjectives",
        "dogs": "nouns",
        "quickly": "adverbs",
        "run": "verbs",
        "over": "prepositions",
        "3": "numerals",
        "stones": "nouns",
        "in": "prepositions",
        "the": OTHER,
        "garden": "nouns",
    }


def test_to_is_a_preposition_unless_a_verb_follows(textblob: Textblob) -> None:
    assert dict(tagged("It leads to the sea.", textblob))["to"] == "prepositions"
    assert dict(tagged("She wants to be there.", textblob))["to"] == OTHER


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_tagged(text: str) -> None:
    assert {part for _, part in tagged(text, Textblob())} <= {*PARTS, OTHER}


@pytest.mark.parametrize(
    "text", ["a" * 50_000, "' " * 20_000, "12," * 20_000, "it's-" * 10_000, "\u202e\x00 \ufffe"]
)
def test_hostile_texts_are_tagged_in_no_time(text: str, textblob: Textblob) -> None:
    tagged(text, textblob)


def test_textblob_names_its_release(textblob: Textblob) -> None:
    assert textblob.name.startswith("textblob 0.")


def test_a_spacy_model_tags_the_same_words_and_names_itself(tmp_path: Path, textblob: Textblob) -> None:
    model = small_model(tmp_path, {"dogs": "NNS", "two": "CD", "sleep": "VBP", "under": "IN"})
    spacy = open_tagger(model)
    assert isinstance(spacy, Spacy)
    assert "en_by_hand" in spacy.name
    text = "Two dogs sleep. Dogs sleep under trees."
    assert [word for word, _ in tagged(text, spacy)] == [word for word, _ in tagged(text, textblob)]
    assert dict(tagged(text, spacy)) == {
        "Two": "numerals",
        "dogs": "nouns",
        "Dogs": "nouns",
        "sleep": "verbs",
        "under": "prepositions",
        "trees": OTHER,
    }


def test_agreement_counts_words_of_the_same_part_of_speech(tmp_path: Path) -> None:
    spacy = Spacy(small_model(tmp_path, {"dogs": "NNS", "sleep": "VBP"}))
    assert agreement(["Dogs sleep.", "Dogs"], spacy, Plain()) == (3, 2)
    assert agreement([], spacy, Plain()) == (0, 0)


def test_an_installed_english_model_goes_before_textblob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(open_tagger(), Textblob)
    model = small_model(tmp_path, {"dogs": "NNS"})
    monkeypatch.setattr(tagging, "english_models", lambda: [model])
    assert isinstance(open_tagger(), Spacy)
    assert isinstance(open_tagger(TEXTBLOB), Textblob)


def test_models_that_are_not_there_or_have_no_tagger_are_named(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    with pytest.raises(UsageError, match=r"cannot load the spaCy model .*: en_not_there\. install one"):
        open_tagger("en_not_there")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "meta.json").write_text("{")
    with pytest.raises(UsageError, match="cannot load the spaCy model"):
        open_tagger(str(tmp_path / "broken"))
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UsageError, match="this spaCy model does not tag English"):
        open_tagger(str(tmp_path / "blank"))
    german = spacy.blank("de")
    german.add_pipe("attribute_ruler")
    german.to_disk(tmp_path / "german")
    with pytest.raises(UsageError, match="this spaCy model does not tag English"):
        open_tagger(str(tmp_path / "german"))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "textblob.en", None)
    with pytest.raises(UsageError, match=r"pip install 'sharecap\[quality\]'"):
        Textblob()
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(UsageError, match="no spaCy"):
        Spacy("en_core_web_sm")
