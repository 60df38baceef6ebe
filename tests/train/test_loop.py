"""Training: exact resume, honest gradients, a loss whatever the packs, errors before time is spent."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sharecap.artifact import file_digest
from sharecap.data.rows import read_rows, write_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.model import loss
from sharecap.model.build import Llava
from sharecap.model.folder import load, save
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.model.loss import EVEN
from sharecap.model.trainable import Rule, apply, resolve
from sharecap.records import Conversation, Turn
from sharecap.train.config import TrainConfig
from sharecap.train.gradients import check
from sharecap.train.loop import rate_scale, train
from sharecap.train.objective import Learner, Objective
from sharecap.train.parallel import joined
from sharecap.train.rows import batches, prepare
from tests.model.tiny import caption_rows, tiny_llava
from tests.train.killed import CONFIG

CAPTIONS = [f"There is a red circle, and {n} blue squares above it. {'Nothing else. ' * n}" for n in range(7)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("start")
    save(tiny_llava(directory), directory / "model")
    return directory / "model"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    """Seven pictures with captions, one conversation of two turns, one without a picture."""
    made = caption_rows(tmp_path_factory.mktemp("pictures"), CAPTIONS)
    first = made[0]
    more = (*first.turns, Turn("user", "How many squares?"), Turn("assistant", "There are none."))
    text = Conversation("text", (), (Turn("user", "What is white?"), Turn("assistant", "The background.")))
    return [*made, Conversation("two", first.images, more), text]


def run_and_kill(arguments: list[str], step: int) -> None:
    """Run tests.train.killed; kill -9 once this step is done."""
    command = [sys.executable, "-m", "tests.train.killed", *arguments, str(step)]
    child = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    for line in child.stdout:
        if int(line) == step:
            child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdin.close()


def metrics(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def results(directory: Path) -> list[tuple[Any, ...]]:
    """What must be equal of two runs: everything but times."""
    return [
        (x["step"], x["loss"], x["gradient_norm"], x["tokens"], tuple(x["rates"].values()))
        for x in metrics(directory)
    ]


def test_twenty_steps_are_ten_and_a_kill_and_ten_to_the_bit(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.json", rows)
    train(CONFIG, start, read_rows(tmp_path / "rows.json"), tmp_path / "whole")
    run_and_kill([str(start), str(tmp_path / "rows.json"), str(tmp_path / "killed")], 13)
    assert not (tmp_path / "killed/model").exists()
    assert [p.name for p in (tmp_path / "killed/state").iterdir()] == ["step-00000010"]
    train(CONFIG, start, read_rows(tmp_path / "rows.json"), tmp_path / "killed")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert len(results(tmp_path / "whole")) == 20
    weights = [file_digest(tmp_path / run / "model/model.safetensors") for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_half_written_checkpoint_is_never_taken_up(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    partial = tmp_path / "out/state/step-00000010.partial"
    partial.mkdir(parents=True)
    (partial / "shard.safetensors").write_bytes(b"half")
    train(dataclasses.replace(CONFIG, steps=2), start, rows, tmp_path / "out")
    assert len(metrics(tmp_path / "out")) == 2


def interrupted(start: Path, rows: list[Conversation], out: Path, config: TrainConfig = CONFIG) -> None:
    """A run that stops after 12 steps, with the state after 10."""

    def progress(line: dict[str, Any], _: int) -> None:
        if line["step"] == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, start, rows, out, progress)


def test_steps_of_so_many_tokens_go_on_to_the_bit_and_don_t_depend_on_packs(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, batch_rows=None, batch_tokens=400, steps=14)
    interrupted(start, rows, tmp_path / "killed", config)
    for name, pack_tokens in (("whole", 200), ("killed", 200), ("one pack", 4096)):
        train(dataclasses.replace(config, pack_tokens=pack_tokens), start, rows, tmp_path / name)
    whole, one = metrics(tmp_path / "whole"), metrics(tmp_path / "one pack")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert [x["loss"] for x in one] == pytest.approx([x["loss"] for x in whole], abs=1e-5)
    longest = max(x["tokens"] / x["rows"] for x in whole)
    assert sum(x["tokens"] for x in whole) == pytest.approx(14 * 400, abs=2 * longest)
    assert len({x["rows"] for x in whole}) > 1


@pytest.mark.parametrize("change", ["config", "rows"])
def test_the_state_of_another_run_is_refused(
    change: str, start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    interrupted(start, rows, tmp_path)
    config = dataclasses.replace(CONFIG, seed=1) if change == "config" else CONFIG
    with pytest.raises(SharecapError, match=r"checkpoint of another run: .*step-00000010"):
        train(config, start, rows[1:] if change == "rows" else rows, tmp_path)


def test_a_damaged_checkpoint_is_one_clear_line(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    interrupted(start, rows, tmp_path)
    (file,) = (tmp_path / "state/step-00000010").glob("*.safetensors")
    file.write_bytes(b"damaged")
    with pytest.raises(SharecapError, match=r"damaged checkpoint .*step-00000010\. remove it to go on"):
        train(CONFIG, start, rows, tmp_path)


def test_training_leaves_a_model_a_table_and_metrics(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    seen: list[int] = []
    config = dataclasses.replace(CONFIG, steps=4, rules=(Rule("projector", 1e-3),), template="plain")
    made = train(config, start, rows[:7], tmp_path, lambda line, total: seen.append(total - line["step"]))
    assert seen == [3, 2, 1, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "model", "state", "trainable.json"]
    table = json.loads((tmp_path / "trainable.json").read_text())
    assert [line["part"] for line in table["table"]] == ["projector"]
    assert made["steps"] == 4
    assert made["tokens"] == sum(line["tokens"] for line in metrics(tmp_path))
    assert made["final_loss"] == metrics(tmp_path)[-1]["loss"]
    before, after = load(start), load(tmp_path / "model")
    assert after.template == "plain"
    for name, weights in before.model.state_dict().items():
        assert torch.equal(weights, after.model.state_dict()[name]) == ("multi_modal_projector" not in name)


def gradients(
    llava: Llava, rows: list[Conversation], pack_tokens: int, compiled: bool = False
) -> dict[str, torch.Tensor]:
    """The gradients of one step over all rows."""
    apply(llava.model, resolve(llava.model, CONFIG.rules))
    config = dataclasses.replace(CONFIG, pack_tokens=pack_tokens)
    config = dataclasses.replace(config, batch_rows=len(rows))
    world = joined("cpu")
    documents = prepare(config, llava, rows, Path(), world).learned
    (step,) = batches(config, llava, documents, world, first=0, last=1)
    llava.model.zero_grad()
    Learner(Objective(llava.model, world.device, "fp32", compiled), world, 0, None).learn(step)
    return {n: p.grad.clone() for n, p in llava.model.named_parameters() if p.grad is not None}


def test_the_loss_is_the_mean_over_learned_tokens_however_rows_are_packed(
    start: Path, rows: list[Conversation]
) -> None:
    llava = load(start)
    one, many = gradients(llava, rows, 4096), gradients(llava, rows, 120)
    assert set(one) == set(many)
    for name, gradient in one.items():
        torch.testing.assert_close(many[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


def test_packs_filled_up_for_compiling_learn_the_same(
    start: Path, rows: list[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "compiled_chunk", lambda: loss.chunk_loss)
    llava = load(start)
    lengths: list[int] = []
    llava.model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    plain = gradients(llava, rows, 300)
    seen = lengths.copy()
    lengths.clear()
    even = gradients(llava, rows, 300, compiled=True)
    assert [n + -n % EVEN for n in seen] == lengths != seen
    assert set(plain) == set(even)
    for name, gradient in plain.items():
        torch.testing.assert_close(even[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


def test_four_packs_a_step_give_the_losses_of_one(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    """Gradient accumulation: the packs of a step, of which one bounds memory."""
    config = dataclasses.replace(CONFIG, steps=8, batch_rows=9)
    for name, tokens in (("one", 4096), ("four", 180)):
        train(dataclasses.replace(config, pack_tokens=tokens), start, rows, tmp_path / name)
    (step,) = batches(
        dataclasses.replace(config, pack_tokens=180),
        load(start),
        prepare(config, load(start), rows, tmp_path, joined("cpu")).learned,
        joined("cpu"),
        first=0,
        last=1,
    )
    assert len(step.packs) == 4
    one, four = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("one", "four"))
    assert four == pytest.approx(one, abs=1e-5)


def test_frozen_blocks_below_the_first_that_learns_make_no_graph(
    start: Path, rows: list[Conversation]
) -> None:
    llava = load(start)
    seen: list[bool] = []
    for block in llava.model.model.vision_tower.encoder.layers[:2]:
        block.register_forward_hook(lambda _, __, out: seen.append(out.requires_grad))
    gradients(llava, rows, 4096)  # blocks learn from number 1 on
    assert seen == [False, True]


def test_every_trainable_parameter_has_a_gradient_at_step_one_even_without_pictures(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    train(dataclasses.replace(CONFIG, steps=1), start, rows[-1:], tmp_path)
    llava = load(start)
    gradients(llava, rows, 4096)
    check(llava.model)
    llava.model.model.vision_tower.post_layernorm.weight.requires_grad_(True)
    with pytest.raises(
        SharecapError, match=r"1 trainable parameters get no gradient: .*post_layernorm.weight"
    ):
        check(llava.model)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_model(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    llava = load(start)
    with torch.no_grad():
        llava.model.model.multi_modal_projector.linear_1.weight.fill_(float("nan"))
    with pytest.raises(
        SharecapError, match=r"step 1: loss nan, gradient nan: .*\. lower the learning rate"
    ) as caught:
        train(CONFIG, llava, rows, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_rows_too_long_are_refused_or_dropped_with_a_count(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, pack_tokens=65, steps=1)
    with pytest.raises(
        SharecapError, match=r"(\d) of 9 rows can't be trained on \(\1 too_long\), first row .* room for 65"
    ):
        train(config, start, rows, tmp_path)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {"row6"} <= {row["row"] for row in listed}
    assert not (tmp_path / "metrics.jsonl").exists()
    made = train(dataclasses.replace(config, too_long="drop"), start, rows, tmp_path)
    assert made["dropped_rows"] == len(listed)
    with pytest.raises(SharecapError, match="no rows to train on"):
        train(dataclasses.replace(config, too_long="drop", pack_tokens=5), start, rows, tmp_path)


def test_bad_rows_are_named_before_training_starts(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    gone = dataclasses.replace(rows[0], id="gone", images=(str(tmp_path / "gone.png"),))
    with pytest.raises(
        SharecapError, match=r"1 of 10 rows .*\(1 missing\), first row gone: no such file: .*gone\.png"
    ):
        train(CONFIG, start, [*rows, gone], tmp_path / "out")
    mute = Conversation("mute", (), (Turn("user", "Hello?"),))
    with pytest.raises(SharecapError, match=r"\(1 no_answer\), first row mute: "):
        train(CONFIG, start, [*rows, mute], tmp_path / "out")
    with pytest.raises(SharecapError, match="no rows to train on"):
        train(CONFIG, start, [], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] in ([], ["quarantine.jsonl"])


def test_a_picture_that_breaks_while_training_names_file_and_row(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(Path(rows[0].images[0]).read_bytes()[:200])
    cut = dataclasses.replace(rows[0], id="cut", images=(str(tmp_path / "cut.png"),))
    with pytest.raises(SharecapError, match=r"\(row cut\): .*cut\.png"):
        train(CONFIG, start, [*rows, cut], tmp_path / "out")


def test_bf16_computes_in_half_precision_and_keeps_the_weights_precision(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    train(dataclasses.replace(CONFIG, steps=3), start, rows, tmp_path / "fp32")
    train(dataclasses.replace(CONFIG, steps=3, precision="bf16"), start, rows, tmp_path / "bf16")
    one, other = metrics(tmp_path / "fp32"), metrics(tmp_path / "bf16")
    assert one[0]["loss"] != other[0]["loss"]
    assert other[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.02)
    assert load(tmp_path / "bf16/model").model.dtype == torch.float32


def test_what_learns_is_held_in_fp32_where_the_model_is_in_bf16(
    rows: list[Conversation], tmp_path: Path
) -> None:
    """Steps of 3e-4 are lost on a bf16 weight of 1, which can't be told from 0.9985; here they add up."""
    llava = tiny_llava(tmp_path, parts={"dtype": "bfloat16"})
    start = {name: p.detach().clone() for name, p in llava.model.named_parameters()}
    rules = (Rule("language", 3e-4),)
    seen: set[tuple[str, torch.dtype]] = set()

    def progress(_: dict[str, Any], __: int) -> None:
        seen.update((name.split(".")[1], p.dtype) for name, p in llava.model.named_parameters())

    config = dataclasses.replace(CONFIG, rules=rules, precision="bf16", weight_decay=0.0, warmup_ratio=0.0)
    train(config, llava, rows, tmp_path / "out", progress)
    assert ("language_model", torch.float32) in seen
    assert ("vision_tower", torch.bfloat16) in seen
    saved = dict(load(tmp_path / "out/model").model.named_parameters())
    assert {p.dtype for p in saved.values()} == {torch.bfloat16}
    for name, before in start.items():
        assert "language" in name or "lm_head" in name or torch.equal(saved[name], before), name
    norms = [name for name in start if "language_model" in name and "norm" in name]
    assert any((saved[name] != start[name]).any() for name in norms)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_on_a_cosine() -> None:
    scales = [rate_scale(step, 100, 0.03) for step in range(100)]
    assert scales[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert scales[3:] == sorted(scales[3:], reverse=True)
    assert scales[51] == pytest.approx(0.5, abs=0.01)
    assert 0 < scales[-1] < 0.001
    assert rate_scale(0, 1, 0.03) == 1.0
    assert rate_scale(0, 10, 0.0) == 1.0


def test_a_centre_crop_learns_from_the_middle_square_alone(start: Path, tmp_path: Path) -> None:
    def losses(flank: str, name: str, *, crop: bool) -> list[float]:
        rows = caption_rows(tmp_path / name, CAPTIONS[:4])
        for row in rows:  # three squares wide
            wide = Image.new("RGB", (300, 100), flank)
            wide.paste(Image.new("RGB", (160, 100), "green"), (70, 0))
            wide.save(row.images[0])
        config = dataclasses.replace(CONFIG, steps=2, centre_crop=crop)
        train(config, start, rows, tmp_path / f"{name}-{crop}")
        return [line["loss"] for line in metrics(tmp_path / f"{name}-{crop}")]

    assert losses("black", "black", crop=True) == losses("white", "white", crop=True)
    assert losses("black", "black", crop=False) != losses("white", "white", crop=False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"steps": None}, "give either steps or epochs"),
        ({"epochs": 1.0}, "give either steps or epochs"),
        ({"steps": 0}, "at least one step"),
        ({"steps": None, "epochs": -1.0}, "at least one step"),
        ({"batch_rows": 0}, "must be at least 1"),
        ({"batch_rows": None}, "either batch_rows or batch_tokens"),
        ({"batch_tokens": 100}, "either batch_rows or batch_tokens"),
        ({"batch_rows": None, "batch_tokens": 0}, "batch_tokens must be at least 1"),
        ({"batch_rows": None, "batch_tokens": 100, "grouped": True}, "grouped batches are counted in rows"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"keep_last": 0}, "keep_last must be at least 1"),
        ({"eval_rows": -1}, "eval_rows must be at least 0"),
        ({"eval_every": 0}, "eval_every must be at least 1"),
        ({"spike": 0.5}, "spike must be above 1"),
    ],
)
def test_a_configuration_without_sense_is_a_usage_error(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        dataclasses.replace(CONFIG, **change)


def test_passes_become_steps_with_the_last_one_filled_up() -> None:
    config = TrainConfig("plain", (), batch_rows=32, epochs=1)
    assert [config.steps_for(n, 0) for n in (1, 32, 33, 100)] == [1, 1, 2, 4]
    assert dataclasses.replace(config, epochs=2.5).steps_for(64, 0) == 5
    by_tokens = dataclasses.replace(config, batch_rows=None, batch_tokens=1000)
    assert [by_tokens.steps_for(9, tokens) for tokens in (1, 1000, 1001, 9000)] == [1, 1, 2, 9]


def test_an_unknown_template_or_a_directory_that_is_no_model_is_one_clear_line(
    start: Path, rows: list[Conversation], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown template 'v2'"):
        train(dataclasses.replace(CONFIG, template="v2"), start, rows, tmp_path / "out")
    with pytest.raises(SharecapError, match="no such model directory"):
        train(CONFIG, tmp_path / "nowhere", rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tiny_model_learns_to_name_colours_it_sees(start: Path, tmp_path: Path) -> None:
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220), "white": (245, 245, 245)}
    made = []
    for name, colour in colours.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
        turns = (Turn("user", "<image>\nWhat colour is it?"), Turn("assistant", f"It is {name}."))
        made.append(Conversation(name, (str(tmp_path / f"{name}.png"),), turns))
    rules = (Rule("projector", 1e-2), Rule("language", 1e-2))
    config = TrainConfig("vicuna_v1", rules, batch_rows=6, steps=60, device="cpu")
    result = train(config, start, made, tmp_path / "out")
    assert result["final_loss"] < 0.05
    replies = Generator.load(tmp_path / "out/model").generate(
        [Query(row.images, "What colour is it?") for row in made], Decoding(max_new_tokens=16)
    )
    assert [re.sub(r"\W", "", r.text.removeprefix("It is")) for r in replies] == list(colours)
    assert {r.finish_reason for r in replies} == {"stop"}
