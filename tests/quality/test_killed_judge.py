"""A judgement that is killed: what was answered is kept, and only what was out is asked again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from sharecap.quality.verdicts import read_verdicts
from sharecap.scenes.judge import true_verdict

from .judged_world import World

AT_ONCE = 4


def answered(log: Path) -> Counter[str]:
    """How often each request was answered."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(json.loads(line)["request"] for line in lines if '"status": 200' in line)


def test_a_killed_judgement_goes_on_and_asks_at_most_what_was_out_again(tmp_path: Path) -> None:
    world, log = World(tmp_path, 6), tmp_path / "log.jsonl"
    world.caption("teacher", 0.1)
    with world.judge(log=log, latency_ms=20) as judge:
        words = ["judge", str(world.dataset), "teacher", "--judge", judge, "--concurrency", str(AT_ONCE)]
        command = [sys.executable, "-m", "sharecap.cli", *words, "--json"]
        for goal in (3, 40):  # while captions are split, and while claims are checked
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while answered(log).total() < goal and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert child.poll() is None, "it came to its end before the kill"
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            assert not (world.dataset / "scores").exists()
        done = subprocess.run(command, capture_output=True, check=True)
    report, times = json.loads(done.stdout), answered(log)
    verdicts = list(read_verdicts(Path(report["path"])))
    assert report["failures"] == {}
    assert [one.verdict for one in verdicts] == [
        true_verdict(v.claim, world.scene(v.image)) for v in verdicts
    ]
    assert len(times) == 6 + len({(one.image, one.claim) for one in verdicts})
    assert sum(n - 1 for n in times.values()) <= 2 * AT_ONCE
    assert report["requests"] < len(times) - 30
