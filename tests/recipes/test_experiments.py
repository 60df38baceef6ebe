"""The paper's tables as designs: figures as published, shared stages shared, recipes that resolve."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import UsageError
from sharecap.model.trainable import Rule
from sharecap.recipes.at_size import recipes_of
from sharecap.recipes.design import Claim, Design, Experiment
from sharecap.recipes.experiments import EXPERIMENTS
from sharecap.recipes.find import find_experiments, find_recipe
from sharecap.recipes.published import LLAVA_MIX_665K, SHAREGPT4V_MIX_665K, SHAREGPT4V_PT


@pytest.mark.parametrize("name", [name for name, make in EXPERIMENTS.items() if make().designs])
def test_every_claim_is_about_two_rows_that_differ_in_what_is_trained(name: str) -> None:
    experiment = EXPERIMENTS[name]()
    assert experiment.name == name
    for claim in experiment.claims:
        row, than = experiment.design(claim.row), experiment.design(claim.than)
        changed = [f.name for f in fields(Design) if getattr(row, f.name) != getattr(than, f.name)]
        assert changed != ["name"]


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("size", ["paper", "small"])
def test_rows_share_their_alignment_and_every_row_ends_in_a_tuned_model(name: str, size: str) -> None:
    experiment = EXPERIMENTS[name]()
    recipes = recipes_of(experiment, size)
    assert len({design.model for design in experiment.designs}) == len(recipes)
    for recipe in recipes:
        stages = [stage.name for stage in recipe.stages]
        assert stages.count("align") == (0 if recipe.name.endswith("qwen_vl") else 1)
        assert any(stage.startswith("sft-") for stage in stages)
        assert find_recipe(f"lab:{recipe.name}") == recipe


def test_the_base_has_the_papers_values() -> None:
    (recipe,) = recipes_of(EXPERIMENTS["caption_quality"](), "paper")
    pretrain = recipe.stage("pretrain-captioner-tower0.5")
    assert pretrain.rows == (SHAREGPT4V_PT,)
    assert (pretrain.train.batch_rows, pretrain.train.epochs, pretrain.train.template) == (256, 1, "plain")
    assert pretrain.train.rules[0] == Rule("vision", 2e-5, from_block=12)
    sft = recipe.stage("sft-captioner-tower0.5-teacher")
    assert (sft.start, sft.rows, sft.train.batch_rows) == (pretrain.name, (SHAREGPT4V_MIX_665K,), 128)


def test_a_frozen_tower_leaves_the_other_parts_learning() -> None:
    (recipe,) = recipes_of(EXPERIMENTS["vision_blocks"](), "paper")
    blocks = {}
    for stage in recipe.stages:
        if stage.name.startswith("pretrain-"):
            vision, *others = stage.train.rules
            assert [rule.learning_rate for rule in others] == [2e-5, 2e-5]
            blocks[stage.name.rpartition("tower")[2]] = vision.from_block if vision.learning_rate else None
    assert blocks == {"0": None, "0.25": 18, "0.5": 12, "0.75": 6, "1": 0}


def test_without_captions_among_the_instructions_the_rows_are_llavas_own() -> None:
    (recipe,) = recipes_of(EXPERIMENTS["where_captions_help"](), "paper")
    assert recipe.stage("sft-plain-blind").rows == (LLAVA_MIX_665K,)
    assert recipe.stage("sft-plain-blind").start == "align"


def test_fewer_captions_are_fewer_steps_of_the_same_file() -> None:
    (recipe,) = recipes_of(EXPERIMENTS["number_of_captions"](), "paper")
    assert recipe.stage("pretrain-captioner-0.25-tower0.5").train.steps == round(1_246_000 / 4 / 256)


def test_published_differences_are_those_of_the_facts() -> None:
    facts = Path(__file__).parents[3] / "shared" / "facts" / "paper.md"
    if not facts.exists():
        pytest.skip("the paper's figures are not beside this checkout")
    table = re.findall(
        r"^\| [✗✓] \| [✗✓] \| \**([\d.]+)\** \| \**([\d.]+)\** \| \**([\d.]+)\** \|", facts.read_text(), re.M
    )
    neither, sft, pretraining, both = ([float(x) for x in row] for row in table)
    rows = {"neither": neither, "instructions only": sft, "pre-training only": pretraining, "both": both}
    for claim in EXPERIMENTS["where_captions_help"]().claims:
        told = [float(x) for x in re.findall(r"\+([\d.]+)", claim.paper)]
        assert told == [round(a - b, 1) for a, b in zip(rows[claim.row], rows[claim.than], strict=True)]


def test_an_unknown_name_size_or_row_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match="did you mean caption_quality"):
        find_experiments(["caption_qualty"])
    with pytest.raises(UsageError, match="sizes: scenes, small, paper"):
        recipes_of(EXPERIMENTS["noise"](), "huge")
    with pytest.raises(UsageError, match="there are lab:noise:paper:llava_1_5_7b"):
        find_recipe("lab:noise:paper:llava_7b")
    with pytest.raises(UsageError, match="a row 'b' that isn't there"):
        Experiment("x", "", "", "", (Design("a"),), (Claim("a", "b"),), "")


def test_a_users_own_table_is_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from sharecap.recipes.design import Claim, Design, Experiment\n"
        "def mine():\n"
        "    base = Design('all')\n"
        "    rows = (base, replace(base, name='few', images=0.1))\n"
        "    return Experiment('mine', 'Mine', '', 'It helps.', rows, (Claim('all', 'few'),), 'Nothing.')\n"
    )
    (found,) = find_experiments([f"{tmp_path / 'mine.py'}:mine"])
    assert [design.name for design in found.designs] == ["all", "few"]


def test_the_command_lists_tables_and_says_what_to_type_for_real_models() -> None:
    listed = CliRunner().invoke(app, ["lab", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in EXPERIMENTS)
    told = CliRunner().invoke(app, ["lab", "caption_quality", "--size", "paper", "--json"])
    assert json.loads(told.output) == {"recipes": ["caption_quality:paper:llava_1_5_7b"]}
