"""docs/use-your-captions.md: its commands run as they stand, on real photographs, out and back again."""

import json
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from typer.core import TyperGroup as Group
from typer.main import get_command
from typer.testing import CliRunner

from sharecap.captions.layer import layers, read_layer, write_layer
from sharecap.cli import app
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "photographs"
PAGE = (ROOT / "docs" / "use-your-captions.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photographs, a dataset with layers `careful` and `badly`, and what the page's commands made."""
    place = tmp_path_factory.mktemp("page")
    subprocess.run(
        [sys.executable, EXAMPLE / "collect.py", place / "photos"], check=True, capture_output=True
    )
    dataset = place / "photos.dataset"
    add([place / "photos"], dataset)
    lines = (EXAMPLE / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    said = {Path(row["file"]).name: row["answer"] for row in map(json.loads, lines)}
    careful = [
        Caption(image.id, "careful", said[Path(image.path).name], "people", "none", "stop")
        for image in Catalog.open(dataset)
    ]
    write_layer(dataset, "careful", careful)
    write_layer(dataset, "badly", [replace(c, text=c.text.split(".")[0] + ".") for c in careful[3:]])
    wanted = next(iter(Catalog.open(dataset))).id
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.replace("\\\n", " ").replace("IMAGE_ID", wanted).splitlines():
            with chdir(place):
                typed(*shlex.split(line)[1:])
    return place


def typed(*words: str) -> str:
    """What the command prints; it must succeed."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.exception)
    return done.output


def test_every_command_of_the_page_runs_and_the_dropped_photograph_is_nowhere(folder: Path) -> None:
    dataset = folder / "photos.dataset"
    assert layers(dataset) == ["badly", "best", "careful", "short"]
    assert len(Catalog.open(dataset)) == 19
    assert [len(list(read_layer(dataset, name))) for name in layers(dataset)] == [17, 19, 19, 19]
    assert len(json.loads((folder / "photos" / "rows.json").read_text(encoding="utf-8"))) == 19
    assert "19 captions of 19 images" in (folder / "photos-hf" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["photos-hf", "photos-wds", "photos/rows.json", "photos"])
def test_real_photographs_come_back_from_every_export_with_their_captions(folder: Path, form: str) -> None:
    said = {caption.image_id: caption.text for caption in read_layer(folder / "photos.dataset", "careful")}
    again = folder / f"{form.replace('/', '-')}.again"
    typed("add", str(folder / form), "--to", str(again))
    if form.endswith(".json"):
        assert {caption.image_id: caption.text for caption in read_layer(again, "rows")} == said
    else:
        found = {image.id: image.alt_text for image in Catalog.open(again)}
        assert {image: found[image] for image in said} == said
        assert len(found) - len(said) == (form == "photos")  # the dropped one's file is its owner's


def test_every_option_that_the_page_names_exists() -> None:
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    commands = get_command(app)
    assert isinstance(commands, Group)
    used = ("diff", "merge", "edit", "fuse", "export", "card", "drop", "add")
    known = {option for name in used for one in commands.commands[name].params for option in one.opts}
    assert told <= known
