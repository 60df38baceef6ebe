"""Which of the words read in an image its caption gives."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.quality.ocr import ocr_recall
from tests.images.test_reader import drawn
from tests.quality.layered import add_layer, dataset_of, typed


@pytest.mark.parametrize(
    ("read", "text", "pair"),
    [
        ("Main Street 12\nNo parking", 'A sign says "MAIN STREET", and no number.', (3, 5)),
        ("MAINSTREET", "It reads Main Street.", (1, 1)),  # the reader lost a space
        ("Joe's", "Joe’s diner", (1, 1)),
        ("EXIT exit Exit", "an exit", (1, 1)),
        ("a | 7", "a 7", (0, 0)),  # single letters are noise
        ("cat", "concatenated", (0, 1)),  # inside another word is not given
        ("出口", "看板に出口と書いてある。", (1, 1)),  # no spaces between words
        ("出口", "看板", (0, 1)),
        ("STRASSE", "the word Straße", (1, 1)),
        ("", "a caption", (0, 0)),
        ("word", "", (0, 1)),
    ],
)
def test_words_are_found_whatever_their_case_and_spaces(read: str, text: str, pair: tuple[int, int]) -> None:
    assert ocr_recall(read, text) == pair


@given(st.text(max_size=60))
def test_a_text_gives_all_of_itself(text: str) -> None:
    top, bottom = ocr_recall(text, text)
    assert top == bottom


def test_the_command_reads_the_pictures_and_counts_what_captions_give(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    dataset = dataset_of(tmp_path, 1)
    (tmp_path / "signs").mkdir()
    drawn("OPEN DAILY").save(tmp_path / "signs" / "sign.png")
    assert typed("add", tmp_path / "signs", "--to", dataset).exit_code == 0
    add_layer(dataset, "one", ["A small picture of noise.", "A sign that says open."])
    found = typed("quality", dataset, "one", "--ocr", "--tagger", "textblob")
    assert found.exit_code == 0, found.exception
    assert "read in the pictures: 1 with words, 1 without (2 read now)" in found.output
    (line,) = [line for line in found.output.splitlines() if line.startswith("words read  ")]
    assert line.split()[2:] == ["50.0", "%"]  # one image stands behind it: no interval
    assert "(ocr_recall)" in found.output
