"""Work in a few processes, results in order: cutting, looking and loading all go through here.

The work goes to each process once, its tasks are small. A process that dies is one clear error, and one whose
parent was killed ends by itself. It must never let an error in a process pass for an end of the tasks.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks that each process has, the one that it is at included."""


def nothing() -> None:
    """Where a process has nothing to set up."""


def in_order(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    begin: Callable[[], None] = nothing,
) -> Generator[Result, None, None]:
    """`work(task)` for each task, in order; here if `workers` is 0. Each process calls `begin` once.

    Tasks are taken as they are needed. A `SharecapError` comes out where its task's result is due, and
    `SharecapError` is what comes of a process that died.
    """
    if not workers:
        yield from map(work, tasks)
        return
    waiting: deque[Future[Any]] = deque()
    pool = ProcessPoolExecutor(workers, initializer=prepare, initargs=(work, begin))
    try:
        for task in tasks:
            waiting.append(pool.submit(do, task))
            if len(waiting) == AHEAD * workers:
                yield opened(waiting.popleft().result())
        while waiting:
            yield opened(waiting.popleft().result())
    except BrokenProcessPool:
        todo = "it may have lacked memory (/dev/shm too): use fewer processes"
        raise SharecapError("a process that reads rows and pictures died", todo=todo) from None
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]
"""Of this process: given once, since rows and tokenizer are much more than a task."""


def prepare(work: Callable[[Any], Any], begin: Callable[[], None]) -> None:
    """Make a new process ready."""
    global _work  # noqa: PLW0603
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process is one core's work
    threading.Thread(target=end_with_parent, daemon=True).start()
    begin()


def end_with_parent() -> None:
    """A parent that is killed can't end its processes, and they would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def do(task: Any) -> Any:
    """The work, or its error in a form that survives the way: its class takes more than one argument."""
    try:
        return _work(task)
    except SharecapError as error:
        return Trouble(error)


class Trouble:
    """An error on its way to the parent."""

    def __init__(self, error: SharecapError) -> None:
        self.what, self.where, self.todo = error.what, error.where, error.todo
        self.reason = error.reason if isinstance(error, ImageError) else None

    def error(self) -> SharecapError:
        """The error as it was."""
        if self.reason is not None:
            return ImageError(self.reason, self.what, self.where, self.todo)
        return SharecapError(self.what, where=self.where, todo=self.todo)


def opened(result: Any) -> Any:
    """The result; an error is raised."""
    if isinstance(result, Trouble):
        raise result.error()
    return result
