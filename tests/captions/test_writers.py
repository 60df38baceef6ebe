"""Captions written by several processes are those of one, in their order."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from sharecap.captions.teachers import writers
from sharecap.captions.teachers.writers import Writers
from sharecap.errors import SharecapError
from sharecap.model.folder import save
from sharecap.model.generation import Decoding, Generator, Query

from ..model.tiny import picture, tiny_llava

QUERIES = [Query((picture(i),), f"Describe it. {i % 3}") for i in range(9)]
FEW = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save(tiny_llava(place), place / "captioner")
    return place / "captioner"


@pytest.fixture
def two(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    """Two writers of two captions each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(writers, "ROWS", 2)
    made = Writers(model, 5)
    assert (made.count, made.rows) == (2, 2)
    yield made
    made.close()
    torch.set_num_threads(threads)


def test_what_two_processes_write_is_what_one_writes_and_one_that_dies_is_an_error(
    two: Writers,
) -> None:
    expected = Generator.load(two.directory, 2).generate(QUERIES, FEW)
    assert two.generate(QUERIES[:2], FEW) == expected[:2]
    assert two.processes is None  # not for so few
    assert two.generate(QUERIES, FEW) == expected
    assert two.generate(QUERIES[:1], FEW) == expected[:1]
    *others, long = two.generate([*QUERIES, Query((), "very " * 600)], FEW)
    assert others == expected
    assert isinstance(long, SharecapError)
    assert "tokens where the model has" in str(long)
    assert two.generate(QUERIES, FEW) == expected
    assert two.processes is not None
    for process in two.processes.pool._processes.values():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with pytest.raises(SharecapError, match="a worker process died"):
        two.generate(QUERIES, FEW)


def test_there_are_no_more_of_them_than_cores_rows_and_memory_do_for(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert Writers(model, 16).count == 1
    assert (Writers(model, 100).count, Writers(model, 100).rows) == (3, 33)
    assert Writers(model, 1000).count == 8
    monkeypatch.setattr(writers, "room_for", lambda _: 2)
    assert Writers(model, 1000).count == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (Writers(model, 1000).count, Writers(model, 1000).rows) == (1, 1000)


def test_a_model_has_room_as_often_as_it_fits_half_of_the_memory(model: Path, tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(memory // 7)
    assert writers.room_for(tmp_path) == 3
    assert writers.room_for(model) > 1000
