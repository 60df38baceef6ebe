"""The paper's tables as designs: figures as published, shared stages shared, recipes that resolve."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration, Qwen3VLForConditionalGeneration
from typer.main import get_command
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Parts
from sharecap.model.trainable import Rule, part_of, resolve
from sharecap.recipes import files
from sharecap.recipes.at_size import recipes_of
from sharecap.recipes.design import Claim, Design, Experiment
from sharecap.recipes.experiments import EXPERIMENTS
from sharecap.recipes.find import find_experiments, find_recipe
from sharecap.recipes.peers import PEERS, TOWER_SHARES
from sharecap.recipes.published import LLAVA_MIX_665K, SHAREGPT4V_MIX_665K, SHAREGPT4V_PT
from sharecap.recipes.shapes import shape_of


def facts() -> str:
    """The paper's figures as they were read from it, where they lie beside this checkout."""
    for place in Path(__file__).parents:
        if (place / "shared/facts/paper.md").exists():
            return (place / "shared/facts/paper.md").read_text()
    pytest.skip("the paper's figures are not beside this checkout")


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table, without emphasis."""
    found = [cell.strip() for cell in line.strip().strip("|").split("|")]
    return [cell.strip("*") if cell.startswith("**") else cell for cell in found]


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
    (recipe,) = recipes_of(EXPERIMENTS["alternatives"](), "paper")
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


@pytest.mark.parametrize("size", ["paper", "small"])
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("caption_quality", "pretrain-short-tower0.5", "pretrain-captioner-short_ones-tower0.5"),
        ("alternatives", "pretrain-questions-tower0.5", "pretrain-captioner-tower0.5"),
    ],
)
def test_what_is_compared_learns_for_as_many_steps(name: str, size: str, one: str, other: str) -> None:
    (recipe,) = recipes_of(EXPERIMENTS[name](), size)
    trains = [recipe.stage(stage) for stage in (one, other)]
    rows = [sum(kind.rows for source in stage.rows for kind in source.kinds) for stage in trains]
    steps = [stage.train.steps_for(n, 0.0) for stage, n in zip(trains, rows, strict=True)]
    assert abs(steps[0] - steps[1]) <= 1
    assert name != "caption_quality" or rows == [558_128, 558_128]  # the same images (Table 5)


def test_qwen_talks_in_its_own_template_and_sees_pictures_whole() -> None:
    (recipe,) = (one for one in recipes_of(EXPERIMENTS["substitution"](), "paper") if "qwen" in one.name)
    assert {(stage.train.template, stage.train.centre_crop) for stage in recipe.stages} == {("own", False)}


def test_fewer_captions_are_fewer_steps_of_the_same_file() -> None:
    (recipe,) = recipes_of(EXPERIMENTS["number_of_captions"](), "paper")
    assert recipe.stage("pretrain-captioner-0.25-tower0.5").train.steps == round(1_246_000 / 4 / 256)


def test_published_differences_are_those_of_the_facts() -> None:
    table = re.findall(
        r"^\| [✗✓] \| [✗✓] \| \**([\d.]+)\** \| \**([\d.]+)\** \| \**([\d.]+)\** \|", facts(), re.M
    )
    neither, sft, pretraining, both = ([float(x) for x in row] for row in table)
    rows = {"neither": neither, "instructions only": sft, "pre-training only": pretraining, "both": both}
    for claim in EXPERIMENTS["where_captions_help"]().claims:
        told = [float(x) for x in re.findall(r"\+([\d.]+)", claim.paper)]
        assert told == [round(a - b, 1) for a, b in zip(rows[claim.row], rows[claim.than], strict=True)]


@pytest.mark.parametrize("size", ["paper", "small"])
def test_every_recipe_of_every_table_resolves_on_the_meta_device(size: str) -> None:
    models: dict[Any, Any] = {}
    for recipe in (one for make in EXPERIMENTS.values() for one in recipes_of(make(), size)):
        if recipe.parts not in models:
            with torch.device("meta"):
                whole = isinstance(recipe.parts, Path)
                kind = Qwen3VLForConditionalGeneration if whole else LlavaForConditionalGeneration
                models[recipe.parts] = kind(shape_of(recipe.parts))
        for stage in recipe.stages:
            learns = resolve(models[recipe.parts], stage.train.rules)
            assert {part_of(name) for name in learns.rates} == {
                rule.part for rule in stage.train.rules if rule.learning_rate
            }
            rows = sum(kind.rows for one in stage.rows for kind in one.kinds)
            assert stage.train.steps_for(rows, 500.0 * rows) > 10
    assert len(models) == 4


def test_the_papers_values_are_those_of_the_facts() -> None:
    text = facts()
    recipe = find_recipe("lab:main_table:paper:llava_1_5_7b")
    stages = {
        "e.3": recipe.stage("pretrain-captioner-tower0.5"),
        "e.4": recipe.stage("sft-captioner-tower0.5-teacher"),
    }
    for heading, stage in stages.items():
        section = text.partition(f"### {heading} ")[2].partition("### ")[0]
        rows = {row[0]: row[1] for row in map(cells, section.splitlines()) if len(row) > 1}
        told, train = " ".join(rows.values()), stage.train
        assert Path(stage.rows[0].file).name == rows["data"]
        assert {rule.learning_rate for rule in train.rules if rule.learning_rate} == {2e-5}
        assert "2e-5" in told
        batch = rows.get("global batch") or rows["lr / batch / epochs"].split("/")[1]
        assert train.batch_rows == int(re.findall(r"\d+", batch)[0])
        assert train.epochs == 1
        assert train.warmup_ratio == float(re.findall(r"warmup(?:_ratio)? ([\d.]+)", rows["schedule"])[0])
        assert train.weight_decay == 0
        assert re.search(r"weight decay 0|wd 0", rows["schedule"])
        assert train.precision == "bf16"
        cut = "centre crop (not padded)" in rows["image"]
        assert cut != ("`image_aspect_ratio pad`" in rows["image"])
        assert train.centre_crop == cut
        version = re.findall(r"`--version (\w+)`", rows["prompt"])[0]
        assert train.template == {"plain": "plain", "v1": "vicuna_v1"}[version]
    vision = stages["e.3"].train.rules[0]
    assert f"blocks {vision.from_block}..23" in text.partition("### e.3 ")[2]
    assert [rule.part for rule in stages["e.4"].train.rules] == ["projector", "language"]
    align = text.partition("### e.2 ")[2].partition("### ")[0]
    train = recipe.stage("align").train
    assert (
        f"lr {train.rules[0].learning_rate:.0e}, bs {train.batch_rows}, {train.epochs} epoch"
        in align.replace("1e-3", "1e-03")
    )
    assert [rule.part for rule in train.rules] == ["projector"]
    parts = recipe.parts
    assert isinstance(parts, Parts)
    assert f"Vision: {parts.vision};" in text
    assert f"LLM: {parts.language} (13B variant: vicuna-13b-v1.5)" in text


def test_published_peers_are_those_of_the_facts() -> None:
    text = facts().partition("### f.2 ")[2].partition("### ")[0].partition("---\n## g")[0]
    found = [cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    told = [[re.sub(r" \(.*", "", cell).replace("–", "") for cell in row] for row in found]
    assert [[one.model, *one.scores] for one in PEERS] == [[row[0], *row[2:]] for row in told]
    blocks = facts().partition("**g.4 ")[2].partition("**g.5")[0]
    of_24 = [cells(line) for line in blocks.splitlines() if re.match(r"\| \**\d", line)]
    shares = {1 - int(re.findall(r"\d+", row[0])[0]) / 24: (row[1], " / ".join(row[2:])) for row in of_24}
    assert shares == TOWER_SHARES


def test_stand_ins_of_the_published_files_are_read_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    recipe = find_recipe("lab:where_captions_help:paper:llava_1_5_7b")
    talk = [{"from": "human", "value": "Look.\n<image>"}, {"from": "gpt", "value": "A cat."}]
    marked = [turn | {"markdown": {"answer": "", "index": 0}} for turn in talk]
    rows = [
        {"id": "sa_1", "image": "sam/images/sa_1.jpg", "conversations": talk},
        {"id": "0", "image": "coco/train2017/0.jpg", "conversations": [*talk, *talk[1:], *talk[1:]]},
        {"id": "wgByO4Y_0", "model": "", "conversations": marked},
    ]
    for source in dict.fromkeys(one for stage in recipe.stages for one in stage.rows):
        file = tmp_path / source.file
        file.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.images).mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows[:1] if "mix" not in file.name else [rows[0], rows[2]]))
    files.check(recipe.stages, tmp_path)
    for stage in recipe.stages:
        read = list(files.rows_of(stage, tmp_path))
        assert read[0].images[0].endswith("sam/images/sa_1.jpg")
        assert all([turn.role for turn in row.turns] == ["user", "assistant"] for row in read)
    wrong = tmp_path / recipe.stage("align").rows[0].file
    wrong.write_text(json.dumps([{"id": "1", "image": "x.jpg", "caption": "A cat."}]))
    with pytest.raises(SharecapError, match=r'row 0: no "conversations" \(id 1\)'):
        list(files.rows_of(recipe.stage("align"), tmp_path))
    wrong.unlink()
    with pytest.raises(
        UsageError, match=r"1 of 4 files of rows are missing.*blip_laion_cc_sbu_558k\.json \(from"
    ):
        files.check(recipe.stages, tmp_path)


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
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, replace\n"
        "from sharecap.recipes.design import Claim, Design, Experiment\n"
        "@dataclass\n"
        "class Mine:\n"
        "    share: float = 0.1\n"
        "def mine():\n"
        "    base = Design('all')\n"
        "    rows = (base, replace(base, name='few', images=Mine().share))\n"
        "    return Experiment('mine', 'Mine', '', 'It helps.', rows, (Claim('all', 'few'),), 'Nothing.')\n"
    )
    name = f"{tmp_path / 'mine.py'}:mine"
    (found,) = find_experiments([name])
    assert [design.name for design in found.designs] == ["all", "few"]
    told = CliRunner().invoke(app, ["lab", name, "--size", "paper"]).output.split()
    typed = told[told.index("plan") + 1]
    assert find_recipe(typed).name == "mine:paper:llava_1_5_7b"
    with pytest.raises(UsageError, match=f"there are lab:{re.escape(name)}:small:llava_1_5_7b"):
        find_recipe(f"lab:{name}:small:qwen_vl")


MINE = """
from dataclasses import replace
from sharecap.recipes.design import Claim, Design, Experiment
def table(**more):
    rows = (Design("a"), Design("b", images=0.5))
    told = dict(name="mine", title="", where="", claim="", designs=rows, claims=(), follows="")
    return Experiment(**(told | more))
