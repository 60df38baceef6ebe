"""Rows as documents, cut into tokens when a pack needs them: memory does not grow with the rows.

It must never give a document of another length than the plan was made from.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from sharecap.chat.tokenise import Document
from sharecap.data.mixed import some_of
from sharecap.data.plan import Sizes
from sharecap.errors import SharecapError
from sharecap.records import Conversation


class Cuts(Protocol):
    """What cuts rows into tokens: `sharecap.chat.tokenise.Cutter`."""

    def documents(self, conversations: Iterable[Conversation]) -> list[Document]:
        """Each conversation as tokens."""
        ...


class Documents(Sequence[Document]):
    """`rows` through `cutter`, with the sizes that were measured before (`sharecap.data.check.prepare`).

    Pickled it takes what `rows` and `cutter` take; rows that lie in files are opened again by each process.
    `cut` holds documents that are cut already, for few rows.
    """

    def __init__(
        self,
        rows: Sequence[Conversation],
        cutter: Cuts,
        sizes: Sizes,
        digest: str,
        cut: Sequence[Document] | None = None,
    ) -> None:
        assert len(rows) == len(sizes)
        self.rows, self.cutter, self.sizes, self.digest, self.cut = rows, cutter, sizes, digest, cut

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """[rows] tokens of each."""
        return self.sizes.tokens

    def some(self, numbers: NDArray[np.int64]) -> "Documents":
        """Only those of these numbers, in their order."""
        digest = hashlib.sha256(self.digest.encode() + numbers.astype(np.int64).tobytes()).hexdigest()
        cut = None if self.cut is None else [self.cut[i] for i in numbers]
        return Documents(some_of(self.rows, numbers), self.cutter, self.sizes.at(numbers), digest, cut)

    @overload
    def __getitem__(self, number: int) -> Document: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Document]: ...
    def __getitem__(self, number: int | slice) -> Document | Sequence[Document]:
        if isinstance(number, slice):
            return self.take(range(len(self))[number])
        return self.take([range(len(self))[number]])[0]

    def take(self, numbers: Sequence[int]) -> list[Document]:
        """These rows' documents, cut in one go; `SharecapError` if one has changed since it was measured."""
        if self.cut is not None:
            return [self.cut[i] for i in numbers]
        found = self.cutter.documents(self.rows[i] for i in numbers)
        for i, document in zip(numbers, found, strict=True):
            if len(document) != self.sizes.tokens[i] or len(document.images) != self.sizes.images[i]:
                todo = "leave files alone while they are trained on, and start again"
                raise SharecapError("the row has changed", where=f"row {document.id}", todo=todo)
        return found


def digest_of(documents: Iterable[Document]) -> str:
    """sha256 over tokens, what is learned of them, and images."""
    total = hashlib.sha256()
    for document in documents:
        total.update(document.ids.tobytes() + document.learned.tobytes())
        total.update("\0".join(document.images).encode() + b"\n")
    return total.hexdigest()
