"""docs/measure-captions.md: its commands run on real photographs, and its table is what they print."""

import json
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.captions.layer import layers, open_layer, write_layer
from sharecap.cli import app
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.quality.tagging import Textblob, tagged
from sharecap.records import Caption

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "photographs"
PAGE = (ROOT / "docs" / "measure-captions.md").read_text(encoding="utf-8")
LAYER = "recorded-sharegpt4v"
ANSWERS = {
    Path(row["file"]).name: row["answer"]
    for row in map(json.loads, (EXAMPLE / "answers.jsonl").read_text(encoding="utf-8").splitlines())
}
ROWS = {
    name: cells.split(" | ")[0]
    for name, cells in re.findall(r"^\| (\w[\w ]*) \| (\d.*) \|$", PAGE, re.MULTILINE)
}


def typed(*words: str) -> str:
    """What the command prints; it must succeed."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs with their recorded captions, and what the page's commands made of them."""
    folder = tmp_path_factory.mktemp("page")
    collect = [sys.executable, EXAMPLE / "collect.py", folder / "photos"]
    subprocess.run(collect, check=True, capture_output=True)
    dataset = folder / "photos.dataset"
    add([folder / "photos"], dataset)
    captions = [
        Caption(image.id, LAYER, ANSWERS[Path(image.path).name], "recorded", "none", "stop")
        for image in Catalog.open(dataset)
    ]
    write_layer(dataset, LAYER, captions)
    with chdir(folder):
        for block in re.findall(r"<!-- tested: measured -->\n```sh\n(.*?)```", PAGE, re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line)[1:]
                typed(*words, *(("--tagger", "textblob") if words[0] == "quality" else ()))
    return dataset


def test_the_commands_make_the_layers_of_the_page(place: Path) -> None:
    assert layers(place) == ["best", "chance", "first", LAYER, "varied"]
    captions = {name: open_layer(place, name).metrics["captions"] for name in layers(place)}
    assert (captions["best"], captions["chance"], captions[LAYER]) == (18, 18, 20)
    assert 0 < captions["varied"] < 20


def test_the_table_is_what_the_command_prints(place: Path) -> None:
    told = json.loads(typed("quality", str(place), LAYER, "--ocr", "--tagger", "textblob", "--json"))
    (column,) = told["columns"]
    counts = ("words", "characters", "mtld")
    found = {
        name: f"{one['value']:.1f}" if name in counts else f"{100 * one['value']:.1f} %"
        for name, one in column["measures"].items()
        if name in ROWS
    }
    assert len(found) == 10
    assert found == {name: ROWS[name] for name in found}
    assert ROWS["words read"] == f"{100 * column['measures']['ocr_recall']['value']:.1f} %"
    assert ROWS["similarity"] == f"{100 * column['together']['similarity']:.1f} % of 20"


def test_what_is_said_of_the_tagger_is_so() -> None:
    words = [word for text in ANSWERS.values() for word in tagged(text, Textblob())]
    verbs = [word.lower() for word, part in words if part == "verbs"]
    assert f"{verbs.count('left')} of the {len(verbs)} verbs" in PAGE
    assert verbs.count("left") == sum(word.lower() == "left" for word, _ in words)
