"""Work in a few processes: cutting, looking, loading and writing captions all go through here.

The work goes to each process once, its tasks are small. A process that dies is one clear error, and one whose
parent was killed ends by itself. It must never let an error in a process pass for an end of the tasks.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, Self, TypeVar

from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks that each process has, the one that it is at included."""


def nothing() -> None:
    """Where a process has nothing to set up."""


class Processes(Generic[Task, Result]):
    """So many processes that do one kind of work; each calls `begin` once. Closed with a `with`.

    `fresh` ones know nothing of what this process has imported: who computes with torch in them needs that,
    since its threads don't survive a fork.
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        workers: int,
        begin: Callable[[], None] = nothing,
        *,
        fresh: bool = False,
    ) -> None:
        context = multiprocessing.get_context("spawn" if fresh else None)
        self.pool = ProcessPoolExecutor(workers, context, initializer=prepare, initargs=(work, begin))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def submit(self, task: Task) -> Future[Any]:
        """Have it done; `result` waits for it."""
        # Ctrl-C goes to all processes of a terminal; whether work is given up is for the parent to say. What
        # is blocked here is blocked in those that are started here, from before their first line on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.pool.submit(do, task)
        except BrokenProcessPool:
            raise dead() from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def result(self, future: Future[Any]) -> Result:
        """What came of a task; its `SharecapError`, or one that says that the process has died."""
        try:
            done = future.result()
        except BrokenProcessPool:
            raise dead() from None
        if isinstance(done, Trouble):
            raise done.error()
        return done  # type: ignore[no-any-return]


def dead() -> SharecapError:
    todo = "it may have lacked memory (/dev/shm too): use fewer processes"
    return SharecapError("a worker process died", todo=todo)


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
    with Processes(work, workers, begin) as processes:
        for task in tasks:
            waiting.append(processes.submit(task))
            if len(waiting) == AHEAD * workers:
                yield processes.result(waiting.popleft())
        while waiting:
            yield processes.result(waiting.popleft())


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
