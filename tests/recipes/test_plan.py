"""`sharecap plan`: the paper's figures come out, verdicts follow the machine, rows are measured."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GPT2Config, LlamaConfig, Qwen3VLForConditionalGeneration
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Parts, build
from sharecap.model.folder import load, save
from sharecap.model.qwen import Places
from sharecap.recipes.find import find_recipe
from sharecap.recipes.plan import GIB, Machine, estimated, largest_pack, lines, plan
from sharecap.recipes.settings import with_settings
from sharecap.recipes.shapes import shape_of
from sharecap.train.cost import RowKind, cost_of, work_of_kinds
from sharecap.train.memory import Imagined
from tests.model.tiny import vision_folder
from tests.model.tiny_qwen import qwen_folder
from tests.recipes.rows import quick, user_folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning our recipes asks nobody."""

    def refused(*_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refused)


def operations(name: str, stage_name: str) -> float:
    """What a stage takes with the recipe's own estimates of lengths."""
    recipe = find_recipe(name)
    stage, config = recipe.stage(stage_name), shape_of(recipe.parts)
    kinds = estimated(recipe, stage, config.image_seq_length)
    imagined = Imagined(config, stage.train.rules, stage.train.precision)
    assert imagined.parameters == pytest.approx(7.06e9, rel=0.01)
    return cost_of(imagined.model).flops(work_of_kinds(kinds)).needed


@pytest.mark.parametrize(
    ("recipe", "stage", "flop", "hours"),
    [
        ("sharegpt4v_7b", "pretrain", 4.2e19, 3.2),
        ("sharegpt4v_7b", "sft", 2.5e19, 1.9),
        ("llava_1_5_7b", "sft", 2.5e19, 1.9),
        ("llava_1_5_7b", "align", 0.9e19, 0.7),
    ],
)
def test_the_paper_s_runs_come_out(recipe: str, stage: str, flop: float, hours: float) -> None:
    found = operations(recipe, stage)
    assert found == pytest.approx(flop, rel=0.15)
    assert found / (8 * 989e12 * 0.45) / 3600 == pytest.approx(hours, rel=0.2)


