"""Qwen3-VL through the same loop as LLaVA: rows, packs, rules, checkpoints, folders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sharecap.artifact import file_digest
from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter
from sharecap.model.folder import load
from sharecap.model.trainable import apply, resolve
from sharecap.records import Conversation
from sharecap.train.cost import cost_of, work_of_packs
from sharecap.train.loop import train
from tests.model.tiny_qwen import qwen_folder, sized_rows
from tests.train.killed import CONFIG as LLAVA
from tests.train.killed import wait_for

CONFIG = dataclasses.replace(LLAVA, template="own", batch_rows=6, steps=5, pack_tokens=90, checkpoint_every=3)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    return sized_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def trained(start: Path, rows: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(CONFIG, start, rows, out)
    return out


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def plain_loss(directory: Path, rows: list[Conversation]) -> float:
    """The mean over all answers' tokens by plain transformers, one row at a time."""
    model, report = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    images = Qwen2VLImageProcessorPil.from_pretrained(directory)
    total, count = 0.0, 0
    for row in rows:
        question, answer = (turn.text for turn in row.turns)
        seen = images([Image.open(file) for file in row.images], return_tensors="pt") if row.images else {}
        if row.images:
            pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
            question = question.replace("<image>\n", f"<|vision_start|>{pads}<|vision_end|>")
        asked = tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        told = tokenizer(f"{answer}<|im_end|>")["input_ids"]
        ids, labels = torch.tensor([asked + told]), torch.tensor([[-100] * len(asked) + told])
        kinds = (ids == model.config.image_token_id).int()
        model.model.rope_deltas = None
        loss = model.eval()(input_ids=ids, labels=labels, mm_token_type_ids=kinds, **seen).loss
        total, count = total + float(loss) * len(told), count + len(told)
    return total / count


def test_the_first_step_s_loss_is_that_of_plain_transformers_and_it_falls(
    start: Path, rows: list[Conversation], trained: Path
) -> None:
    found = lines(trained)
    assert found[0]["loss"] == pytest.approx(plain_loss(start, rows), abs=1e-5)
    assert plain_loss(trained / "model", rows) < 0.9 * found[0]["loss"]
    assert {line["images"] for line in found} == {5}


def test_operations_of_a_step_are_those_of_its_rows_and_of_pictures_of_their_sizes(
    start: Path, rows: list[Conversation], trained: Path
) -> None:
    llava = load(start)
    apply(llava.model, resolve(llava.model, CONFIG.rules))
    cutter = Cutter(llava.tokenizer, template_named("own", llava.processor), llava.image_tokens)
    packs = [
        ((len(d),), int(d.learned[1:].sum()), [int((d.ids == cutter.image_id).sum())] * len(d.images))
        for d in cutter.documents(rows)
    ]
    assert sorted(pictures[0] for *_, pictures in packs if pictures) == [2, 4, 4, 6, 12]
    told = cost_of(llava.model).flops(work_of_packs(packs)).needed
    for line in lines(trained):  # each step learns from all rows
        assert line["flops"] == pytest.approx(told)
        assert line["mfu"] > 0


def test_what_the_rules_say_learns_and_nothing_else(start: Path, trained: Path) -> None:
    before, after = (load(x).model.state_dict() for x in (start, trained / "model"))
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    vision = {name for name in before if name.startswith("model.visual.") and "merger" not in name}
    assert frozen == {name for name in vision if ".blocks.1." not in name and ".blocks.2." not in name}


def test_a_run_that_was_stopped_ends_with_the_same_bits_also_with_processes_that_load(
    start: Path, rows: list[Conversation], trained: Path, tmp_path: Path
) -> None:
    def stop(line: dict[str, Any], _: int) -> None:
        if line["step"] == 4:
            wait_for(tmp_path / "state/step-00000003")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, start, rows, tmp_path, stop)
    train(dataclasses.replace(CONFIG, workers=1), start, rows, tmp_path)
    one, other = ([(x["loss"], x["gradient_norm"]) for x in lines(d)] for d in (trained, tmp_path))
    assert one == other
    weights = [file_digest(d / "model/model.safetensors") for d in (trained, tmp_path)]
    assert weights[0] == weights[1]


def test_rows_of_words_alone_train_too(start: Path, rows: list[Conversation], tmp_path: Path) -> None:
    made = train(dataclasses.replace(CONFIG, steps=1), start, rows[-1:], tmp_path)
    assert made["final_loss"] == pytest.approx(plain_loss(start, rows[-1:]), abs=1e-5)
    assert lines(tmp_path)[0]["gradient_norms"]["vision"] == 0.0
