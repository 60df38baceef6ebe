"""Chains of work for test_side_by_side: they must lie in a module that a fresh process can import."""

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from sharecap.errors import Stopped, UsageError
from sharecap.images.decode import ImageError
from sharecap.scenes.side_by_side import side_by_side


def note(path: Path) -> None:
    """Write this process's id."""
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(str(os.getpid()))
    partial_path.replace(path)


def threads(path: Path) -> None:
    """Write what torch was told about threads."""
    import torch

    path.write_text(f"{torch.get_num_threads()} {os.environ['OMP_WAIT_POLICY']}")


def wait_for_ever(path: Path) -> None:
    """Write this process's id, say so, and do nothing until killed."""
    note(path)
    print("waiting\n", end="", flush=True)  # in one piece, also where Python was told not to buffer
    threading.Event().wait()


def refuse_picture() -> None:
    """Fail with an error whose class takes arguments of its own."""
    raise ImageError("empty", "empty file", "a.png", todo="remove it")


def stop() -> None:
    """Fail with an error that has its own exit code."""
    raise Stopped("the budget is spent", todo="raise it")


def misuse() -> None:
    """Fail as a wrong command does."""
    raise UsageError("no such thing")


def show_stderr(path: Path) -> None:
    """Write whether stderr is a terminal, and a line to it."""
    print("a line", file=sys.stderr)
    path.write_text(str(sys.stderr.isatty()))


def die() -> None:
    """End as the kernel ends a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    chosen = {"wait": wait_for_ever, "show": show_stderr}[sys.argv[1]]
    side_by_side([partial(chosen, Path(path)) for path in sys.argv[2:]])
