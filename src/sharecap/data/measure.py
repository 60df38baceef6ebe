"""The length of every row in tokens and images, measured once: packs are planned from it.

Rows are cut in worker processes, and of many rows the result is kept in the cache, by what the rows are, the
tokenizer and the template. Rows that can't be cut are named with a reason: it must never lose one silently.
"""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from sharecap import chat
from sharecap.chat.tokenise import Document
from sharecap.data.documents import Cuts, digest_of
from sharecap.data.index import cache_folder, written
from sharecap.data.mixed import Mixed, rows_digest
from sharecap.data.plan import Sizes
from sharecap.data.processes import in_order
from sharecap.data.rows import RowError, Rows
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError
from sharecap.records import IMAGE_TOKEN, Conversation

FEW = 10_000
"""Up to so many rows are measured each time and kept as tokens; of more, only the sizes are kept."""

AT_ONCE = 4096
"""Rows that a process is given at once."""

ROW_REASONS = ("malformed", "wrong_role", "no_image", "no_place", "empty_answer", "no_answer", "uncuttable")
"""What can be wrong with a row whatever lies on the disk."""

CUT_REASONS = ("cut_after_an_answer", "cut_within_an_answer")
"""What was done to a row that was too long; it is trained on all the same."""

ROLES = ("user", "assistant")

NONE = Document("", np.empty(0, np.int32), np.empty(0, np.bool_), ())
"""Stands where a row can't be cut."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that can't be trained on, or not as it is, and why."""

    number: int  # of the row
    id: str
    image: str  # "" where the trouble is not an image's
    reason: str  # one word, for counting
    what: str  # for people


@dataclass(frozen=True)
class Measured:
    """What cutting all rows gave. Rows that can't be trained on have size 0."""

    sizes: Sizes
    problems: tuple[Problem, ...]
    digest: str  # over all tokens, labels and image paths
    documents: tuple[Document, ...] | None = None  # the rows themselves, where they are few


def measure(rows: Sequence[Conversation], cutter: Cuts, workers: int = 0) -> Measured:
    """Sizes of all rows. `SharecapError` if a process dies."""
    if len(rows) <= FEW:
        return gathered(over(Measuring(rows, cutter, keep=True), len(rows), workers))
    place = cache_folder() / "sizes" / key_of(rows, cutter)
    sizes, about = place.with_suffix(".npy"), place.with_suffix(".json")
    if not (about.exists() and sizes.exists()):
        found = gathered(over(Measuring(rows, cutter, keep=False), len(rows), workers))
        if any(problem.reason not in ROW_REASONS for problem in found.problems):
            return found  # once a picture is mended, its row has none
        with written(sizes) as file:
            np.save(file, np.stack([found.sizes.tokens, found.sizes.images, found.sizes.learned]))
        with written(about) as file:
            problems = [asdict(problem) for problem in found.problems]
            file.write(json.dumps({"digest": found.digest, "problems": problems}).encode())
    fields = json.loads(about.read_bytes())
    kept = tuple(Problem(**problem) for problem in fields["problems"])
    return Measured(Sizes(*np.load(sizes, mmap_mode="r")), kept, fields["digest"])


