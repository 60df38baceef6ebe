"""Steps ready for the model: rows chosen, packed and turned into tensors while the step before is computed.

What a step holds depends on seed and step number alone; the thread or the processes that prepare it only save
time, and a run that goes on at any step replays none before it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, tee
from typing import Any

import torch
from torch import Tensor

from sharecap.chat.tokenise import Document
from sharecap.data.documents import Documents
from sharecap.data.packing import pack
from sharecap.data.plan import Batching, Plan, Sizes
from sharecap.data.processes import in_order
from sharecap.images.decode import ImageError

AHEAD = 2
"""Steps that the thread prepares before they are asked for."""

Pixels = Callable[[Sequence[str]], Tensor]
"""Files of pictures -> [n, 3, height, width]; `ImageError` names one that can't be read."""


@dataclass(frozen=True, slots=True)
class PackTensors:
    """A pack as tensors: T tokens, S learned positions."""

    ids: Tensor  # [T]
    lengths: tuple[int, ...]  # of the documents, padding included where batches are padded
    predict: Tensor  # [S]
    targets: Tensor  # [S]
    pixels: Any  # [images, 3, height, width], or what the model's family takes; None: no images


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
class Packs:
    """Row numbers -> pack; the part that may run in another process."""

    documents: Sequence[Document]
    pixels: Pixels
    padded: bool

    def __call__(self, numbers: Sequence[int]) -> PackTensors:
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
        return tuple(work(numbers) for numbers in task)

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
    """The packs of each step, made by `workers` processes."""
    tasks, again = tee(tasks)
    with closing(in_order(work, chain.from_iterable(tasks), workers, one_thread)) as made:
        for task in again:
            yield tuple(islice(made, len(task)))


def one_thread() -> None:
    """A process is one core's work; threads that the parent had don't exist in its children."""
    torch.set_num_threads(1)


def read(pixels: Pixels, images: Sequence[str], documents: Sequence[Document]) -> Tensor:
    """The pack's pictures; an error says which row wanted the picture."""
    try:
        return pixels(images)
    except ImageError as error:
        row = next((d.id for d in documents if error.where in d.images), "unknown")
        raise ImageError(error.reason, f"{error.what} (row {row})", error.where, error.todo) from None
