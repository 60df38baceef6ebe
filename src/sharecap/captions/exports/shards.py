"""A directory of numbered shards, whole or not there: written beside its place, renamed into it at the end.

A directory that exists already is never touched, except to take rows out of single shards (takedown).
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharecap.artifact import partial_of
from sharecap.captions.exports.parts import Sink
from sharecap.captions.exports.register import Export, File
from sharecap.errors import UsageError

SHARD_MB = 500
"""Default size of a shard, in millions of bytes."""


@dataclass
class Shards:
    """The shards of one export. `pattern` names them by number, with folders if need be."""

    out: Path
    pattern: str  # e.g. "data/train-{:05}.parquet"
    files: list[File] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.out.is_symlink() or (self.out.exists() and not self.out.is_dir()):
            raise UsageError("this is no directory", where=self.out, todo="give another --out")
        if self.out.exists() and any(self.out.iterdir()):
            todo = "remove it, or give an empty or new directory with --out"
            raise UsageError("the directory is not empty", where=self.out, todo=todo)
        self.place = partial_of(self.out)
        if self.place.exists():
            shutil.rmtree(self.place)  # what a kill left; the name is ours
        (self.place / self.pattern).parent.mkdir(parents=True)

    def next(self) -> tuple[str, Sink]:
        """Name and file of the next shard."""
        name = self.pattern.format(len(self.files))
        return name, Sink(self.place / name)

    def finish(self) -> list[File]:
        """Put the directory in its place."""
        os.replace(self.place, self.out)
        return self.files

    def abandon(self) -> None:
        """Remove what was begun."""
        shutil.rmtree(self.place, ignore_errors=True)


def rewritten(out: Path, file: File, copy: Callable[[Path, Sink], int]) -> File | None:
    """Replace one shard by what `copy(old, new) -> rows` makes of it; None if nothing is left of it."""
    path = out / file.name
    sink = Sink(partial_of(path))
    try:
        rows = copy(path, sink)
        sink.close()
        if rows == 0:
            path.unlink()
            return None
        os.replace(sink.path, path)
        return sink.file(file.name, rows)
    finally:
        sink.abandon()
        sink.path.unlink(missing_ok=True)


def taken_out(
    export: Export, hits_in: Callable[[Path], int], copy: Callable[[Path, Sink], int]
) -> tuple[Export, int]:
    """The export with its rows taken out of the shards in which `hits_in` finds some, and how many."""
    out, files, gone = Path(export.out), [], 0
    for file in export.files:
        hits = hits_in(out / file.name)
        gone += hits
        kept = rewritten(out, file, copy) if hits else file
        if kept:
            files.append(kept)
    return (replace(export, files=files, rows=sum(f.rows for f in files)) if gone else export), gone