def told(*words: str) -> Any:
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    if isinstance(done.exception, SharecapError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_fits_eight_cards_and_not_one_is_said_with_what_would_help(tmp_path: Path) -> None:
    # A folder with a configuration alone: six billion parameters in few, wide blocks, quick to plan.
    wide = LlamaConfig(
        hidden_size=8192, intermediate_size=22_016, num_hidden_layers=7, num_attention_heads=64
    )
    wide.save_pretrained(tmp_path)
    recipe = with_settings(find_recipe("llava_7b"), [f"parts.language={tmp_path}"])
    recipe = replace(recipe, stages=(replace(recipe.stage("sft"), start=""),))
    (eight,) = plan(recipe, Machine())
    assert eight.fits
    assert eight.memory["fsdp"].total < 60 * GIB < eight.memory["ddp"].total
    (alone,) = plan(recipe, Machine(gpus=1))
    assert not alone.fits
    assert alone.remedies == ("2 GPUs",)
    # Weights, gradients, two moments of the optimiser: 16 bytes a parameter that learns, 2 any other.
    held, frozen = alone.memory["none"], alone.parameters - alone.learning
    assert held.weights + held.gradients + held.optimizer == 16 * alone.learning + 2 * frozen
    assert alone.checkpoint_bytes == 12 * alone.learning
    text = "\n".join(lines(recipe, [alone], Machine(gpus=1)))
    assert "does NOT fit (none)" in text
    assert "would fit: 2 GPUs" in text


def test_rows_at_hand_are_measured(tmp_path: Path) -> None:
    user = user_folder(tmp_path)
    settings = [word for setting in quick(user) for word in ("--set", setting)]
    sft = told("tiny", "--gpus", "1", "--data", str(user / "rows"), *settings)["stages"][2]
    assert sft["measured"]
    assert [(kind["rows"], kind["images"]) for kind in sft["kinds"]] == [(1, 0), (8, 1)]
    done = CliRunner().invoke(app, ["plan", "tiny", "--data", str(user / "rows"), *settings])
    assert "lengths of rows: measured on a sample" in done.stdout
    assert "fits (fsdp)" in done.stdout


def test_all_rows_that_training_would_stop_at_are_named(tmp_path: Path) -> None:
    user = user_folder(tmp_path)
    rows = json.loads((user / "rows/captions.json").read_text())
    rows[1]["conversations"][1]["value"] = "It ends </s> here."
    rows[3]["conversations"][1]["value"] = " "
    rows[5]["image"] = "pictures/gone.png"
    rows[6]["conversations"][1]["value"] = "blue " * 3000
    (user / "rows/captions.json").write_text(json.dumps(rows), encoding="utf-8-sig")  # with a mark before it
    settings = [word for setting in quick(user) for word in ("--set", setting)]
    words = ["tiny", "--gpus", "1", "--data", str(user / "rows")]
    with pytest.raises(SharecapError) as caught:
        told(*words, *settings)
    assert caught.value.exit_code == 1
    said = str(caught.value)
    assert said.startswith("4 rows can't be trained on: row row1: an answer holds the special token </s>;")
    assert "row row3: empty answer; row row5: no such file (" in said
    assert "row row6: " in said
    for stage in ("align", "pretrain"):
        settings += ["--set", f"{stage}.leave_out=uncuttable,empty_answer,missing"]
        settings += ["--set", f"{stage}.too_long=drop"]
    found = told(*words, *settings)["stages"]
    assert [kind["rows"] for kind in found[0]["kinds"]] == [8]


def test_steps_of_so_many_tokens_are_planned(tmp_path: Path) -> None:
    user = user_folder(tmp_path)
    words = ["tiny", "--gpus", "1", "--data", str(user / "rows")]
    more = ["pretrain.steps=none", "pretrain.epochs=3", "pretrain.batch_rows=none"]
    settings = [*quick(user), *more, "pretrain.batch_tokens=600"]
    found = told(*words, *(word for setting in settings for word in ("--set", setting)))["stages"][1]
    work, steps = found["work"], found["steps"]
    assert work["tokens"] == pytest.approx(steps * 600)
    passes = work["images"] / 8
    assert 3 <= passes < 3 + passes / steps  # the last step is filled up


def test_a_whole_model_is_planned_from_its_configuration(tmp_path: Path) -> None:
    user = user_folder(tmp_path)
    llava = build(Parts(user / "models/tower", user / "models/language"))
    save(llava, tmp_path / "llava")
    words = ["--data", str(user / "rows"), "--set", "pretrain.rules.vision.from_block=1"]
    sft = told("tiny", *words, "--set", f"parts={tmp_path / 'llava'}")["stages"][2]
    assert sft["parameters"] == sum(p.numel() for p in llava.model.parameters())
    assert sft["model_bytes"] == 4 * sft["parameters"]
    assert [(kind["rows"], kind["images"]) for kind in sft["kinds"]] == [(1, 0), (8, 1)]
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(
        UsageError, match=r"LLaVAs and Qwen3-VLs can be planned, not 'llama': .*llama\. train"
    ):
        told("tiny", *words, "--set", f"parts={tmp_path / 'llama'}")


def test_a_qwen_is_planned_with_pictures_of_the_sizes_that_they_have(tmp_path: Path) -> None:
    user = user_folder(tmp_path)
    qwen = qwen_folder(tmp_path / "qwen")
    settings = [f"parts={qwen}", "pretrain.rules.vision.from_block=1"]
    settings += [f"{stage}.template=own" for stage in ("align", "pretrain", "sft")]
    words = [word for setting in settings for word in ("--set", setting)]
    sft = told("tiny", "--gpus", "1", "--data", str(user / "rows"), *words)["stages"][2]
    assert sft["parameters"] == sum(p.numel() for p in load(qwen).model.parameters())
    places = {kind["images"]: kind["places"] for kind in sft["kinds"]}
    with Image.open(next((user / "rows/pictures").glob("*.png"))) as picture:
        assert places == {0: None, 1: Places(load(qwen).processor.image_processor).of_size(*picture.size)}
    assert sft["picture"] is None


def test_the_papers_qwen_is_planned_where_nobody_has_it() -> None:
    with torch.device("meta"):
        large = Qwen3VLForConditionalGeneration(shape_of(find_recipe("lab:substitution:paper:qwen_vl").parts))
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(8.77e9, rel=0.001)
    found = told("lab:substitution:small:qwen_vl", "--gpus", "1")["stages"][0]
    assert found["parameters"] == pytest.approx(2.13e9, rel=0.002)
    assert found["picture"] == [640, 480]
    assert {kind["places"] for kind in found["kinds"] if kind["images"]} == {20 * 15}  # squares of 32 pixels
    assert found["fits"]


def test_a_plan_that_can_t_be_made_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing is known of the rows of stage align: tiny\. give --data"):
        told("tiny")
    with pytest.raises(SharecapError, match=r"no configuration of this model: .*gone"):
        told("llava_7b", "--set", f"parts.language={tmp_path / 'gone'}")
    with pytest.raises(UsageError, match="MFU above 0"):
        told("llava_7b", "--mfu", "45")
    for word in ("--memory", "--tflops"):
        with pytest.raises(UsageError, match="a machine needs"):
            told("llava_7b", word, "nan")
    GPT2Config(n_embd=32, n_layer=2, n_head=2).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UsageError, match=r"no LLaVA can be made of a 'gpt2' .*: .*gpt2\. use a Llama"):
        told("llava_7b", "--set", f"parts.language={tmp_path / 'gpt2'}")
    with pytest.raises(UsageError, match="not a CLIP or SigLIP but 'gpt2'"):
        told("llava_7b", "--set", f"parts.vision={tmp_path / 'gpt2'}")
    vision_folder(tmp_path / "tower")
    with pytest.raises(UsageError, match="not a language model but 'clip_vision_model'"):
        told("llava_7b", "--set", f"parts.language={tmp_path / 'tower'}")
    recipe = with_settings(find_recipe("llava_7b"), ["parts.feature_layer=-30"])
    with pytest.raises(UsageError, match="24 blocks have no feature layer -30"):
        plan(recipe, Machine())


def test_the_largest_pack_is_full_and_holds_what_any_kind_can_bring() -> None:
    kinds = [RowKind("long text", 10, 0, 100, 900), RowKind("pictures", 90, 1, 50, 50, places=100)]
    pack = largest_pack(kinds, pack_tokens=2000, most_rows=32)
    assert sum(pack.lengths) == 2000
    assert (pack.images, pack.places, pack.learned) == (10, 100, 1800)
    assert sum(largest_pack(kinds, 2000, most_rows=2).lengths) == 2 * 280