def fine(): return table(claims=(Claim("a", "b"),))
def design(): return Design("a", pretrain="gpt4")
def share(): return Design("a", images=2)
def model(): return Design("a", model=None)
def slash(): return table(name="../mine")
def words(): return table(title=None)
def rows(): return table(designs=("a", "b"))
def none(): return table(designs=())
def curve(): return table(curve="colour")
def measure(): return table(claims=(Claim("a", "b", measure="taste"),))
def figure(): return table(claims=(Claim("a", "b", 18.2),))
def note(): return table(note=["x"])
def short(): return Design("a", pretrain="teacher", short_ones=True)
def index(): return table(name="Index")
def both(): return table(captioners=("teacher",))
def stranger(): return table(designs=(), captioners=("teacher", "me"))
def facts(): return table(claims=(Claim("a", "b", measure="facts"),))
def scored(): return table(
    designs=(), captioners=("teacher", "captioner"), claims=(Claim("captioner", "teacher"),)
)
def number(): return 3
def asks(it): return table()
def missing_name(): return tabel()
value = 3
"""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("design", "unknown pretrain 'gpt4': row 'a'. known: none, questions"),
        ("share", "images=2 is no share: row 'a'. give one from 0 to 1"),
        ("model", "unknown model None: row 'a'. known: llava_7b"),
        ("slash", "not a name for an experiment: '../mine'"),
        ("words", "title=None is no text: experiment 'mine'"),
        ("rows", "designs are something else: experiment 'mine'"),
        ("none", "rows must be one or more"),
        ("curve", "unknown curve 'colour': experiment 'mine'. known: images, tower, mistakes"),
        ("measure", "unknown a claim's measure 'taste'"),
        ("figure", "paper=18.2 is no text: a claim"),
        ("note", "note=['x'] is no text: experiment 'mine'"),
        (
            "short",
            "short_ones=True can't be: row 'a'. it is True or False, and True with pretrain='captioner'",
        ),
        ("index", "not a name for an experiment: 'Index'"),
        ("both", "rows are either designs or captioners: experiment 'mine'"),
        ("stranger", "unknown captioner 'me': experiment 'mine'. known: teacher, captioner"),
        ("facts", "unknown a claim's measure 'facts': experiment 'mine'. known: score"),
        ("scored", "unknown a claim's measure 'score': experiment 'mine'. known: facts, preference"),
        ("number", "not an experiment but int"),
        ("value", "not an experiment but int, which can't be called"),
        ("asks", "fails (TypeError: asks() missing 1 required"),
        ("missing_name", "fails (NameError: name 'tabel' is not defined)"),
        ("gone", "no function 'gone'"),
    ],
)
def test_a_users_bad_table_is_one_clear_line(tmp_path: Path, function: str, why: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(UsageError) as found:
        find_experiments([f"{tmp_path / 'mine.py'}:{function}"])
    assert why in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_python_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def fine():\n    return 1\n\ndef broken(:\n")
    with pytest.raises(UsageError, match=r"this is no Python \(.*\): .*mine\.py:4\. mend that line"):
        find_experiments([f"{tmp_path / 'mine.py'}:fine"])


def test_the_command_lists_tables_and_says_what_to_type_for_real_models() -> None:
    listed = CliRunner().invoke(app, ["lab", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in EXPERIMENTS)
    told = CliRunner().invoke(app, ["lab", "caption_quality", "--size", "paper", "--json"])
    assert json.loads(told.output) == {"recipes": ["caption_quality:paper:llava_1_5_7b"]}
    beside = CliRunner().invoke(app, ["lab", "captioner_and_teacher", "--size", "paper"])
    assert "sharecap prefer HELDOUT captioner teacher" in beside.output
    assert "--teacher local:runs/captioner/all/model" in beside.output  # where `captioner train` puts it
    with pytest.raises(UsageError, match="no model learns in it"):
        find_recipe("lab:captioner_and_teacher:paper:llava_1_5_7b")
    real = CliRunner().invoke(app, ["lab", "all", "--size", "small"]).output
    lines = [shlex.split(line) for line in real.splitlines() if line.startswith("  sharecap")]
    for _, name, *words in lines:
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
