"""Steps ready for the model: rows chosen, packed and turned into tensors while the step before is computed.

What a step holds depends on seed and step number alone; the thread or the processes that prepare it only save
time, and a run that goes on at any step replays none before it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharecap.chat.tokenise import Document
from sharecap.data.documents import Documents
from sharecap.data.packing import pack
from sharecap.data.plan import Batching, Plan, Sizes
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError

AHEAD = 2
"""Steps that the thread prepares before they are asked for; packs that each process does."""

Pixels = Callable[[Sequence[str]], Tensor]
"""Files of pictures -> [n, 3, height, width]; `ImageError` names one that can't be read."""


@dataclass(frozen=True, slots=True)
class PackTensors:
    """A pack as tensors: T tokens, S learned positions."""

    ids: Tensor  # [T]
    lengths: tuple[int, ...]  # of the documents, padding included where batches are padded
    predict: Tensor  # [S]
    targets: Tensor  # [S]
    pixels: Tensor | None  # [images, 3, height, width]


@dataclass(frozen=True, slots=True)
class Step:
    """All that one optimiser step learns from. `packs` are this rank's; the counts are of all ranks'."""

    number: int
    packs: tuple[PackTensors, ...]  # may be empty where a step has fewer rows than there are ranks
    tokens: int  # without padding
    learned: int  # tokens that the loss is over
    rows: int


def steps(
    documents: Sequence[Document],
    pixels: Pixels,
    *,
    pack_tokens: int,
    seed: int,
    first: int,
    last: int,
    batch_rows: int | None = None,
    batch_tokens: int | None = None,
    pack_images: int | None = None,
    grouped: bool = False,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Step]:
    """Steps `first` to `last` - 1 in order, as `rank` of `world` sees them. See `Batching` for the rest.

    A rank without packs must still take part in whatever the ranks do together: a pass over nothing with
    zero gradients. With `workers` processes, `documents` and `pixels` go to each of them: give `Documents`
    over files and pixels that keep nothing. 0 is a thread, best where there are few cores or few rows.
    `ImageError` names a picture that can't be read and its row; `SharecapError` if a process dies.
    """
    batching = Batching(batch_rows, batch_tokens, pack_tokens, pack_images, grouped)
    plan = plan_of(documents, batching, seed)
    work = Packs(documents, pixels, grouped)
    load = in_processes if workers else in_thread
    numbers = range(first, last)
    tasks = (plan.packs(number, rank, world) for number in numbers)
    for number, packs in zip(numbers, load(work, tasks, workers), strict=True):
        sizes = plan.sizes.at(plan.rows(number))
        yield Step(number, packs, int(sizes.tokens.sum()), int(sizes.learned.sum()), len(sizes))


def plan_of(documents: Sequence[Document], batching: Batching, seed: int) -> Plan:
    """The plan that `steps` follows, to count steps with."""
    sizes = documents.sizes if isinstance(documents, Documents) else Sizes.of(documents)
    return Plan(sizes, batching, seed)


@dataclass(frozen=True)
class Trouble:
    """An error on its way out of a worker process; errors with more than one argument don't survive it."""

    what: str
    where: str | None
    todo: str | None
    reason: str | None  # of an `ImageError`

    @classmethod
    def of(cls, error: SharecapError) -> "Trouble":
        """What to carry."""
        reason = error.reason if isinstance(error, ImageError) else None
        return cls(error.what, error.where, error.todo, reason)

    def error(self) -> SharecapError:
        """The error as it was."""
        if self.reason is not None:
            return ImageError(self.reason, self.what, self.where, self.todo)
        return SharecapError(self.what, where=self.where, todo=self.todo)


