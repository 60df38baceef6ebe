"""Captions that come with a LLaVA JSON: the layer has exactly those of one image that is there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sharecap.captions.given import Given, given_lines, keep_given, lists_of
from sharecap.captions.layer import layers, read_layer
from sharecap.errors import UsageError
from sharecap.images.add import add
from sharecap.images.candidate import Options
from sharecap.images.catalog import Catalog
from tests.images.test_decode import encoded, picture


def said(image: Any, *turns: str, **more: Any) -> dict[str, Any]:
    who = ("human", "gpt")
    return {
        "image": image,
        "conversations": [{"from": who[i % 2], "value": turn} for i, turn in enumerate(turns)],
        **more,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(3):
        path = tmp_path / "data" / "coco" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG", picture(seed=i)))
    (tmp_path / "data" / "coco" / "copy.png").write_bytes(encoded("PNG", picture(seed=2)))
    return tmp_path


ROWS = [
    said("coco/0.png", "<image>\nWhat?", " A boat. "),
    said("coco/0.png", "<image>\nWhat?", "Another boat."),
    said("coco/1.png", "<image>\nWhat?", "A house.", "Its colour?", "Red."),
    said("coco/copy.png", "<image>\nWhat?", "A sea \ud83d\ude00."),
    said("sam/9.png", "<image>\nWhat?", "A field."),
    said("../secret.png", "<image>\nWhat?", "A secret."),
    said(["coco/0.png", "coco/1.png"], "<image>\nWhat?", "Two."),
    said(None, "Hi", "Hello"),
    said("coco/1.png", "<image>\nWhat?", "  "),
    said("coco/1.png", "<image>"),
    {"image": "coco/1.png"},
    {"image": 7},
]


def given(root: Path, rows: list[Any], name: str = "x") -> Given:
    path = root / f"{name}.json"
    path.write_text(json.dumps(rows))
    options = Options(images=root / "data")
    ((path, layer),) = lists_of([path, root / "data"], None, options)
    add([path], root / "d", options)
    return keep_given(root / "d", path, layer, options)


def texts(root: Path, layer: str = "x") -> dict[str, str]:
    names = {image.id: Path(image.path).name for image in Catalog.open(root / "d")}
    return {names[caption.image_id]: caption.text for caption in read_layer(root / "d", layer)}


def test_only_captions_of_images_that_are_there_become_the_layer(root: Path) -> None:
    found = given(root, ROWS)
    assert found == Given("x", captions=2, others=7, no_image=2, repeated=1)
    assert found.captions + found.others + found.no_image + found.repeated == len(ROWS)
    assert texts(root) == {"0.png": "A boat.", "copy.png": "A sea 😀."}
    assert len(given_lines(found)) == 4


def test_the_layer_grows_when_images_of_the_list_come_in_later(root: Path) -> None:
    given(root, ROWS)
    (root / "data" / "sam").mkdir()
    (root / "data" / "sam" / "9.png").write_bytes(encoded("PNG", picture(seed=9)))
    assert given(root, ROWS).captions == 3
    assert texts(root)["9.png"] == "A field."
    assert given(root, ROWS).captions == 3


def test_another_lists_captions_never_take_the_place_of_a_layer(root: Path) -> None:
    given(root, ROWS)
    before = texts(root)
    with pytest.raises(UsageError, match="choose another name"):
        given(root, [said("coco/0.png", "What?", "Other words.")])
    assert texts(root) == before


def test_a_list_without_captions_makes_no_layer(root: Path) -> None:
    assert given(root, ROWS[2:3]) == Given("", others=1)
    assert layers(root / "d") == []


def test_a_pipe_a_folder_and_a_broken_file_in_a_list_are_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "data" / "pipe.png")
    (root / "data" / "broken.png").write_text("no image")
    names = ("pipe.png", "coco", "broken.png", "n" * 5000, "coco/0.png")
    assert given(root, [said(name, "What?", "A boat.") for name in names]) == Given(
        "x", captions=1, no_image=4
    )


def test_a_name_of_a_layer_that_cannot_be_is_wrong_usage(root: Path) -> None:
    (root / "x.json").write_text("[]")
    (root / "y.json").write_text("[]")
    for sources, layer in [
        ([root / "x.json"], "../up"),
        ([root / "data"], "x"),
        ([root / "x.json", root / "y.json"], "x"),
    ]:
        with pytest.raises(UsageError):
            lists_of(sources, layer, Options())
    (root / "a b?.json").write_text("[]")
    assert lists_of([root / "a b?.json"], None, Options())[0][1] == "a-b"


def test_the_command_line_takes_a_list_and_names_what_it_lacks(root: Path) -> None:
    def command(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "sharecap.cli", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    (root / "x.json").write_text(json.dumps(ROWS))
    add_it = ("add", root / "x.json", "--images", root / "data", "--to", root / "d", "--layer", "old")
    done = command(*add_it)
    assert done.returncode == 0, done.stderr
    assert "layer old: 2 captions that came with the images" in done.stdout
    assert "sam/" in done.stdout
    assert "SA-1B" in done.stdout
    report = json.loads(command(*add_it, "--json").stdout)
    assert (report["given"][0]["captions"], report["absent"][0]["images"]) == (2, 1)
    checked = command("check", root / "d", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["unlicensed"]) == (0, {"coco": 3})
