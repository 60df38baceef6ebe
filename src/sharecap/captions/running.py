"""DATASET/runs/LAYER.json: what a captioning run set out to do, and how it ended, for who watches it.

The ledger knows every request, but not the budget, nor which gate closed. A watcher must never be needed:
nothing reads these files but the page.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError

RUNS = "runs"


@dataclass(frozen=True)
class Running:
    """One run of one layer; the last one, if there were several."""

    layer: str
    captioner: str
    prompts: str  # start of its prompts' ids: "pack@version/"
    images: int  # of the catalog
    settled: int  # before this run
    budget_usd: float | None
    started: float  # seconds since 1970
    process: Annotated[int, Field(lt=2**31)] = 0
    ended: float | None = None
    outcome: str = ""  # "done", or what stopped it


@contextmanager
def noted(dataset: Path, run: Running) -> Iterator[None]:
    """Say that the run is on, and then how it ended; a kill leaves it as on, with a process that is gone."""
    path = dataset / RUNS / f"{run.layer}.json"
    path.parent.mkdir(exist_ok=True)
    facts: dict[str, Any] = asdict(run) | {"process": os.getpid()}
    write_atomically(path, json.dumps(facts))
    outcome = "done"
    try:
        yield
    except SharecapError as error:
        outcome = str(error)
        raise
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        with suppress(OSError):  # what ended the run counts, and on a full disk that is what it says already
            write_atomically(path, json.dumps(facts | {"ended": time.time(), "outcome": outcome}))


_RUNNING = TypeAdapter(Running)


def runs(dataset: Path) -> list[Running]:
    """The runs that were noted, the newest first. A file that can't be read is passed over."""
    found = []
    for path in (dataset / RUNS).glob("*.json"):
        try:
            found.append(_RUNNING.validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda run: -run.started)


def alive(run: Running) -> bool:
    """The run has not ended, and its process is there (on this machine)."""
    if run.ended is not None or run.process <= 0:
        return False
    try:
        os.kill(run.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
