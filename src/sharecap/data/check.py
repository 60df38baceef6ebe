"""Rows and pictures looked at before training: what can't be trained on is listed, with a reason.

Nothing is left out on the quiet: training goes on without such rows only when it is told so, and says how
many. It must never let a missing picture stop a run that has computed for hours.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharecap.data.documents import Cuts, Documents
from sharecap.data.index import written
from sharecap.data.measure import CUT_REASONS, ROW_REASONS, Measured, Problem, measure, over, row_or_problem
from sharecap.data.plan import Sizes
from sharecap.errors import SharecapError
from sharecap.images.candidate import Candidate, Failure
from sharecap.images.crew import Crew
from sharecap.records import Conversation

QUARANTINE = "quarantine.jsonl"

IMAGE_REASONS = (
    *("missing", "unreadable", "not_a_file", "empty"),
    *("too_large", "not_an_image", "truncated", "damaged", "timeout", "crashed"),  # only found by decoding
)
TOO_LONG, TOO_MANY = "too_long", "too_many_images"
REASONS = (*ROW_REASONS, TOO_LONG, TOO_MANY, *IMAGE_REASONS)
"""Why a row can't be trained on."""


@dataclass(frozen=True)
class Prepared:
    """Rows that can be trained on, and what became of the others."""

    documents: Documents
    dropped: Mapping[str, int]  # reason -> rows that were left out
    cut: Mapping[str, int]  # `CUT_REASONS` -> rows that were shortened, by a cutter that does so


def prepare(
    rows: Sequence[Conversation],
    cutter: Cuts,
    *,
    room: int,
    quarantine: Path,
    pack_images: int | None = None,
    drop: Collection[str] = (),
    decode: bool = False,
    workers: int = 0,
) -> Prepared:
    """Check all rows and measure them: what training starts with.

    Rows of more than `room` tokens or `pack_images` images, bad rows, and rows whose pictures are missing or
    empty (with `decode` also those that can't be decoded) are listed in the file `quarantine`, and so are
    those that were cut for their length, which stay.
    `SharecapError` if there is one whose reason is not in `drop`; `REASONS` has all. `workers` processes
    help; 0 is none.
    """
    measured = measure(rows, cutter, workers)
    problems = [
        *measured.problems,
        *too_large(rows, measured.sizes, room, pack_images),
        *picture_problems(rows, decode, workers),
    ]
    cut = [problem for problem in problems if problem.reason in CUT_REASONS]
    first: dict[int, Problem] = {}
    for problem in sorted(problems, key=lambda problem: problem.number):
        if problem.reason not in CUT_REASONS:
            first.setdefault(problem.number, problem)
    counts = Counter(problem.reason for problem in first.values())
    list_in(quarantine, [*first.values(), *cut])
    if refused := [problem for problem in first.values() if problem.reason not in drop]:
        what = (
            f"{len(refused):,} of {len(rows):,} rows can't be trained on ({in_words(refused)}), "
            f"first row {refused[0].id}: {refused[0].what}"
        )
        todo = f"mend them, or have their kind left out; all are listed in {quarantine}"
        raise SharecapError(what, where=refused[0].image or None, todo=todo)
    kept = np.array([i for i in range(len(rows)) if i not in first], dtype=np.int64)
    if not len(kept):
        raise SharecapError("no rows to train on", todo="check the rows' file")
    shortened = Counter(problem.reason for problem in cut if problem.number not in first)
    return Prepared(documents_of(rows, cutter, measured, kept), counts, shortened)


def documents_of(
    rows: Sequence[Conversation], cutter: Cuts, measured: Measured, kept: NDArray[np.int64]
) -> Documents:
    """The rows of these numbers as documents."""
    everything = Documents(rows, cutter, measured.sizes, measured.digest, measured.documents)
    return everything if len(kept) == len(rows) else everything.some(kept)


def too_large(
    rows: Sequence[Conversation], sizes: Sizes, room: int, pack_images: int | None
) -> Iterator[Problem]:
    """The rows that fit in no pack."""
    for number in np.flatnonzero(sizes.tokens > room).tolist():
        what = f"{sizes.tokens[number]} tokens, room for {room}"
        yield Problem(number, rows[number].id, "", TOO_LONG, what)
    for number in np.flatnonzero(sizes.images > pack_images).tolist() if pack_images is not None else ():
        what = f"{sizes.images[number]} images, room for {pack_images}"
        yield Problem(number, rows[number].id, "", TOO_MANY, what)


def list_in(quarantine: Path, problems: Collection[Problem]) -> None:
    """Write the list, a row a line; no list where there is nothing to list."""
    if not problems:
        quarantine.unlink(missing_ok=True)
        return
    with written(quarantine) as file:
        for x in problems:
            fields = {"row": x.id, "number": x.number, "image": x.image, "reason": x.reason, "what": x.what}
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def in_words(problems: Collection[Problem]) -> str:
    """Counts by reason, the largest first."""
    counts = Counter(problem.reason for problem in problems)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def picture_problems(rows: Sequence[Conversation], decode: bool, workers: int) -> list[Problem]:
    """One problem for each row with a picture that can't be read; the files are looked at anew each time."""
    broken = undecodable(rows, workers) if decode else {}
    return [problem for part in over(Looking(rows, broken), len(rows), workers) for problem in part]


@dataclass(frozen=True)
class Looking:
    """The work of one process: a stretch of row numbers -> rows whose pictures are not there."""

    rows: Sequence[Conversation]
    broken: Mapping[str, tuple[str, str]]  # file -> reason and words, known from decoding
    seen: dict[str, tuple[str, str] | None] = field(default_factory=dict)  # of the stretch

    def __call__(self, numbers: range) -> list[Problem]:
        self.seen.clear()
        found = []
        for number in numbers:
            row = row_or_problem(self.rows, number)
            if not isinstance(row, Conversation):
                continue  # it has a problem already
            for image in row.images:
                if why := self.look(image):
                    found.append(Problem(number, row.id, image, *why))
                    break
        return found

    def look(self, image: str) -> tuple[str, str] | None:
        """What is wrong with the file, without reading it."""
        if image in self.broken:
            return self.broken[image]
        if image not in self.seen:
            self.seen[image] = missing(image)
        return self.seen[image]


def missing(image: str) -> tuple[str, str] | None:
    """Reason and words if there is no file with something in it."""
    try:
        status = os.stat(image)
    except FileNotFoundError:
        return "missing", "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return "unreadable", f"cannot read ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(status.st_mode):
        return "not_a_file", "not a regular file"
    return None if status.st_size else ("empty", "file of zero bytes")


def undecodable(rows: Sequence[Conversation], workers: int) -> dict[str, tuple[str, str]]:
    """Files that are no whole pictures, by decoding each; a decoder that hangs or dies costs its file."""
    crew = Crew(cores=workers) if workers else Crew()
    found = {}
    for result in crew.results(Candidate(image, "") for image in pictures(rows)):
        if isinstance(result, Failure):
            found[result.path] = (result.reason, result.what)
    return found


def pictures(rows: Sequence[Conversation]) -> Iterator[str]:
    """Each picture of the rows once. Hashes of their names are held, not the names."""
    seen: set[int] = set()
    for number in range(len(rows)):
        row = row_or_problem(rows, number)
        for image in row.images if isinstance(row, Conversation) else ():
            if hash(image) not in seen:
                seen.add(hash(image))
                yield image
