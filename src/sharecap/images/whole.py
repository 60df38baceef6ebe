"""Is there data for every pixel? Decoders fill up what a file with a proper end lacks, and tell nobody.

A PNG is told exactly. Of a JPEG only the least that its blocks can take is known without decoding it anew:
one that holds less is told, one that was cut in the middle and closed again is not. It must never refuse a
whole file.
"""

import struct
import zlib
from collections.abc import Iterator
from math import ceil

from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Interlaced PNG: first column, first row, step in columns and in rows of each pass."""

_PIECE = 65_536
_IN_SCAN = frozenset((0x00, *range(0xD0, 0xD8)))
"""What stands behind a 255 that ends no scan: it is stuffed, or a restart."""


def lacking(data: bytes, image: Image.Image) -> str:
    """What the file lacks, in words, "" if nothing is known to be missing. `image` is its decoded picture."""
    if image.format == "PNG":
        return _png(data, image)
    return _jpeg(data) if image.format in ("JPEG", "MPO") else ""


def _png(data: bytes, image: Image.Image) -> str:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    # Missing rows are zeros, the last one first. Most pictures have another one, and need no second look.
    if not interlaced and any(image.crop((0, image.height - 1, image.width, image.height)).tobytes()):
        return ""
    bits = depth * _CHANNELS.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in passes:
        columns, rows = ceil((width - left) / across), ceil((height - top) / down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + ceil(columns * bits / 8))
    stream, got = zlib.decompressobj(), 0
    for chunk in _image_data(data):
        while chunk and got < wanted and not stream.eof:
            got += len(stream.decompress(chunk, _PIECE))
            chunk = stream.unconsumed_tail  # noqa: PLW2901 - what is left of it
    return f"data for {got:,} of {wanted:,} bytes of pixels" if got < wanted else ""


def _image_data(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + size]
        at += size + 12


def _jpeg(data: bytes) -> str:
    """Each block of 8 x 8 takes at least the shortest code of its tables."""
    at, frame, progressive = 2, b"", False
    shortest: dict[int, int] = {}  # table -> bits of its shortest code
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # a filler, or no segment behind it
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segment, at = data[at + 4 : end], end
        if marker == 0xC4:
            shortest |= _tables(segment)
        elif marker in (0xC0, 0xC1, 0xC2):
            frame, progressive = segment, marker == 0xC2
        elif marker == 0xDA:
            wanted = _fewest_bits(frame, segment, shortest, progressive)
            got = 8 * _scan_bytes(data, at, ceil(wanted / 8))
            return f"{got:,} bits for blocks that take {wanted:,} at least" if got < wanted else ""
        elif 0xC3 <= marker <= 0xCF and marker != 0xCC:  # lossless or arithmetic: other rules
            return ""
    return ""


def _scan_bytes(data: bytes, at: int, enough: int) -> int:
    """Bytes of the scan that begins at `at`; looks no further than `enough`, a fraction of most scans."""
    end = min(len(data), at + enough)
    marker = data.find(b"\xff", at, end)
    while marker >= 0:
        behind = marker + 1
        while data[behind : behind + 1] == b"\xff":  # fillers
            behind += 1
        if behind < len(data) and data[behind] not in _IN_SCAN:
            return marker - at
        marker = data.find(b"\xff", behind, end)
    return end - at


def _tables(segment: bytes) -> dict[int, int]:
    found, at = dict[int, int](), 0
    while at + 17 <= len(segment):
        counts = segment[at + 1 : at + 17]
        found[segment[at]] = next((bits for bits, count in enumerate(counts, 1) if count), 1)
        at += 17 + sum(counts)
    return found


def _fewest_bits(frame: bytes, scan: bytes, shortest: dict[int, int], progressive: bool) -> int:
    """What the first scan takes at least; 0 where that can't be said."""
    _, height, width, parts = struct.unpack_from(">BHHB", frame)
    sizes = {frame[at]: (frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(6, 6 + 3 * parts, 3)}
    most_across, most_down = max(a for a, _ in sizes.values()), max(d for _, d in sizes.values())
    chosen = {scan[at]: scan[at + 1] for at in range(1, 1 + 2 * scan[0], 2)}
    if progressive and scan[1 + 2 * scan[0]] != 0:  # it does not begin with the blocks' means
        return 0
    bits = 0
    for part, tables in chosen.items():
        across, down = sizes[part]
        if len(chosen) == 1:
            blocks = ceil(ceil(width * across / most_across) / 8) * ceil(ceil(height * down / most_down) / 8)
        else:
            blocks = ceil(width / 8 / most_across) * ceil(height / 8 / most_down) * across * down
        mean, rest = shortest.get(tables >> 4, 1), shortest.get(0x10 | tables & 15, 1)
        bits += blocks * (mean if progressive else mean + rest)
    return bits
