"""The process that looks at images, so that a decoder which hangs or dies takes nothing else with it.

Reads candidates from its standard input, each a JSON line of its fields, with the image's bytes behind it
where they were read already; answers each with one JSON line, in order. It ends when its input does.
"""

import json
import mmap
import operator
import os
import signal
import sys
from dataclasses import fields
from typing import Any, BinaryIO

from sharecap.images.candidate import Candidate, Failure, Known
from sharecap.images.examine import Knows, examine
from sharecap.records import Image

DIGEST_BYTES = 32
VALUES = {kind: operator.attrgetter(*(f.name for f in fields(kind))) for kind in (Image, Known, Failure)}
DATA = [field.name for field in fields(Candidate)].index("data")


def main() -> None:
    """Until the end of input. A line with "begin" says which digests are known from then on."""
    tasks, answers = sys.stdin.buffer, _answers()
    _say(answers, {"ready": os.getpid()})
    knows: Knows = _nothing
    max_pixels = alarm_s = 0
    while line := tasks.readline():
        task = json.loads(line)
        if isinstance(task, dict):
            begin = task["begin"]
            knows, max_pixels, alarm_s = known_in(begin["known"]), begin["max_pixels"], begin["alarm_s"]
            continue
        signal.alarm(alarm_s)
        if task[DATA] is not None:
            task[DATA] = tasks.read(task[DATA])
        found = examine(Candidate(*task), knows, max_pixels)
        signal.alarm(0)
        _say(answers, {type(found).__name__: VALUES[type(found)](found)})


def _answers() -> BinaryIO:
    """The pipe to the parent; what a library prints goes nowhere instead."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def _say(answers: BinaryIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


def _nothing(_: bytes) -> bool:
    return False


def known_in(path: str) -> Knows:
    """Looks digests up in a file of sorted raw sha256, without reading it into memory; "" is none."""
    if not path or not os.path.getsize(path):
        return _nothing
    with open(path, "rb") as file:
        digests = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    count = len(digests) // DIGEST_BYTES

    def knows(digest: bytes) -> bool:
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            found = digests[middle * DIGEST_BYTES : (middle + 1) * DIGEST_BYTES]
            if found == digest:
                return True
            low, high = (middle + 1, high) if found < digest else (low, middle)
        return False

    return knows


if __name__ == "__main__":
    main()
