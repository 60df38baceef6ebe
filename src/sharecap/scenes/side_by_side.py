"""Runs chains of work side by side, each in a process of its own with one core.

A chain that fails stops the others and hands its error up; when this process dies, so do its children.
"""

import fcntl
import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from sharecap.errors import Interrupted, SharecapError, Stopped, UsageError

Chain = Callable[[], object]


def side_by_side(chains: Sequence[Chain]) -> None:
    """Run the chains (picklable callables) and return when all have ended well.

    Raises the `SharecapError` of the first chain that failed, `Interrupted` on Ctrl-C.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit torch's threads
    children = []
    lifelines = []
    for chain in chains:
        theirs, ours = context.Pipe(duplex=False)
        answer, told = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(chain, theirs, told))
        child.start()
        theirs.close()
        told.close()
        lifelines.append(ours)
        children.append((child, answer))
    try:
        waiting = {answer: child for child, answer in children}
        while waiting:
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                child = waiting.pop(ready)
                try:
                    error = ready.recv()
                except EOFError:
                    child.join()
                    todo = "run the same command again to go on"
                    raise SharecapError(f"a worker died ({child.exitcode})", todo=todo) from None
                if error is not None:
                    raise error
        for child, _ in children:  # they are done: let them clean up after themselves
            child.join()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", todo="run the same command again to go on") from None
    finally:
        for ours in lifelines:
            ours.close()
        for child, _ in children:
            child.join()


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Wait until no other process works on the directory (made if missing), and keep others waiting.

    The lock is on the directory itself, leaves no file, and ends with its process however that ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


class Lines(io.TextIOWrapper):
    """A worker's stderr, never a terminal: live lines of several processes would overwrite each other."""

    def isatty(self) -> bool:
        return False


def _child(chain: Chain, lifeline: Connection, told: Connection) -> None:
    def follow_parent() -> None:
        try:
            lifeline.recv()
        except EOFError:  # the parent has ended, or wants us to
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    sys.stderr = Lines(sys.stderr.buffer, line_buffering=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Where cores are shared, OpenMP threads that spin while they wait cost five to ten times the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch

        torch.set_num_threads(1)
        chain()
        told.send(None)
    except SharecapError as error:
        told.send(portable(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # the parent has it too, and speaks for both
        os._exit(130)


def portable(error: SharecapError) -> SharecapError:
    """The error as the class that fixes its exit code: one with arguments of its own can't be unpickled."""
    basic = (UsageError, Stopped, Interrupted, SharecapError)
    kind = next(kind for kind in type(error).__mro__ if kind in basic)
    found: SharecapError = kind(error.what, where=error.where, todo=error.todo)
    return found
