"""A training run in a process of its own, for a test to kill.

python -m tests.train.killed START ROWS OUT [STOP_AT]: prints each finished step, waits at STOP_AT.
"""

import os
import sys
from pathlib import Path
from typing import Any

from sharecap.data.rows import read_rows
from sharecap.model.trainable import Rule
from sharecap.train.config import TrainConfig
from sharecap.train.loop import train

CONFIG = TrainConfig(
    template="vicuna_v1",
    rules=(Rule("vision", 1e-3, from_block=1), Rule("projector", 3e-3), Rule("language", 2e-3)),
    batch_rows=4,
    steps=20,
    pack_tokens=200,
    weight_decay=0.01,
    checkpoint_every=10,
    device="cpu",
)


def main(start: str, rows: str, out: str, stop_at: str = "0") -> None:
    def progress(line: dict[str, Any], _total: int) -> None:
        if line["step"] == int(stop_at):
            wait_for(Path(out) / "state/step-00000010")
        print(line["step"], flush=True)
        if line["step"] == int(stop_at):
            sys.stdin.readline()

    train(CONFIG, Path(start), read_rows(Path(rows)), Path(out), progress)


def wait_for(path: Path) -> None:
    """Until it is there: checkpoints are written in the background."""
    while not path.exists():
        os.sched_yield()


if __name__ == "__main__":
    main(*sys.argv[1:])
