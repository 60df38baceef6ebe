"""Steps ready for the model: rows chosen, packed and turned into tensors while the step before is computed.

What a step holds depends on seed and step number alone; the thread that prepares it only saves time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sharecap.chat.tokenise import Document
from sharecap.data.packing import pack, rows_of_step, split
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError

AHEAD = 2
"""Steps that are prepared before they are asked for."""


@dataclass(frozen=True, slots=True)
class PackTensors:
    """A pack as tensors: T tokens, S learned positions."""

    ids: Tensor  # [T]
    lengths: tuple[int, ...]
    predict: Tensor  # [S]
    targets: Tensor  # [S]
    pixels: Tensor | None  # [images, 3, height, width]


@dataclass(frozen=True, slots=True)
class Step:
    """All that one optimiser step learns from."""

    number: int
    packs: tuple[PackTensors, ...]
    tokens: int
    learned: int  # tokens that the loss is over


def steps(
    documents: Sequence[Document],
    pixels: Callable[[Sequence[str]], Tensor],
    *,
    batch_rows: int,
    pack_tokens: int,
    seed: int,
    first: int,
    last: int,
) -> Iterator[Step]:
    """Steps `first` to `last` - 1 in order. `ImageError` names a picture that can't be read and its row."""

    def prepare(number: int) -> Step:
        chosen = [documents[i] for i in rows_of_step(len(documents), batch_rows, seed, number)]
        packs = []
        for members in split([len(d) for d in chosen], pack_tokens):
            made = pack([chosen[i] for i in members])
            packs.append(
                PackTensors(
                    torch.from_numpy(made.ids),
                    made.lengths,
                    torch.from_numpy(made.predict),
                    torch.from_numpy(made.targets),
                    read(pixels, made.images, chosen) if made.images else None,
                )
            )
        tokens, learned = sum(len(p.ids) for p in packs), sum(len(p.targets) for p in packs)
        return Step(number, tuple(packs), tokens, learned)

    with ThreadPoolExecutor(1, thread_name_prefix="loading") as thread:
        waiting: list[Future[Step]] = []
        try:
            for number in range(first, last + AHEAD):
                if number < last:
                    waiting.append(thread.submit(prepare, number))
                if number >= first + AHEAD:
                    yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def read(
    pixels: Callable[[Sequence[str]], Tensor], images: Sequence[str], documents: Sequence[Document]
) -> Tensor:
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
