"""Tar shards as WebDataset reads them: for each image its bytes, `.txt` (the caption) and `.json` (the rest).

Members carry no time, user or order of ours, so equal captions give equal shards. One image is in memory.
"""

import json
import tarfile
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.captions.exports.parts import Sink, bytes_of, extension, plain_text, texts_of
from sharecap.captions.exports.register import Export, File
from sharecap.captions.exports.shards import SHARD_MB, Shards, taken_out
from sharecap.errors import SharecapError
from sharecap.records import Caption, Image

END = bytes(2 * tarfile.BLOCKSIZE)
"""What closes a tar."""


@dataclass(frozen=True)
class WebDataset:
    """Export as a directory of shard-NNNNNN.tar. A sample's key is the image's id."""

    out: Path
    shard_mb: int = SHARD_MB
    form = "webdataset"

    def options(self) -> dict[str, Any]:
        """What the register keeps."""
        return {"shard_mb": self.shard_mb}

    def open(self) -> "WebDatasetWriter":
        """Check the place and begin."""
        return WebDatasetWriter(Shards(self.out, "shard-{:06}.tar"), self.shard_mb * 1_000_000)


class WebDatasetWriter:
    """See `Writer`."""

    def __init__(self, shards: Shards, shard_bytes: int) -> None:
        self.shards, self.shard_bytes = shards, shard_bytes
        self.name, self.rows = "", 0
        self.sink: Sink | None = None

    def put(self, image: Image, caption: Caption) -> None:
        data = bytes_of(image)
        if self.sink is None:
            self.name, self.sink = self.shards.next()
            self.rows = 0
        about = {**texts_of(image, caption), "width": image.width, "height": image.height}
        _add(self.sink, f"{image.id}.{extension(image)}", data)
        _add(self.sink, f"{image.id}.txt", plain_text(caption.text).encode())
        _add(self.sink, f"{image.id}.json", json.dumps(about).encode())
        self.rows += 1
        if self.sink.size >= self.shard_bytes:
            self._close()

    def _close(self) -> None:
        if self.sink is not None:
            self.sink.write(END)
            self.sink.close()
            self.shards.files.append(self.sink.file(self.name, self.rows))
            self.sink = None

    def finish(self) -> list[File]:
        self._close()
        return self.shards.finish()

    def abandon(self) -> None:
        if self.sink is not None:
            self.sink.abandon()
        self.shards.abandon()


def _add(sink: Sink, name: str, data: bytes) -> None:
    """One member. `TarFile` would keep an object for each until the shard is closed."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    sink.write(member.tobuf(tarfile.USTAR_FORMAT))
    sink.write(data)
    sink.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def without(export: Export, ids: Set[str]) -> tuple[Export, int]:
    """The export with the samples of `ids` taken out of their shards, and how many there were."""

    def copy(path: Path, sink: Sink) -> int:
        kept = set()
        for member, data in _members(path):
            key = member.partition(".")[0]
            if key not in ids:
                _add(sink, member, data)
                kept.add(key)
        sink.write(END)
        return len(kept)

    def hits_in(path: Path) -> int:
        return len({key for name in _names(path) if (key := name.partition(".")[0]) in ids})

    return taken_out(export, hits_in, copy)


def _names(path: Path) -> Iterator[str]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                yield member.name
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every header
    except tarfile.TarError as error:
        raise SharecapError(f"damaged tar ({error})", where=path, todo="export it again") from None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            found = tar.extractfile(member)
            if found is not None:
                yield member.name, found.read()
            tar.members.clear()  # type: ignore[attr-defined]
