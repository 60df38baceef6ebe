"""Real processes under torchrun train as one: the same losses, the same model, the same checkpoints."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sharecap.data.rows import read_rows, write_rows
from sharecap.model.folder import load, save
from sharecap.records import Conversation, Turn
from sharecap.train.loop import train
from tests.model.tiny import caption_rows, tiny_llava
from tests.train.killed import CONFIG

SHORT = {"steps": 6, "checkpoint_every": 3, "eval_rows": 3, "eval_every": 3}
ALONE = dataclasses.replace(CONFIG, **SHORT)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start and rows, of which every other has no picture: some packs have none, and ranks differ."""
    directory = tmp_path_factory.mktemp("ranks")
    save(tiny_llava(directory), directory / "start")
    told = [f"There is a red circle, and {n} blue squares above it. {'Nothing else. ' * n}" for n in range(6)]
    texts = [
        Conversation(f"text{n}", (), (Turn("user", "What is white?"), Turn("assistant", f"The {text}.")))
        for n, text in enumerate(("background", "star", "small square", "large triangle", "image", "left"))
    ]
    write_rows(directory / "rows.json", [*caption_rows(directory / "pictures", told), *texts])
    return directory


def torchrun(
    place: Path, out: Path, ranks: int, *changes: str, restarts: int = 0, fails: bool = False
) -> None:
    """Train with this many processes."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
        *(f"--max-restarts={restarts}", "-m", "tests.train.ranks"),
        *(str(place / "start"), str(place / "rows.json"), str(out)),
        *(f"{name}={json.dumps(value)}" for name, value in SHORT.items()),
        *changes,
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-4000:]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that the others must equal."""
    out = tmp_path_factory.mktemp("alone")
    train(ALONE, place / "start", read_rows(place / "rows.json"), out)
    return out


def assert_same(one: Path, other: Path) -> None:
    """Losses, gradients and weights of two runs agree to rounding."""
    for expected, found in zip(lines(one), lines(other), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
        assert found["gradient_norms"] == pytest.approx(expected["gradient_norms"], rel=1e-4)
        assert found.get("held_out_loss") == pytest.approx(expected.get("held_out_loss"), abs=1e-5)
        assert (found["tokens"], found["learned_tokens"]) == (expected["tokens"], expected["learned_tokens"])
        assert found["images"] == expected["images"]
    weights = [dict(load(run / "model").model.named_parameters()) for run in (one, other)]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(parallel: str, place: Path, alone: Path, tmp_path: Path) -> None:
    torchrun(place, tmp_path / "out", 2, f'parallel="{parallel}"')
    assert_same(alone, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in alone.iterdir()}


def test_what_two_processes_began_one_can_end(place: Path, alone: Path, tmp_path: Path) -> None:
    torchrun(place, tmp_path, 2, "die_at=4", fails=True)
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["step-00000003"]
    assert len(list((tmp_path / "state/step-00000003").glob("*.safetensors"))) == 2
    train(ALONE, place / "start", read_rows(place / "rows.json"), tmp_path)
    assert_same(alone, tmp_path)


def test_torchrun_starts_a_run_again_in_which_a_process_died(
    place: Path, alone: Path, tmp_path: Path
) -> None:
    torchrun(place, tmp_path, 2, "die_at=4", restarts=1)
    assert_same(alone, tmp_path)
