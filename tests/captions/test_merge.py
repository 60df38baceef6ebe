"""Merging layers: the rule decides, the row says where it came from, the merged layers stay as they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.captions.layer import layers, read_layer, read_missing, write_layer
from sharecap.captions.merge import merge
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

from .conftest import Typed, make_dataset


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Layers `human` (images 0 to 3) and `model` (images 2 to 5, the third flagged) over seven images."""
    dataset = make_dataset(tmp_path, 7)
    ids = [image.id for image in Catalog.open(dataset)]
    human = [Caption(i, "", f"A human says {n}.", "people", "none", "stop") for n, i in enumerate(ids[:4])]
    human[2] = replace(human[2], flags=("doubtful",))
    model = [Caption(i, "", f"It is {n}.", "m-1", "pack@1/x", "stop") for n, i in enumerate(ids[2:6], 2)]
    model[1] = replace(model[1], text="It is a very long caption of number 3.")
    write_layer(dataset, "human", human)
    write_layer(dataset, "model", model)
    return dataset


@pytest.mark.parametrize(
    ("rule", "origins"),
    [
        ("first", "hhhhmm"),
        ("unflagged", "hhmhmm"),
        ("longest", "hhhmmm"),
        ("shortest", "hhmhmm"),
    ],
)
def test_the_rule_decides_and_each_row_names_its_origin(two: Path, rule: str, origins: str) -> None:
    made = merge(two, ["human", "model"], "both", rule)
    rows = list(read_layer(two, "both"))
    assert "".join(row.origin[0] for row in rows) == origins
    assert {row.captioner for row in rows if row.origin == "model"} == {"m-1"}
    assert made.metrics["origins"] == {"human": origins.count("h"), "model": origins.count("m")}
    assert [missing.kind for missing in read_missing(two, "both")] == ["no_caption"]


def test_a_source_can_have_its_layer_and_falls_back_on_the_rule(two: Path) -> None:
    merge(two, ["human", "model"], "both", by_source={"coco": "model"})
    assert "".join(row.origin[0] for row in read_layer(two, "both")) == "hhmmmm"


def test_a_choice_for_a_source_that_no_image_has_is_wrong_usage_and_makes_no_layer(two: Path) -> None:
    with pytest.raises(UsageError, match="no image is of this source: cooc"):
        merge(two, ["human", "model"], "both", by_source={"cooc": "model"})
    assert "both" not in layers(two)


def test_a_merge_of_a_merge_still_names_the_first_origin(two: Path) -> None:
    merge(two, ["human", "model"], "both")
    merge(two, ["both", "model"], "again", "longest")
    assert "".join(row.origin[0] for row in read_layer(two, "again")) == "hhhmmm"


def test_the_merged_layers_stay_and_the_same_merge_again_does_nothing(two: Path) -> None:
    before = list(read_layer(two, "human"))
    made = merge(two, ["human", "model"], "both")
    assert merge(two, ["human", "model"], "both") == made
    assert list(read_layer(two, "human")) == before
    with pytest.raises(UsageError, match="made with another rule"):
        merge(two, ["human", "model"], "both", "longest")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["human"], "two different layers"),
        (["human", "human"], "two different layers"),
        (["human", "nobody"], "no finished layer 'nobody'"),
        (["human", "model", "--rule", "best"], "no such rule"),
        (["human", "model", "--by-source", "coco"], "SOURCE=LAYER"),
        (["human", "model", "--by-source", "coco=other"], "isn't merged"),
        (["human", "model", "--to", "human"], "made of itself"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    two: Path, typed: Typed, words: list[str], says: str
) -> None:
    code, out, err = typed("merge", two, *words, *([] if "--to" in words else ["--to", "new"]))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_the_command_merges_and_says_from_where(two: Path, typed: Typed) -> None:
    code, out, _ = typed("merge", two, "human", "model", "--to", "new", "--by-source", "coco=model")
    assert (code, out.splitlines()[:3]) == (
        0,
        ["layer new: 6 captions", "  from human: 2", "  from model: 4"],
    )
