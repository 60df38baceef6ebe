"""Work side by side: all of it is done, or the first error comes back and nothing goes on behind it."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from sharecap.errors import Interrupted, SharecapError, Stopped, UsageError
from sharecap.scenes.side_by_side import Chain, alone, side_by_side
from tests.scenes import chains

ROOT = Path(__file__).parents[2]


def has_ended(pid: int) -> bool:
    """Whether the process ends; waits for it (a child of a child can't be waited for otherwise)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([descriptor], [], [], 60)
    os.close(descriptor)
    return bool(ready)


def test_chains_run_in_processes_of_their_own_with_one_core_each(tmp_path: Path) -> None:
    side_by_side([partial(chains.note, tmp_path / "a"), partial(chains.threads, tmp_path / "b")])
    assert int((tmp_path / "a").read_text()) != os.getpid()
    assert (tmp_path / "b").read_text() == "1 PASSIVE"


@pytest.mark.parametrize(
    ("chain", "kind", "says"),
    [
        (chains.refuse_picture, SharecapError, "empty file: a.png. remove it"),
        (chains.stop, Stopped, "the budget is spent. raise it"),
        (chains.misuse, UsageError, "no such thing"),
        (chains.die, SharecapError, r"a worker died \(-9\). run the same command again"),
    ],
)
def test_the_first_error_comes_back_and_the_others_are_stopped(
    tmp_path: Path, chain: Chain, kind: type[SharecapError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        side_by_side([partial(chains.wait_for_ever, tmp_path / "pid"), chain])
    if (tmp_path / "pid").exists():
        assert has_ended(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    pids = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, "-m", "tests.scenes.chains", "wait", *map(str, pids)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes, text=True) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline() for _ in pids]
        parent.send_signal(number)  # before anything can fail: leaving the block waits for its end
        _, errors = parent.communicate()
    assert said == ["waiting\n"] * len(pids)
    if number == signal.SIGINT:
        assert Interrupted.__name__ in errors
    assert all(has_ended(int(pid.read_text())) for pid in pids)


def test_workers_write_plain_lines_to_a_terminal(tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.scenes.chains", "show", str(tmp_path / "a")]
    subprocess.run(command, cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    assert os.read(terminal, 100) == b"a line\r\n"
    os.close(terminal)
    assert (tmp_path / "a").read_text() == "False"


def test_one_at_a_time_works_on_a_directory_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    with alone(tmp_path / "stage"):
        another = os.open(tmp_path / "stage", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(another)
    assert list((tmp_path / "stage").iterdir()) == []
