"""The example of docs/train-a-model.md, run as it stands there, on tiny models of the test."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.model.folder import load
from sharecap.recipes.experiments import PAPER
from sharecap.recipes.find import find_recipe
from tests.recipes.rows import user_folder

PAGE = (Path(__file__).parents[2] / "docs" / "train-a-model.md").read_text(encoding="utf-8")


def test_the_recipe_example_trains_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    block = re.search(r"<!-- tested: recipe example -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert block
    printed = []
    for line in block[1].splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        printed.append(done.stdout)
    assert "fits (none)" in printed[0]
    assert "parts.vision: openai/clip-vit-base-patch32 -> models/tower" in printed[1]
    assert "sft: 40 steps" in printed[1]
    assert load(tmp_path / "runs/tiny/sft/model").template == "vicuna_v1"


def test_the_page_s_own_recipe_is_one(tmp_path: Path) -> None:
    code = re.search(r"```python\n(# mine.py\n.*?)```", PAGE, re.DOTALL)
    assert code
    (tmp_path / "mine.py").write_text(code[1])
    recipe = find_recipe(f"{tmp_path / 'mine.py'}:unfrozen_from_18")
    assert recipe.stage("pretrain").train.rules[0].from_block == 18


RECIPES = PAGE.partition("| recipe |")[2].partition("\n\n")[0]


@pytest.mark.parametrize("name", re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", RECIPES, re.M))))
def test_every_recipe_on_the_page_exists(name: str) -> None:
    assert find_recipe(name).name == name


DOCS = Path(__file__).parents[2] / "docs"


def test_the_paper_s_page_has_every_claim_with_what_the_lab_measured() -> None:
    measured = (DOCS / "lab-results.md").read_text(encoding="utf-8")
    told = (
        (DOCS / "paper.md").read_text(encoding="utf-8").partition("measured: scenes")[2].partition("\n\n")[0]
    )
    for experiment in (make() for make in PAPER):
        section = measured.partition(f": `{experiment.name}`\n")[2].partition("\n## ")[0]
        for claim in experiment.claims:
            line = f"| {claim.row} {'≈' if claim.equal else '>'} {claim.than} "
            found = [row.split(" | ") for row in section.splitlines() if row.startswith(line)]
            name, difference, _, _, verdict = next(
                x for x in found if f"({claim.measure}, " in x[0] or ">" in x[0]
            )
            row = f": {name[2:]} | {claim.paper or 'as good, in words'} | {difference} | {verdict[2:-4]} |"
            assert row in told
