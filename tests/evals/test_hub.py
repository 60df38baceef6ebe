"""Benchmarks from a hub: written as their readers want them, or one clear line and nothing left behind."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError, UsageError
from sharecap.evals.hub import SETS, get
from sharecap.evals.suite import find_tasks
from tests.evals.small import pictures

ROWS: dict[str, list[dict[str, Any]]] = {
    "mme": [
        {"question_id": "count/1.png", "category": "count", "question": "One? Please", "answer": "Yes"},
        {"question_id": "count/1.png", "category": "count", "question": "Two? Please", "answer": "No"},
    ],
    "mmbench": [
        {"index": 7, "question": "Which?", "hint": "nan", "A": "x", "B": "y", "C": None, "D": "nan"}
        | {"answer": "B", "category": "c", "L2-category": "l", "split": "dev"}
    ],
    "mmstar": [{"index": 0, "question": "Which?\nOptions: A: x, B: y", "answer": "A"}],
}


@pytest.mark.parametrize("name", SETS)
def test_what_a_hub_has_is_written_as_the_readers_want_it(tmp_path: Path, name: str) -> None:
    (image,) = pictures(tmp_path / "drawn", 1)
    rows = [{**row, "image": {"bytes": image.read_bytes(), "path": None}} for row in ROWS[name]]
    assert get(name, tmp_path / "b", lambda _: rows) == tmp_path / "b" / name
    ((task,), _) = find_tasks(tmp_path / "b")
    assert (task.name, len(task.samples)) == (name, len(rows))
    one = task.samples[0].images[0]
    assert (one if isinstance(one, bytes) else one.read_bytes()) == image.read_bytes()
    with pytest.raises(UsageError, match="there already"):
        get(name, tmp_path / "b", lambda _: rows)


ELSEWHERE = {**ROWS["mme"][0], "category": "../x", "image": {"bytes": b""}}


@pytest.mark.parametrize("rows", [[{"question": "?"}], [{"image": None}], [], [ELSEWHERE]])
@pytest.mark.parametrize("name", SETS)
def test_rows_of_another_make_leave_nothing_behind(tmp_path: Path, name: str, rows: list[Any]) -> None:
    with pytest.raises(SharecapError) as e:
        get(name, tmp_path / "b", lambda _: rows)
    assert "\n" not in str(e.value)
    assert list((tmp_path / "b").iterdir()) == []


def test_without_a_hub_and_for_what_no_hub_has_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach\n the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for name, words in (
        ("mme", r"cannot be fetched from the hub \(Couldn't reach the hub\): lmms-lab/MME. copy the"),
        ("gqa", "no hub has the files of gqa as they are. its files are given out at cs.stanford.edu"),
        ("vqa", "unknown benchmark 'vqa'. choose from mme, mmbench, mmstar"),
    ):
        done = CliRunner().invoke(app, ["benchmarks", "get", name, str(tmp_path / "b")])
        assert isinstance(done.exception, SharecapError)
        assert re.search(words, str(done.exception))
