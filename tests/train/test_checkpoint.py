"""Checkpoints: whole or not there, the last few and the best, no code in them."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sharecap.errors import SharecapError
from sharecap.train.checkpoint import Checkpoints, finished
from sharecap.train.parallel import joined

WORLD = joined("cpu")


class Learning:
    """A model, its optimiser, and what a checkpoint is made of."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(8, 8)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)

    def step(self) -> None:
        self.model(torch.ones(1, 8)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def kept(directory: Path, keep: int = 1, run: str = "run") -> Checkpoints:
    return Checkpoints(directory, run, keep, WORLD)


def names(directory: Path) -> list[str]:
    return [path.name for path in finished(directory)]


def test_a_restored_state_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    one, other = Learning(), Learning(seed=1)
    for _ in range(3):
        one.step()
    writing = kept(tmp_path)
    writing.save(3, one.parameters, one.optimizer)
    one.step()  # must not reach what is still being written
    writing.wait()
    assert kept(tmp_path).restore(other.parameters, other.optimizer) == 3
    other.step()
    assert torch.equal(one.model.weight, other.model.weight)
    assert torch.equal(one.model.bias, other.model.bias)


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    learning, writing = Learning(), kept(tmp_path, keep=2)
    learning.step()
    for step, worth in ((1, None), (2, 0.7), (3, 0.5), (4, None), (5, 0.6)):
        assert writing.outdone(worth) == (step == 2)
        writing.save(step, learning.parameters, learning.optimizer, worth)
    writing.wait()
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    for found in (writing, kept(tmp_path)):
        assert found.outdone(0.8)
        assert not found.outdone(0.7)
    assert kept(tmp_path / "none").outdone(-100.0)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    learning, writing = Learning(), kept(tmp_path)
    learning.step()
    writing.save(1, learning.parameters, learning.optimizer)
    writing.wait()
    files = sorted(p.name for p in (tmp_path / "step-00000001").iterdir())
    assert files == ["shard-00001-model-00001-of-00001.safetensors", "state.json"]
    # What would run code in the library's own format is not even opened.
    (tmp_path / "step-00000001/.metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert kept(tmp_path).restore(learning.parameters, learning.optimizer) == 1
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "damage", ["cut", "emptied", "shard gone", "mark gone", "mark of nonsense", "smaller"]
)
def test_a_damaged_checkpoint_is_one_clear_line(damage: str, tmp_path: Path) -> None:
    learning, writing = Learning(), kept(tmp_path)
    learning.step()
    writing.save(1, learning.parameters, learning.optimizer)
    writing.wait()
    (shard,) = tmp_path.glob("*/*.safetensors")
    mark = tmp_path / "step-00000001/state.json"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-40])
    elif damage == "emptied":
        shard.write_bytes(b"")
    elif damage == "shard gone":
        shard.unlink()
    elif damage == "mark gone":
        mark.unlink()
    elif damage == "mark of nonsense":
        mark.write_text(json.dumps({"run": "run"}))
    else:
        learning.parameters = dict(nn.Linear(9, 8).named_parameters())
    with pytest.raises(
        SharecapError, match=r"damaged checkpoint .*step-00000001\. remove it to go on"
    ) as error:
        kept(tmp_path).restore(learning.parameters, learning.optimizer)
    assert "\n" not in str(error.value)


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    learning, writing = Learning(), kept(tmp_path)
    learning.step()
    writing.save(1, learning.parameters, learning.optimizer)
    writing.wait()
    with pytest.raises(SharecapError, match="checkpoint of another run"):
        kept(tmp_path, run="other").restore(learning.parameters, learning.optimizer)


@pytest.mark.parametrize(
    ("moment", "step"), [("mkdir", 1), ("write", 1), ("mark", 1), ("rename", 1), ("remove", 2)]
)
def test_a_kill_in_the_middle_of_a_save_leaves_a_whole_one(moment: str, step: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.test_checkpoint", str(tmp_path), moment]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [f"step-0000000{step}"]
    learning = Learning(seed=1)
    assert kept(tmp_path).restore(learning.parameters, learning.optimizer) == step
    assert [path.name for path in tmp_path.iterdir()] == names(tmp_path)


def die_while_saving(directory: Path, moment: str) -> None:
    """Save twice; die at that moment of the second time."""
    learning, writing = Learning(), kept(directory)
    for step in (1, 2):
        learning.step()
        if step == 2:
            sys.addaudithook(lambda event, arguments: dies(event, arguments, moment))
        writing.save(step, learning.parameters, learning.optimizer)
        writing.wait()


def dies(event: str, arguments: tuple[object, ...], moment: str) -> None:
    """Kill this process when it is about to do that to the second checkpoint, or to remove the first."""
    path = str(arguments[0]) if arguments else ""
    if "/step-" not in path:
        return
    kinds = {
        "mkdir": event == "os.mkdir",
        "write": event == "open" and path.endswith(".safetensors"),
        "mark": event == "open" and "state.json" in path,
        "rename": event == "os.rename" and path.endswith("step-00000002.partial"),
        "remove": event == "shutil.rmtree" and path.endswith("step-00000001.partial"),
    }
    if kinds.get(moment):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_while_saving(Path(sys.argv[1]), sys.argv[2])
