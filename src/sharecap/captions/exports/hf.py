"""Parquet shards that `datasets.load_dataset(DIRECTORY)` reads as they are, with decoded images.

The image's bytes go in unchanged. Memory holds one row group: at most 100 rows or 32 MB.
"""

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap.captions.exports.parts import TEXTS, Sink, bytes_of, extension, texts_of
from sharecap.captions.exports.register import Export, File
from sharecap.captions.exports.shards import SHARD_MB, Shards, taken_out
from sharecap.records import Caption, Image

GROUP_ROWS, GROUP_BYTES = 100, 32_000_000
"""A row group is written at so many rows or bytes; viewers read one group to show one row."""

_FEATURES = {"image": {"_type": "Image"}, **{name: {"dtype": "string", "_type": "Value"} for name in TEXTS}}
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((name, pa.string()) for name in TEXTS),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
"""`huggingface` tells the `datasets` library that the struct is an image."""

_COMPRESSION = {"image.bytes": "NONE", **dict.fromkeys(["image.path", *TEXTS], "ZSTD")}


@dataclass(frozen=True)
class HuggingFace:
    """Export as a directory that holds data/train-NNNNN.parquet."""

    out: Path
    shard_mb: int = SHARD_MB
    form = "hf"

    def options(self) -> dict[str, Any]:
        """What the register keeps."""
        return {"shard_mb": self.shard_mb}

    def open(self) -> "HuggingFaceWriter":
        """Check the place and begin."""
        return HuggingFaceWriter(Shards(self.out, "data/train-{:05}.parquet"), self.shard_mb * 1_000_000)


class HuggingFaceWriter:
    """See `Writer`."""

    def __init__(self, shards: Shards, shard_bytes: int) -> None:
        self.shards, self.shard_bytes = shards, shard_bytes
        self.name, self.sink, self.table = "", None, None  # type: str, Sink | None, Any
        self.rows, self.size = 0, 0
        self.pending: list[dict[str, Any]] = []

    def put(self, image: Image, caption: Caption) -> None:
        data = bytes_of(image)
        pixels = {"bytes": data, "path": f"{image.id}.{extension(image)}"}
        self.pending.append({"image": pixels, **texts_of(image, caption)})
        self.size += len(data)
        if len(self.pending) >= GROUP_ROWS or self.size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self.pending:
            return
        if self.sink is None:
            self.name, self.sink = self.shards.next()
            self.table, self.rows = _writer(self.sink), 0
        self.table.write_table(pa.Table.from_pylist(self.pending, schema=SCHEMA))
        self.rows += len(self.pending)
        self.pending, self.size = [], 0
        if self.sink.size >= self.shard_bytes:
            self._close()

    def _close(self) -> None:
        if self.sink is not None:
            self.table.close()
            self.sink.close()
            self.shards.files.append(self.sink.file(self.name, self.rows))
            self.sink = None

    def finish(self) -> list[File]:
        self._flush()
        if self.sink is None and not self.shards.files:  # no row at all is still a table
            self.name, self.sink = self.shards.next()
            self.table, self.rows = _writer(self.sink), 0
        self._close()
        return self.shards.finish()

    def abandon(self) -> None:
        if self.sink is not None:
            self.sink.abandon()
        self.shards.abandon()


def _writer(sink: Sink) -> Any:
    return pq.ParquetWriter(
        sink,
        SCHEMA,
        compression=_COMPRESSION,
        use_dictionary=["source", "captioner", "prompt_id", "licence"],
        write_statistics=["image_id", "source"],
    )


def without(export: Export, ids: Set[str]) -> tuple[Export, int]:
    """The export with the rows of `ids` taken out of the shards that hold them, and how many there were."""
    listed = pa.array(sorted(ids), pa.string())

    def copy(path: Path, sink: Sink) -> int:
        rows = 0
        with pq.ParquetFile(path) as old, _writer(sink) as table:
            for group in range(old.num_row_groups):
                kept = old.read_row_group(group)
                kept = kept.filter(pc.invert(pc.is_in(kept.column("image_id"), value_set=listed)))
                if kept.num_rows:
                    table.write_table(kept.cast(SCHEMA))
                rows += kept.num_rows
        return rows

    def hits_in(path: Path) -> int:
        with pq.ParquetFile(path) as table:
            column = (batch.column(0) for batch in table.iter_batches(columns=["image_id"]))
            return sum(pc.is_in(piece, value_set=listed).true_count for piece in column)

    return taken_out(export, hits_in, copy)
