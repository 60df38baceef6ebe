"""A teacher that answers, and a dataset of small pictures."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharecap.cli import main
from sharecap.images.add import add

from .server import Teacher, serving

Typed = Callable[..., tuple[int, str, str]]
"""The words after `sharecap` in, (exit code, stdout, stderr) out."""


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sharecap", *map(str, words)])
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        else:
            code = 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teacher]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as running:
        yield running


def make_dataset(folder: Path, images: int) -> Path:
    """A dataset of `images` pictures of source `coco` that lie beside it."""
    pictures = folder / "pictures" / "coco"
    pictures.mkdir(parents=True)
    for number in range(images):
        levels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(pictures / f"{number:04}.png")
    add([folder / "pictures"], folder / "dataset")
    return folder / "dataset"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path, 12)
