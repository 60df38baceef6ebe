"""Recipes and `--set`: values by their field's type, and one clear line for what can't be."""

from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.errors import UsageError
from sharecap.model.lora import Lora
from sharecap.model.trainable import Rule
from sharecap.recipes.find import OURS, find_recipe
from sharecap.recipes.recipe import Recipe, Stage
from sharecap.recipes.settings import differences, with_settings
from sharecap.recipes.sharegpt4v import (
    sharegpt4v_7b,
    unfrozen_from,
)


def test_our_recipes_are_named_as_their_functions_and_run_from_parts() -> None:
    for name in OURS:
        recipe = find_recipe(name)
        assert recipe.name == name
        assert recipe.stages[0].start == ""
        assert all(source.origin for stage in recipe.stages for source in stage.rows) or name == "tiny"


def test_the_paper_s_values() -> None:
    align, pretrain, sft = sharegpt4v_7b().stages
    assert [s.train.batch_rows for s in (align, pretrain, sft)] == [256, 256, 128]
    assert pretrain.train.rules == (
        Rule("vision", 2e-5, from_block=12),
        Rule("projector", 2e-5),
        Rule("language", 2e-5),
    )
    assert [rule.part for rule in sft.train.rules] == ["projector", "language"]
    assert [s.train.template for s in (align, pretrain, sft)] == ["plain", "plain", "vicuna_v1"]
    rows = {stage.name: sum(k.rows for s in stage.rows for k in s.kinds) for stage in (align, pretrain, sft)}
    assert rows["pretrain"] == 1_246_000
    assert rows["sft"] == pytest.approx(665_298, abs=100)  # the paper's "665K"; one row more or less
    assert pretrain.train.steps_for(rows["pretrain"], 0) == 4868
    first, tuned = find_recipe("llava_7b").stages
    assert (first.train.batch_rows, first.train.rules[0].learning_rate) == (128, 2e-3)
    assert (tuned.train.batch_rows, tuned.train.epochs) == (32, 3)


def test_ablations_change_what_they_say_and_nothing_else() -> None:
    base = sharegpt4v_7b()
    assert differences(base, unfrozen_from(base, 6)) == ["pretrain.rules.vision.from_block: 12 -> 6"]
    vision, *others = unfrozen_from(base, 24).stage("pretrain").train.rules
    assert vision.learning_rate == 0
    assert others == list(base.stage("pretrain").train.rules[1:])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("pretrain.batch_rows=64", "pretrain.batch_rows: 256 -> 64"),
        ("sft.clip=0.5", "sft.clip: 1.0 -> 0.5"),
        ("sft.betas=0.9,0.95", "sft.betas: [0.9, 0.999] -> [0.9, 0.95]"),
        ("align.precision=fp32", "align.precision: bf16 -> fp32"),
        ("parts.vision=models/tower", "parts.vision: openai/clip-vit-large-patch14-336 -> models/tower"),
        ("parts.projector_std=0.1", "parts.projector_std: None -> 0.1"),
        ("pretrain.rules.vision.from_block=18", "pretrain.rules.vision.from_block: 12 -> 18"),
        ("pretrain.rules.0.from_block=18", "pretrain.rules.vision.from_block: 12 -> 18"),
        ("stages.sft.train.seed=3", "sft.seed: 0 -> 3"),
        ("sft.start=", "sft.start: pretrain -> "),
    ],
)
def test_a_setting_changes_one_field_by_its_type(setting: str, line: str) -> None:
    base = sharegpt4v_7b()
    assert differences(base, with_settings(base, [setting])) == [line]


def test_adapters_are_set_field_by_field_and_taken_away_whole() -> None:
    base = sharegpt4v_7b()
    path = "sft.rules.language.lora"
    changed = with_settings(base, [f"{path}.rank=8", f"{path}.alpha=16", f"{path}.targets=q_proj,v_proj"])
    rule = changed.stage("sft").train.rules[1]
    assert rule == Rule("language", 2e-5, lora=Lora(rank=8, alpha=16.0, targets=("q_proj", "v_proj")))
    assert f"{path}.rank: - -> 8" in differences(base, changed)
    assert with_settings(changed, [f"{path}=none"]) == base
    with pytest.raises(UsageError, match=rf"no field 'ranks' in {path}\. did you mean rank\?"):
        with_settings(base, [f"{path}.ranks=8"])


def test_a_directory_takes_the_place_of_all_parts() -> None:
    changed = with_settings(sharegpt4v_7b(), ["parts=models/llava-1.5-7b-hf"])
    assert changed.parts == Path("models/llava-1.5-7b-hf")
    assert "parts: - -> models/llava-1.5-7b-hf" in differences(sharegpt4v_7b(), changed)
    with pytest.raises(UsageError, match=r"parts has no fields\. set it as a whole"):
        with_settings(changed, ["parts.vision=models/tower"])


