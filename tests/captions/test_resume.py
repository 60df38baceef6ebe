"""Killed or interrupted at any moment, a run loses no answer, and asks again only what was in flight."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sharecap.captions.layer import layers, read_layer

from .conftest import make_dataset
from .server import Teacher

IMAGES, AT_ONCE = 80, 4


def command(dataset: Path, teacher: Teacher, *more: str) -> list[str]:
    words = ["caption", str(dataset), "--teacher", f"{teacher.url}#model", "--layer", "one", "--json"]
    at_once = ["--concurrency", str(AT_ONCE), "--price", "10,20"]
    return [sys.executable, "-m", "sharecap.cli", *words, *at_once, *more]


def start(dataset: Path, teacher: Teacher) -> "subprocess.Popen[str]":
    line = command(dataset, teacher)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("answers", [1, 17, 60])
def test_kill_9_loses_no_caption_and_repeats_only_what_was_in_flight(
    tmp_path: Path, teacher: Teacher, answers: int
) -> None:
    dataset = make_dataset(tmp_path, IMAGES)
    teacher.script = lambda _: "slow=0.01"
    victim: list[int] = []

    def kill(running: Teacher) -> None:
        if running.answered.total() == answers and victim:
            os.kill(victim.pop(), signal.SIGKILL)

    teacher.on_answer = kill
    with start(dataset, teacher) as process:
        victim.append(process.pid)
        assert process.wait() == -signal.SIGKILL
    assert layers(dataset) == []
    before = len(teacher.log)

    done = subprocess.run(command(dataset, teacher), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    asked = teacher.counts()
    assert len(asked) == IMAGES
    assert max(asked.values()) <= 2
    repeated = sum(count - 1 for count in asked.values())
    assert repeated <= AT_ONCE
    assert (report["captions"], report["failures"]) == (IMAGES, {})
    assert report["requests"] == len(teacher.log) - before
    # What the ledger says was in flight covers all that was asked twice.
    assert repeated <= report["in_flight"] <= AT_ONCE
    assert report["in_flight_usd"] > 0
    assert len({caption.image_id for caption in read_layer(dataset, "one")}) == IMAGES


def test_ctrl_c_takes_in_what_is_on_its_way_and_exits_130(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, IMAGES)
    teacher.script = lambda _: "slow=0.05"
    victim: list[int] = []

    def interrupt(running: Teacher) -> None:
        if running.answered.total() == 10 and victim:
            os.kill(victim.pop(), signal.SIGINT)

    teacher.on_answer = interrupt
    with start(dataset, teacher) as process:
        victim.append(process.pid)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("sharecap: interrupted; every answer so far is kept")
    assert "Traceback" not in err
    assert layers(dataset) == []

    done = subprocess.run(command(dataset, teacher), capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (report["captions"], report["in_flight"]) == (IMAGES, 0)
    assert set(teacher.counts().values()) == {1}


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 8)
    teacher.script = lambda _: "slow=60"
    with start(dataset, teacher) as process:
        assert process.stderr is not None
        while not teacher.log:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    teacher.script = lambda _: "ok"
    done = subprocess.run(command(dataset, teacher), capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (report["captions"], report["in_flight"]) == (8, AT_ONCE)
