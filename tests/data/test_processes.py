"""Processes give results in order, hand errors on as they are, and leave nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sharecap.data.processes import AHEAD, Processes, in_order
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError


def square(number: int) -> int:
    if number == 7:
        raise ImageError("damaged", "broken", "7.png", "mend it")
    if number == 9:
        raise ZeroDivisionError
    return number * number


def test_results_come_in_order_and_tasks_are_taken_as_they_are_needed() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(100, 200):
            taken.append(number)
            yield number

    made = in_order(square, tasks(), 2)
    assert [next(made) for _ in range(3)] == [10000, 10201, 10404]
    assert len(taken) <= 3 + 2 * AHEAD
    assert list(made) == list(in_order(square, range(103, 200), 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_where_they_are_due_and_keep_what_they_say(workers: int) -> None:
    made = in_order(square, range(5, 9), workers)
    assert [next(made), next(made)] == [25, 36]
    with pytest.raises(ImageError, match=r"broken: 7\.png\. mend it") as caught:
        next(made)
    assert caught.value.reason == "damaged"
    with pytest.raises(ZeroDivisionError):
        list(in_order(square, [9], workers))


def test_a_process_that_dies_is_one_clear_error() -> None:
    with pytest.raises(SharecapError, match="a worker process died"):
        list(in_order(os._exit, [1, 2, 3], 2))


def own_id(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("fresh", [False, True])
def test_ctrl_c_is_for_the_parent_to_act_on(fresh: bool) -> None:
    with Processes(own_id, 1, fresh=fresh) as processes:
        process = processes.result(processes.submit(0))
        os.kill(process, signal.SIGINT)  # as a terminal sends it to all of the group
        assert processes.result(processes.submit(0)) == process
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


CHILD = """
import sys, time
from sharecap.data.processes import in_order
for done in in_order(str, iter(lambda: 1, 2), 2):
    print(done, flush=True)
    sys.stdin.readline()
"""


def test_a_killed_parent_leaves_no_processes_behind() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        child.kill()
        # The pipe has an end only when every process that holds it is gone.
        assert child.communicate(timeout=120) == (b"", None)