def test_settings_that_belong_together_are_done_together() -> None:
    base = sharegpt4v_7b()
    changed = with_settings(base, ["align.epochs=none", "align.steps=10"])
    assert changed.stage("align").train == replace(base.stage("align").train, steps=10, epochs=None)
    with pytest.raises(UsageError, match=r"give either steps or epochs: --set align.steps=10"):
        with_settings(base, ["align.steps=10"])


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("pretrain.batchrows=64", r"no field 'batchrows' in pretrain\. did you mean batch_rows\? choose"),
        ("pretrian.batch_rows=64", r"no field 'pretrian'\. did you mean pretrain\? .*parts.*sft"),
        ("parts.visoin=x", r"no field 'visoin' in parts\. did you mean vision\?"),
        ("sft.rules.vision.learning_rate=1", r"no field 'vision' in sft.rules\. .*projector, language"),
        ("sft.batch_rows=many", r"sft.batch_rows can't be 'many' \(.*integer"),
        ("sft.clip=none", r"sft.clip can't be 'none'"),
        ("sft.betas=0.9", r"sft.betas can't be '0.9'"),
        ("sft.precision=fp8", r"sft.precision can't be 'fp8' \(.*'fp32' or 'bf16'"),
        ("sft.batch_rows=0", r"must be at least 1: --set sft.batch_rows=0"),
        ("sft.clip=0", r"clip must be above 0 \(inf: no clipping\): --set sft.clip=0"),
        ("sft.clip=nan", r"clip must be above 0"),
        ("sft.warmup_ratio=nan", r"warmup_ratio must be 0 to 1"),
        ("sft.betas=0.9,1", r"betas must be"),
        ("sft.weight_decay=-1", r"weight_decay must be"),
        ("sft.seed=-1", r"seed must be at least 0"),
        ("sft.epochs=inf", r"there must be at least one step"),
        ("sft.spike=nan", r"spike must be above 1"),
        ("sft.pack_images=0", r"pack_images must be at least 1"),
        ("sft.rules.language.learning_rate=nan", r"language can't learn at a rate of nan"),
        ("sft.batch_rows.more=1", r"sft.batch_rows has no fields"),
        ("sft.rules=1", r"sft.rules can't be set as a whole"),
        ("sft.batch_rows", r"not a setting: 'sft.batch_rows'\. give PATH=VALUE"),
    ],
)
def test_a_setting_without_sense_is_one_clear_line(setting: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        with_settings(sharegpt4v_7b(), [setting])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_or_stage_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'sharegpt4v'\. did you mean sharegpt4v_7b\?"):
        find_recipe("sharegpt4v")
    with pytest.raises(UsageError, match=r"has no stage 'pretraining'\. its stages: align, pretrain, sft"):
        sharegpt4v_7b().stage("pretraining")
    align = sharegpt4v_7b().stage("align")
    with pytest.raises(UsageError, match=r"starts from 'sft', which is no stage before it"):
        Recipe("r", sharegpt4v_7b().parts, (replace(align, start="sft"),))
    with pytest.raises(UsageError, match=r"different names"):
        Recipe("r", sharegpt4v_7b().parts, (align, Stage("align", align.train, ())))


def test_a_recipe_of_the_user_s_own_is_a_function_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from sharecap.recipes.sharegpt4v import sharegpt4v_7b, unfrozen_from\n"
        "def ours(): return replace(unfrozen_from(sharegpt4v_7b(), 18), name='ours')\n"
        "def broken(): return 1 / 0\n"
        "def leaving(): raise SystemExit\n"
        "def number(): return 3\n"
    )
    assert find_recipe(f"{file}:ours").name == "ours"
    with pytest.raises(UsageError, match=r"fails \(ZeroDivisionError: division by zero\): .*mine.py:broken"):
        find_recipe(f"{file}:broken")
    with pytest.raises(UsageError, match=r"fails \(SystemExit: \)"):
        find_recipe(f"{file}:leaving")
    with pytest.raises(UsageError, match=r"not a recipe but int: .*mine\.py:number"):
        find_recipe(f"{file}:number")
    with pytest.raises(UsageError, match=r"no function 'gone': .*mine\.py"):
        find_recipe(f"{file}:gone")
    with pytest.raises(UsageError, match=r"no such file: .*gone\.py"):
        find_recipe(f"{tmp_path / 'gone.py'}:ours")
