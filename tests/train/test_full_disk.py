"""A disk that runs full while training: one clear error, and nothing half-written that passes for whole."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sharecap.errors import SharecapError
from sharecap.images.dataset import disk_errors
from sharecap.model import folder
from sharecap.train import checkpoint
from sharecap.train.parallel import joined
from tests.model.tiny import tiny_llava


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if subprocess.run(line, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_checkpoint_that_does_not_fit_is_not_there(small_disk: Path) -> None:
    model = nn.Linear(512, 512)
    optimizer = torch.optim.AdamW(model.parameters())
    learning = dict(model.named_parameters())
    for parameter in learning.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = checkpoint.Checkpoints(small_disk / "state", "run", 1, joined("cpu"))
    kept.save(1, learning, optimizer)
    with pytest.raises(SharecapError, match="no space left"), disk_errors(small_disk):
        kept.wait()
    assert checkpoint.finished(small_disk / "state") == {}


def test_a_model_that_does_not_fit_is_one_clear_error(small_disk: Path, tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path / "parts")
    (small_disk / "filler").write_bytes(bytes(550_000))
    with pytest.raises(SharecapError, match="no space left"), disk_errors(small_disk):
        folder.save(llava, small_disk / "model")
    with pytest.raises(SharecapError, match="not a model"):
        folder.load(small_disk / "model")
