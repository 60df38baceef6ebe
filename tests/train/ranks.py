"""A training run as torchrun starts it, for a test that looks at what it leaves.

torchrun --nproc-per-node 2 -m tests.train.ranks START ROWS OUT [field=JSON...] [die_at=N]: `die_at` ends the
last rank with a kill after that step, unless torchrun has started it again.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sharecap.data.rows import read_rows
from sharecap.train.guards import Watch
from sharecap.train.loop import train
from tests.train.killed import CONFIG, wait_for


def main(start: str, rows: str, out: str, *changes: str) -> None:
    fields = {name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)}
    die_at = fields.pop("die_at", None)
    if die_at is not None and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        dies_after(die_at, Path(out))
    train(dataclasses.replace(CONFIG, **fields), Path(start), read_rows(Path(rows)), Path(out))


def dies_after(step: int, out: Path) -> None:
    """Let the last rank die in the step after this one, when the checkpoint before is written."""
    look = Watch.look

    def look_and_die(self: Watch, number: int, *rest: Any) -> None:
        look(self, number, *rest)
        if number > step and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            wait_for(out / f"state/step-{step // 3 * 3:08d}")
            os.kill(os.getpid(), signal.SIGKILL)

    Watch.look = look_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
