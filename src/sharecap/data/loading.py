"""Steps ready for the model: rows chosen, packed and turned into tensors while the step before is computed.

What a step holds depends on seed and step number alone; the thread that prepares it only saves time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sharecap.chat.tokenise import Document
from sharecap.data.packing import pack, rows_of_step, split

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
    """Steps `first` to `last` - 1 in order. Errors of a picture come out where its step is due."""

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
                    pixels(made.images) if made.images else None,
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