def key_of(rows: Sequence[Conversation], cutter: Cuts) -> str:
    """Digest of all that decides on lengths: the rows, the cutter with its tokenizer, the code that cuts."""
    total = hashlib.sha256(rows_digest(rows).encode() + pickle.dumps(cutter))
    for path in sorted(Path(chat.__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


@dataclass(frozen=True)
class Measuring:
    """The work of one process: a stretch of row numbers -> what was found there."""

    rows: Sequence[Conversation]
    cutter: Cuts
    keep: bool

    def __call__(self, numbers: range) -> Measured:
        problems: list[Problem] = []
        good: list[tuple[int, Conversation]] = []
        for number in numbers:
            row = row_or_problem(self.rows, number)
            if isinstance(row, Conversation):
                problem = wrong(number, row)
                if problem is None:
                    good.append((number, row))
                    continue
                row = problem
            problems.append(row)
        documents, uncut = self.cut(good)
        found = [NONE] * len(numbers)
        for (number, _), document in zip(good, documents, strict=True):
            found[number - numbers.start] = document
        problems = sorted([*problems, *uncut], key=lambda problem: problem.number)
        return Measured(
            Sizes.of(found), tuple(problems), digest_of(found), tuple(found) if self.keep else None
        )

    def cut(self, good: Sequence[tuple[int, Conversation]]) -> tuple[list[Document], list[Problem]]:
        """All at once, which is faster; in halves where one of them can't be cut."""
        try:
            documents = self.cutter.documents(row for _, row in good)
        except SharecapError as error:
            if len(good) > 1:
                (a, b), (c, d) = (self.cut(half) for half in (good[: len(good) // 2], good[len(good) // 2 :]))
                return a + c, b + d
            ((number, row),) = good
            if isinstance(error, ImageError):  # the cutter had to know a picture's size
                return [NONE], [Problem(number, row.id, str(error.where), error.reason, error.what)]
            return [NONE], [Problem(number, row.id, "", "uncuttable", error.what)]
        problems = []
        for i, (number, row) in enumerate(good):
            if not documents[i].learned[1:].any():
                problems.append(Problem(number, row.id, "", "no_answer", "no answer to learn from"))
                documents[i] = NONE
            elif documents[i].cut:
                what = f"cut to {len(documents[i])} tokens"
                problems.append(Problem(number, row.id, "", f"cut_{documents[i].cut}", what))
        return documents, problems


def row_or_problem(rows: Sequence[Conversation], number: int) -> Conversation | Problem:
    """The row, or what keeps it from being read."""
    if isinstance(rows, Mixed):
        found = row_or_problem(rows.sources[int(rows.which[number])], int(rows.rows[number]))
        return (
            found
            if isinstance(found, Conversation)
            else Problem(number, found.id, "", found.reason, found.what)
        )
    if not isinstance(rows, Rows):
        return rows[number]
    try:
        return rows.row(number)
    except RowError as error:
        return Problem(number, f"number {number} of {rows.path.name}", "", error.reason, str(error))


def wrong(number: int, row: Conversation) -> Problem | None:
    """What is wrong with the row whatever the tokenizer, by its usual names."""
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in row.turns)
    if marks != len(row.images):
        reason = "no_image" if marks > len(row.images) else "no_place"  # for its image in the text
        what = f"{marks} {IMAGE_TOKEN} in the text for {len(row.images)} images"
        return Problem(number, row.id, "" if marks > len(row.images) else row.images[0], reason, what)
    said = row.turns if not row.turns or row.turns[0].role in ROLES else row.turns[1:]  # without a system's
    if not said or any(turn.role != ROLES[i % 2] for i, turn in enumerate(said)):
        return Problem(number, row.id, "", "wrong_role", "turns must alternate, a human's first")
    if any(not turn.text.strip() for turn in row.turns if turn.role == "assistant"):
        return Problem(number, row.id, "", "empty_answer", "empty answer")
    return None


def over(work: Callable[[range], T], rows: int, workers: int) -> Iterator[T]:
    """`work` over all row numbers in stretches, in order."""
    stretches = (range(at, min(at + AT_ONCE, rows)) for at in range(0, rows, AT_ONCE))
    return in_order(work, stretches, workers)


def gathered(parts: Iterator[Measured]) -> Measured:
    """The whole from its stretches."""
    found = list(parts)
    if not found:
        return Measured(Sizes.of([]), (), "", ())
    columns = ([getattr(part.sizes, name) for part in found] for name in ("tokens", "images", "learned"))
    digest = hashlib.sha256("".join(part.digest for part in found).encode()).hexdigest()
    kept = [part.documents for part in found]
    documents = tuple(d for part in kept if part is not None for d in part) if None not in kept else None
    problems = tuple(problem for part in found for problem in part.problems)
    return Measured(Sizes(*(np.concatenate(column) for column in columns)), problems, digest, documents)
