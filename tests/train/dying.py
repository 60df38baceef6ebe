"""A recipe for tests of the real command under torchrun: `sharecap train tests/train/dying.py:recipe`.

With DIE_AT=N in the environment the last rank is killed in the step after that one, unless torchrun has
started it again.
"""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

from sharecap.recipes.recipe import Recipe, Source, Stage
from sharecap.train.guards import Watch
from tests.train.killed import CONFIG, wait_for

SHORT = dataclasses.replace(CONFIG, steps=6, checkpoint_every=3, eval_rows=3, eval_every=3)


def recipe() -> Recipe:
    """One short stage from the model in `start`, which `--set parts=` names."""
    if "DIE_AT" in os.environ and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        dies_after(int(os.environ["DIE_AT"]), Path(os.environ["OUT"]))
    return Recipe("dying", Path("start"), (Stage("sft", SHORT, (Source("rows.json"),)),))


def dies_after(step: int, out: Path) -> None:
    """Let the last rank die in the step after this one, when the checkpoint before is written."""
    look = Watch.look

    def look_and_die(self: Watch, number: int, *rest: Any) -> None:
        look(self, number, *rest)
        if number > step and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            wait_for(out / f"sft/state/step-{step // 3 * 3:08d}")
            os.kill(os.getpid(), signal.SIGKILL)

    Watch.look = look_and_die  # type: ignore[method-assign]