@dataclass(frozen=True)
class Packs(Dataset["PackTensors | Trouble"]):
    """Row numbers -> pack; the part that may run in another process."""

    documents: Sequence[Document]
    pixels: Pixels
    padded: bool

    def __getitem__(self, numbers: Sequence[int]) -> PackTensors | Trouble:
        try:
            return self.make(numbers)
        except SharecapError as error:
            return Trouble.of(error)

    def make(self, numbers: Sequence[int]) -> PackTensors:
        """The pack of these rows."""
        if isinstance(self.documents, Documents):
            chosen = self.documents.take(numbers)
        else:
            chosen = [self.documents[i] for i in numbers]
        made = pack(chosen, self.padded)
        return PackTensors(
            torch.from_numpy(made.ids),
            made.lengths,
            torch.from_numpy(made.predict),
            torch.from_numpy(made.targets),
            read(self.pixels, made.images, chosen) if made.images else None,
        )


Tasks = Iterator[list[tuple[int, ...]]]
"""The row numbers of each pack of each step."""


def in_thread(work: Packs, tasks: Tasks, _: int) -> Iterator[tuple[PackTensors, ...]]:
    """The packs of each step, made by one thread that is `AHEAD` steps ahead."""

    def prepare(task: Sequence[Sequence[int]]) -> tuple[PackTensors, ...]:
        return tuple(work.make(numbers) for numbers in task)

    with ThreadPoolExecutor(1, thread_name_prefix="loading") as thread:
        waiting: deque[Future[tuple[PackTensors, ...]]] = deque()
        try:
            for task in tasks:
                waiting.append(thread.submit(prepare, task))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_processes(work: Packs, tasks: Tasks, workers: int) -> Iterator[tuple[PackTensors, ...]]:
    """The packs of each step, made by `workers` processes; they come in the order of the tasks."""
    counts: deque[int] = deque()  # packs of the steps that were handed out

    def handed_out() -> Iterator[tuple[int, ...]]:
        for task in tasks:
            counts.append(len(task))
            yield from task

    loader = DataLoader(
        work,
        batch_size=None,
        sampler=handed_out(),
        num_workers=workers,
        prefetch_factor=AHEAD,
        worker_init_fn=alone,
        generator=torch.Generator(),  # by default it would draw from the run's own randomness
    )
    made = iter(loader)
    more = True
    while more or counts:
        packs: list[PackTensors] = []
        while not counts or len(packs) < counts[0]:
            try:
                found = next(made)
            except StopIteration:
                more = False
                break
            except RuntimeError as error:
                raise died(error) from None
            if isinstance(found, Trouble):
                raise found.error()
            packs.append(found)
        if counts:
            assert len(packs) == counts[0]
            counts.popleft()
            yield tuple(packs)


def alone(_: int) -> None:
    """A worker is one core's work."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def died(error: RuntimeError) -> Exception:
    """What the loader says when a process is gone, in one line; other errors stay as they are."""
    if not str(error).startswith("DataLoader worker"):
        return error
    what = f"a process that loads rows died ({str(error).splitlines()[0].strip()})"
    todo = "it may have lacked memory, or /dev/shm is too small: use fewer loading processes"
    return SharecapError(what, todo=todo)


def read(pixels: Pixels, images: Sequence[str], documents: Sequence[Document]) -> Tensor:
    """The pack's pictures; an error says which row wanted the picture."""
    try:
        return pixels(images)
    except ImageError as error:
        row = next((d.id for d in documents if error.where in d.images), "unknown")
        raise ImageError(error.reason, f"{error.what} (row {row})", error.where, error.todo) from None


def check_files(documents: Sequence[Document]) -> None:
    """Raise if a picture's file is missing or empty, before time is spent: a look, no decoding."""
    seen: set[str] = set()
    bad: list[tuple[str, str, str]] = []
    for document in documents:
        for image in document.images:
            if image in seen:
                continue
            seen.add(image)
            try:
                why = "" if os.stat(image).st_size else "file of zero bytes"
            except OSError as error:
                why = (error.strerror or "cannot be read").lower()
            if why:
                bad.append((document.id, image, why))
    if bad:
        row, image, why = bad[0]
        todo = "restore the files or remove their rows"
        what = f"{len(bad)} of {len(seen)} pictures can't be read, first that of row {row} ({why})"
        raise SharecapError(what, where=image, todo=todo)
