"""Adapters through the loop: they learn, go on after a stop to the bit, and are added up in what is saved."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from sharecap.artifact import file_digest
from sharecap.model.folder import load, save
from sharecap.model.lora import Lora
from sharecap.model.trainable import Rule
from sharecap.records import Conversation
from sharecap.train.loop import train
from tests.model.tiny import caption_rows, tiny_llava
from tests.train.killed import CONFIG as FULL
from tests.train.killed import wait_for

RULES = (
    Rule("projector", 3e-3),
    Rule("language", 1e-2, lora=Lora(rank=4, alpha=8, dropout=0.1, targets=("q_proj", "up_proj"))),
)
CONFIG = dataclasses.replace(FULL, rules=RULES, steps=6, checkpoint_every=3, eval_rows=2, eval_every=6)
WORDS = [f"There is a red circle, and {n} blue squares above it." for n in range(8)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("start")
    save(tiny_llava(directory), directory / "model")
    return directory / "model"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    return caption_rows(tmp_path_factory.mktemp("pictures"), WORDS)


@pytest.fixture(scope="module")
def trained(start: Path, rows: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(CONFIG, start, rows, out)
    return out


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_the_saved_model_is_plain_and_only_what_was_adapted_has_changed(start: Path, trained: Path) -> None:
    table = json.loads((trained / "trainable.json").read_text())["table"]
    assert [(line["part"], line["rank"]) for line in table] == [("projector", None), ("language", 4)]
    before = load(start).model.state_dict()
    plain, report = AutoModelForImageTextToText.from_pretrained(trained / "model", output_loading_info=True)
    assert not report["unexpected_keys"]
    after = plain.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {n for n in before if "language_model" in n and n.endswith(("q_proj.weight", "up_proj.weight"))}
    assert changed == adapted | {name for name in before if "multi_modal_projector" in name}


def test_the_saved_model_does_as_the_adapted_one_did(
    trained: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    nothing = dataclasses.replace(CONFIG, steps=1, rules=(Rule("projector", 1e-12),))
    again = train(nothing, trained / "model", rows, tmp_path)
    assert again["held_out_loss"] == pytest.approx(lines(trained)[-1]["held_out_loss"], abs=1e-5)
    assert again["held_out_loss"] < lines(trained)[0]["loss"]


def test_a_run_that_was_stopped_ends_with_the_same_bits_dropout_included(
    start: Path, rows: list[Conversation], trained: Path, tmp_path: Path
) -> None:
    def stop(line: dict[str, Any], _: int) -> None:
        if line["step"] == 4:
            wait_for(tmp_path / "state/step-00000003")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, start, rows, tmp_path, stop)
    train(CONFIG, start, rows, tmp_path)
    one, other = ([(x["loss"], x["gradient_norm"]) for x in lines(d)] for d in (trained, tmp_path))
    assert one == other
    weights = [file_digest(d / "model/model.safetensors") for d in (trained, tmp_path)]
    assert weights[0] == weights[1]
    undropped = tuple(
        dataclasses.replace(r, lora=r.lora and dataclasses.replace(r.lora, dropout=0.0)) for r in RULES
    )
    train(dataclasses.replace(CONFIG, rules=undropped, steps=2), start, rows, tmp_path / "undropped")
    assert lines(tmp_path / "undropped")[0]["loss"] == one[0][0]  # B is zero at the start
    assert lines(tmp_path / "undropped")[1]["loss"] != one[1][0]
