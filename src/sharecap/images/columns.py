"""Lists as columns of a Parquet table.

Arrow's own way from a list asks whether it is one of pandas', and where pandas is installed imports it to
ask: 0.4 s and 40 MiB in a command that needs none of it. What is made here is the same to the bit.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain

import pyarrow as pa  # type: ignore[import-untyped]


def texts(values: Sequence[str]) -> pa.Array:
    """A column of strings; `OverflowError` if their UTF-8 takes 2 GiB in all."""
    encoded = [value.encode() for value in values]
    return _column(pa.string(), len(values), None, _ends(encoded), b"".join(encoded))


def text_lists(values: Sequence[Sequence[str]]) -> pa.Array:
    """A column of lists of strings."""
    items = texts(list(chain.from_iterable(values)))
    return _column(pa.list_(pa.string()), len(values), None, _ends(values), children=[items])


def integers(values: Sequence[int]) -> pa.Array:
    """A column of 64-bit integers."""
    return _column(pa.int64(), len(values), None, array("q", values))


def reals(values: Sequence[float | None]) -> pa.Array:
    """A column of 64-bit floats; None is no value."""
    filled = array("d", [0.0 if value is None else value for value in values])
    if None not in values:
        return _column(pa.float64(), len(values), None, filled)
    bits = "".join("01"[value is not None] for value in reversed(values))  # the first one's is the lowest
    there = int(bits, 2).to_bytes((len(bits) + 7) // 8, "little")
    return _column(pa.float64(), len(values), there, filled)


def _ends(values: Sequence[Sequence[str] | bytes]) -> "array[int]":
    return array("i", accumulate(map(len, values), initial=0))


def _column(
    of: pa.DataType,
    length: int,
    *buffers: "array[int] | array[float] | bytes | None",
    children: Sequence[pa.Array] = (),
) -> pa.Array:
    held = [buffer if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(of, length, held, children=list(children) or None)
