"""What a run says of itself, and what stops it."""

import dataclasses
import json
import math
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Llava
from sharecap.model.trainable import Rule
from sharecap.train import view
from sharecap.train.guards import WINDOW, Watch
from sharecap.train.loop import train
from sharecap.train.metrics import Count, Log, flat, peak_flops, read_lines
from sharecap.train.parallel import joined
from sharecap.train.rows import prepare
from tests.model.tiny import caption_rows, tiny_llava
from tests.train.killed import CONFIG

WORDS = [f"There is a red circle, and {n} blue squares above it." for n in range(6)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of eight steps that holds out two rows."""
    directory = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(CONFIG, steps=8, eval_rows=2, eval_every=3, checkpoint_every=100)
    made = train(
        config, tiny_llava(directory), caption_rows(directory / "pictures", WORDS), directory / "out"
    )
    return directory / "out", made


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_each_step_has_a_line_that_adds_up(run: tuple[Path, dict[str, Any]]) -> None:
    found, made = lines(run[0]), run[1]
    assert [line["step"] for line in found] == list(range(1, 9))
    for line in found:
        assert set(line["gradient_norms"]) == {"vision", "projector", "language"}
        assert math.hypot(*line["gradient_norms"].values()) == pytest.approx(line["gradient_norm"], rel=1e-5)
        assert line["tokens_per_s"] * line["seconds"] == pytest.approx(line["tokens"])
        assert line["samples_per_s"] * line["seconds"] == pytest.approx(line["rows"])
        assert 0 < line["mfu"] < 1
        assert 0 <= line["data_wait_s"] <= line["seconds"]
        assert line["images"] == 4
        assert line["memory_bytes"] > 2**26
    assert [line["step"] for line in found if "held_out_loss" in line] == [3, 6, 8]
    assert made["held_out_loss"] == min(line.get("held_out_loss", math.inf) for line in found)
    assert made["tokens"] == sum(line["tokens"] for line in found)


def test_held_out_rows_are_never_learned(tmp_path: Path) -> None:
    llava, rows = tiny_llava(tmp_path), caption_rows(tmp_path / "pictures", WORDS)
    split = prepare(dataclasses.replace(CONFIG, eval_rows=2), llava, rows, tmp_path, joined("cpu"))
    names = [[document.id for document in part] for part in (split.learned, split.held_out)]
    assert sorted(names[0] + names[1]) == [row.id for row in rows]
    assert len(names[1]) == 2
    with pytest.raises(UsageError, match="eval_rows=6 of 6 rows leaves none"):
        prepare(dataclasses.replace(CONFIG, eval_rows=6), llava, rows, tmp_path, joined("cpu"))


def test_the_best_step_is_saved_where_it_is_not_the_last(tmp_path: Path) -> None:
    """Learned by heart, four texts make two others less likely."""
    texts = ["a red star", "two blue squares!", "Nothing.", "On the left: text", "3 circles above", "white"]
    rows = caption_rows(tmp_path / "pictures", texts)
    config = dataclasses.replace(
        CONFIG, steps=24, rules=(Rule("language", 1e-2),), eval_rows=2, eval_every=2, template="plain"
    )
    made = train(config, tiny_llava(tmp_path), rows, tmp_path / "out")
    assert made["best_step"] < 24
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("best", "metrics.jsonl", "model", "state", "trainable.json")
    }
    told = {line["step"]: line.get("held_out_loss") for line in lines(tmp_path / "out")}
    nothing = dataclasses.replace(config, steps=1, rules=(Rule("projector", 1e-12),))
    for name, step in (("best", made["best_step"]), ("model", 24)):
        again = train(nothing, tmp_path / "out" / name, rows, tmp_path / name)
        assert again["held_out_loss"] == pytest.approx(told[step], rel=1e-6)


def test_lines_of_steps_that_are_done_again_go_away(tmp_path: Path) -> None:
    with Log(tmp_path, "run", 0, (), True) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
    with Log(tmp_path, "run", 2, (), True) as log:
        assert [line["step"] for line in log.lines] == [1, 2]
    with Log(tmp_path, "run", 2, (), False) as other:
        other.write({"step": 3})  # not the rank that writes
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_service_that_is_not_installed_is_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UsageError, match=rf"log_to asks for {name}, which is not installed\. pip install {name}"
    ):
        Log(tmp_path, "run", 0, (name,), True)


def test_numbers_reach_the_services_without_nesting() -> None:
    line = {"step": 3, "loss": 1.5, "rates": {"vision 1-2": 1e-3, "language": 2e-3}}
    assert flat(line) == {"step": 3, "loss": 1.5, "rates/vision 1-2": 1e-3, "rates/language": 2e-3}


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Log(tmp_path, "run", 0, ("tensorboard",), True) as log:
        log.write({"step": 7, "loss": 1.5, "rates": {"language": 2e-3}})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (scalar,) = events.Scalars("rates/language")
    assert (scalar.step, scalar.value) == (7, pytest.approx(2e-3))


def test_the_live_line_says_how_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    line = {"loss": 2.1314, "tokens_per_s": 12345.6, "mfu": 0.412, "data_wait_s": 0.002, "seconds": 1.0}
    with view.watched("sft") as progress:
        progress(line | {"step": 11, "memory_bytes": 61 * 2**30}, 20)
        progress(line | {"step": 12, "memory_bytes": 61 * 2**30, "held_out_loss": 2.2}, 20)
    (said,) = shown.getvalue().splitlines()[-1:]
    assert said.startswith("training sft: steps 12/20 · ")
    assert said.endswith(
        "loss 2.131 (held out 2.200) · 12,346 tokens/s · MFU 41 % · 0.2 % waiting · 61.0 GiB"
    )


def test_the_peak_of_a_processor_is_measured() -> None:
    assert 1e9 < peak_flops(torch.device("cpu"), "fp32") < 1e14


def watch(spike: float | None = None, losses: int = 0) -> Watch:
    return Watch(Path("out"), spike, ["model.vision_tower.x", "lm_head.weight"], [1.0] * losses)


def test_a_part_that_no_gradient_reaches_stops_the_run_when_it_should_have_one() -> None:
    looking = watch()
    looking.look(1, Count(1.0, 0.0, 0), 1.0, {"vision": 0.0, "language": 1.0})  # no picture: it can't have
    with pytest.raises(SharecapError, match="step 2: no gradient reaches vision: out"):
        looking.look(2, Count(1.0, 0.0, 4), 1.0, {"vision": 0.0, "language": 1.0})
    looking.look(2, Count(1.0, 0.0, 4), 1.0, {"vision": 0.5, "language": 1.0})
    looking.look(3, Count(1.0, 0.0, 4), 1.0, {"vision": 0.0, "language": 0.0})  # learned out, not cut off


def test_a_spike_stops_the_run_only_where_it_is_asked_to() -> None:
    norms = {"vision": 1.0, "language": 1.0}
    watch(losses=WINDOW).look(51, Count(9.0, 0.0, 4), 1.0, norms)
    watch(3.0, losses=WINDOW - 1).look(50, Count(9.0, 0.0, 4), 1.0, norms)
    watch(3.0, losses=WINDOW).look(51, Count(2.9, 0.0, 4), 1.0, norms)
    with pytest.raises(SharecapError, match=r"step 51: loss 3\.1, 1 being the median of the 50 steps before"):
        watch(3.0, losses=WINDOW).look(51, Count(3.1, 0.0, 4), 1.0, norms)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf)])
def test_what_is_no_number_stops_the_run(loss: float, norm: float) -> None:
    with pytest.raises(SharecapError, match=r"step 1: loss .*, gradient .*: out\. lower the learning rate"):
        watch().look(1, Count(loss, 0.0, 4), norm, {"vision": 1.0, "language": 1.0})


def test_tokens_that_mean_something_else_to_the_model_are_refused_before_training(tmp_path: Path) -> None:
    def refused(spoil: Any) -> str:
        llava = tiny_llava(tmp_path)
        spoil(llava)
        with pytest.raises(SharecapError) as caught:
            train(CONFIG, llava, caption_rows(tmp_path / "pictures", WORDS), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    def small(llava: Llava) -> None:
        llava.model.resize_token_embeddings(len(llava.tokenizer) - 1, mean_resizing=False)

    def shifted(llava: Llava) -> None:
        llava.config.image_token_id -= 1

    def endless(llava: Llava) -> None:
        llava.model.generation_config.eos_token_id = [0]

    assert "vocabulary too small" in refused(small)
    assert "the tokenizer's image token is" in refused(shifted)
    assert "template vicuna_v1 ends answers with token 2, the model with [0]" in refused(endless)


def test_lines_that_a_run_can_t_go_on_from_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_lines(tmp_path / "metrics.jsonl", 1) == [{"step": 1}]
    with pytest.raises(
        SharecapError, match=r"cannot read the metrics \(Unterminated.*: .*metrics\.jsonl\. mend"
    ):
        read_lines(tmp_path / "metrics.jsonl", 2)
