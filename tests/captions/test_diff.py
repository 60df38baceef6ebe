"""Two layers side by side: every image counts once, and the examples say word by word what changed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.captions.diff import diff, word_changes
from sharecap.captions.layer import TABLE, open_layer, side_by_side, write_layer
from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

from .conftest import Typed, make_dataset


def captions(dataset: Path, texts: list[str | None]) -> Iterator[Caption]:
    for image, text in zip(Catalog.open(dataset), texts, strict=False):
        if text is not None:
            yield Caption(image.id, "", text, "people", "none", "stop")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Layers `a` and `b` over six images."""
    dataset = make_dataset(tmp_path, 6)
    write_layer(dataset, "a", captions(dataset, ["A cat.", "A dog runs.", "One.", None, None, "x y"]))
    write_layer(dataset, "b", captions(dataset, ["A cat.", "A big dog runs.", None, "Two.", None, "y"]))
    return dataset


def test_every_image_counts_once_and_lengths_are_those_of_each_layer(two: Path) -> None:
    found = diff(two, "a", "b").as_json()
    kinds = {k: found[k] for k in ("same", "changed", "only_a", "only_b", "neither")}
    assert kinds == {"same": 1, "changed": 2, "only_a": 1, "only_b": 1, "neither": 1}
    assert (found["images"], found["longer"], found["shorter"]) == (6, 1, 1)
    assert (found["words_out"], found["words_in"]) == (1, 1)
    assert found["lengths"]["a"]["words_mean"] == (2 + 3 + 1 + 2) / 4
    assert found["sources"] == {"coco": kinds}


def test_examples_are_the_same_each_time_and_as_many_as_asked_for(two: Path) -> None:
    assert diff(two, "a", "b", examples=1).as_json() == diff(two, "a", "b", examples=1).as_json()
    assert [len(diff(two, "a", "b", examples=n).examples) for n in (0, 1, 5)] == [0, 1, 2]


def test_changes_are_told_word_by_word() -> None:
    assert word_changes("a dog runs fast", "a big dog walks") == [
        ("same", "a"),
        ("in", "big"),
        ("same", "dog"),
        ("out", "runs fast"),
        ("in", "walks"),
    ]


def test_a_caption_of_a_hundred_thousand_words_is_compared_in_its_beginning() -> None:
    changes = word_changes("word " * 100_000, "other " * 100_000)
    assert {kind: len(words.split()) for kind, words in changes} == {"out": 1500, "in": 1500}


def test_the_command_prints_counts_and_marked_words_on_a_harmless_line(tmp_path: Path, typed: Typed) -> None:
    dataset = make_dataset(tmp_path, 2)
    write_layer(dataset, "a", captions(dataset, ["A red\x1b[31m car.", None]))
    write_layer(dataset, "b", captions(dataset, ["A blue\ncar.", None]))
    code, out, _ = typed("diff", dataset, "a", "b")
    assert code == 0
    assert "[-red�[31m-] {+blue+} car." in out
    assert "\x1b" not in out
    assert json.loads(typed("diff", dataset, "a", "b", "--json")[1])["changed"] == 1


def test_a_layer_compared_with_itself_or_with_nothing_is_wrong_usage(two: Path) -> None:
    with pytest.raises(UsageError, match="differ from itself"):
        diff(two, "a", "a")
    with pytest.raises(UsageError, match="it has a, b"):
        diff(two, "a", "c")


def test_layers_of_different_age_are_compared_over_all_images(two: Path, tmp_path: Path) -> None:
    add([make_dataset(tmp_path / "more", 9).parent / "pictures"], two)
    write_layer(two, "c", captions(two, ["A cat."] * 9))
    found = diff(two, "a", "c").as_json()
    assert (found["images"], found["same"], found["only_b"]) == (9, 1, 5)


def test_a_layer_in_another_order_than_the_catalog_is_named_and_not_half_read(two: Path) -> None:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    path = open_layer(two, "a").path / TABLE
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    with pytest.raises(SharecapError, match="does not go with the catalog"):
        list(side_by_side(Catalog.open(two), ["a"]))


def test_words_that_no_utf_8_can_hold_are_stored_with_a_mark(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 1)
    whole, half = "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "\ud800"
    given = [replace(c, text=f"{whole} smile {half}") for c in captions(dataset, ["x"])]
    write_layer(dataset, "odd", given)
    ((_, (caption,)),) = side_by_side(Catalog.open(dataset), ["odd"])
    assert caption
    assert caption.text == f"{whole} smile �"
