"""DATASET/exports.jsonl: every export that sharecap wrote of a dataset, so that a takedown finds them all.

One line per export, replaced atomically. An export stands in it before its first byte is written, marked as
unfinished: what a kill leaves behind is known too.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError

REGISTER = "exports.jsonl"


@dataclass(frozen=True, slots=True)
class File:
    """One finished file of an export."""

    name: str  # relative to the export's directory; for an export of one file, its name
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Export:
    """One export, as the register keeps it."""

    form: str  # "llava", "hf", "webdataset", "sidecar" or "card"
    layer: str
    layer_digest: str
    out: str  # absolute path; of the dataset itself for what lies beside the images
    options: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> images of the layer without a row
    files: list[File] = field(default_factory=list)
    written: str = ""  # when, ISO 8601 in UTC; "" while it is being written, or if that was cut short

    @property
    def place(self) -> tuple[str, str, str]:
        """What there is one of: a file or directory, or the captions of one layer beside their images."""
        return (self.form, self.out, self.layer if self.form == "sidecar" else "")


def now() -> str:
    """The time that an export is marked with when it is finished."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def exports_of(dataset: Path) -> list[Export]:
    """All exports, in the order in which they were written."""
    path = dataset / REGISTER
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        return [Export(**{**row, "files": [File(**one) for one in row["files"]]}) for row in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        todo = "restore it from a copy: takedowns find exports through it"
        raise SharecapError(f"damaged register of exports ({error})", where=path, todo=todo) from None


def record(dataset: Path, export: Export) -> None:
    """Put `export` into the register. A finished one replaces what stood there for the same place; an
    unfinished one stands beside it. The caller holds the dataset.
    """
    others = [e for e in exports_of(dataset) if e.place != export.place or (e.written and not export.written)]
    write(dataset, [*others, export])


def forget_unfinished(dataset: Path, export: Export) -> None:
    """Take the mark of an export back that ended without leaving anything."""
    write(dataset, [e for e in exports_of(dataset) if e.written or e.place != export.place])


def write(dataset: Path, exports: Iterable[Export]) -> None:
    """Replace the register."""
    lines = (json.dumps(asdict(export), ensure_ascii=False) + "\n" for export in exports)
    write_atomically(dataset / REGISTER, "".join(lines))
