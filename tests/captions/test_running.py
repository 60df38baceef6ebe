"""What a captioning run says of itself to who watches it: that it is on, its budget, and how it ended."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.captions.price import Price
from sharecap.captions.run import run
from sharecap.captions.running import Running, alive, noted, runs
from sharecap.errors import Stopped

from .conftest import make_dataset
from .server import Teacher


def test_a_run_says_how_it_ended(dataset: Path, teacher: Teacher) -> None:
    run(dataset, f"{teacher.url}#m", "sharegpt4v", "words", price=Price(1.0, 1.0), budget_usd=9.0)
    (found,) = runs(dataset)
    assert (found.layer, found.captioner, found.images) == ("words", "m", 12)
    assert (found.budget_usd, found.outcome, alive(found)) == (9.0, "done", False)
    assert found.prompts.startswith("sharegpt4v@")
    assert found.started <= (found.ended or 0) <= time.time()


def test_a_run_that_the_budget_stopped_says_so(dataset: Path, teacher: Teacher) -> None:
    with pytest.raises(Stopped):
        run(dataset, f"{teacher.url}#m", "sharegpt4v", "words", price=Price(1e3, 1e3), budget_usd=1e-6)
    (found,) = runs(dataset)
    assert "budget" in found.outcome
    assert not alive(found)


def test_a_run_that_was_killed_is_not_taken_for_one_that_goes_on(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    about = Running("words", "m", "p@1/", 1, 0, None, time.time())
    with noted(dataset, about):
        (now,) = runs(dataset)
        assert alive(now)
        assert now.process == os.getpid()
        assert not alive(replace(now, process=gone.pid))
    (dataset / "runs" / "torn.json").write_text('{"layer": ')
    assert [one.layer for one in runs(dataset)] == ["words"]
