"""A finished directory: the only thing that stages hand to each other.

`manifest.json` is written last, so a directory that was killed halfway is not there. While a stage works,
`started.json` holds the stage's key; the same key finds its half-done work again, another key starts clean.
A finished directory is never written to again.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sharecap import __version__
from sharecap.errors import SharecapError, UsageError

MANIFEST, STARTED = "manifest.json", "started.json"
STATE = "state"
"""Sub-directory for work that only a resume needs (checkpoints, pictures); it is not part of the digest.

It is removed once the manifest is there: before that, a kill would cost all that was done."""


@dataclass(frozen=True)
class Artifact:
    """A finished directory, as its manifest describes it."""

    path: Path
    kind: str
    key: str  # digest of kind, config and inputs: what was asked for
    digest: str  # digest of the files that make up the result: what came out
    config: dict[str, Any]
    inputs: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # working time over all runs that it took
    finished: str = ""  # when, ISO 8601 in UTC
    code_version: str = __version__


def plain(value: Any) -> Any:
    """`value` as JSON data: dataclasses become dicts, tuples lists, paths strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def key_of(kind: str, config: Any, inputs: Mapping[str, str]) -> str:
    """Digest of what a stage is asked to make; equal keys make the stage skippable."""
    text = json.dumps([kind, plain(config), plain(inputs)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never half of it."""
    partial = partial_of(path)
    try:
        with open(partial, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Where a file is written before it takes its place; only a kill leaves one."""
    return path.with_name(path.name + ".partial")


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    file = os.open(path, os.O_RDONLY)  # for a picture, a file object would take longer than the digest
    try:
        size = os.fstat(file).st_size
        if size <= 1 << 20 and len(content := os.read(file, size + 1)) == size:
            return hashlib.sha256(content).hexdigest()
    finally:
        os.close(file)
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def files_digest(directory: Path, content: Sequence[str] = ()) -> str:
    """sha256 over names and contents of the files below, except `state/` and the two bookkeeping files.

    `content` names the files and folders that count; all do if it is empty.
    """
    total = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory)
        if name.parts[0] == STATE or str(name) in (MANIFEST, STARTED):
            continue
        if content and not any(name.is_relative_to(part) for part in content):
            continue
        total.update(f"{name.as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def read(directory: Path) -> Artifact:
    """The artifact at `directory`; `SharecapError` if it is missing, unfinished or unreadable."""
    try:
        fields = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return Artifact(path=directory, **fields)
    except (FileNotFoundError, NotADirectoryError):
        why = "unfinished" if (directory / STARTED).exists() else "no finished result here"
        raise SharecapError(why, where=directory, todo="run the stage that makes it") from None
    except (ValueError, TypeError) as error:
        todo = "remove the directory and run its stage again"
        raise SharecapError(f"damaged manifest ({error})", where=directory / MANIFEST, todo=todo) from None


def stage(
    directory: Path,
    kind: str,
    config: Any,
    inputs: Mapping[str, str],
    work: Callable[[Path], Mapping[str, Any]],
    *,
    content: Sequence[str] = (),
) -> Artifact:
    """Return the finished artifact, doing `work(directory) -> metrics` only if it isn't there.

    `work` finds in `directory` what an interrupted run with the same key left, and goes on from there.
    A directory of the same kind with another key is emptied first, but only if this function had started it.
    `content` names the files and folders that make up the result (all, if empty). What lies beside them, such
    as a log with times, tells how the result was made; the digest, and so the keys of later stages, leave it
    out: equal work gives equal digests.
    """
    key = key_of(kind, config, inputs)
    if (directory / MANIFEST).exists():
        found = read(directory)
        if found.key == key:
            shutil.rmtree(directory / STATE, ignore_errors=True)  # a kill may have left it
            return found
    spent = begin(directory, kind, key)
    clock = time.monotonic()

    def elapsed() -> float:
        return spent + time.monotonic() - clock

    try:
        metrics = work(directory)
    except BaseException:
        mark = {"kind": kind, "key": key, "seconds": elapsed()}
        write_atomically(directory / STARTED, json.dumps(mark))
        raise
    assert all((directory / part).exists() for part in content), content
    fields = {
        "kind": kind,
        "key": key,
        "digest": files_digest(directory, content),
        "config": plain(config),
        "inputs": plain(inputs),
        "metrics": plain(metrics),
        "seconds": elapsed(),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "code_version": __version__,
    }
    write_atomically(directory / MANIFEST, json.dumps(fields, indent=1, ensure_ascii=False))
    (directory / STARTED).unlink()
    shutil.rmtree(directory / STATE, ignore_errors=True)
    return read(directory)


def begin(directory: Path, kind: str, key: str) -> float:
    """Make `directory` ready for work with this key; returns the seconds that earlier runs spent on it."""
    mark = mark_of(directory)
    if mark and mark["kind"] != kind:
        todo = "choose another place, or remove it yourself"
        raise UsageError(f"this is a {mark['kind']!r}, no place for a {kind!r}", where=directory, todo=todo)
    if mark.get("key") == key and not (directory / MANIFEST).exists():
        return float(mark.get("seconds", 0.0))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        # Killed while it is being emptied, the directory must still be known as one that sharecap made.
        write_atomically(directory / STARTED, json.dumps({"kind": kind, "key": ""}))
        (directory / MANIFEST).unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STARTED:
            path.unlink()
    write_atomically(directory / STARTED, json.dumps({"kind": kind, "key": key, "seconds": 0.0}))
    return 0.0


def mark_of(directory: Path) -> dict[str, Any]:
    """What a half-done or finished directory says of itself; nothing for a new or empty one.

    `UsageError` for a directory that holds something else: it is not ours to empty.
    """
    if not directory.exists():
        return {}
    for name in (STARTED, MANIFEST):
        if (directory / name).exists():
            try:
                mark = json.loads((directory / name).read_text(encoding="utf-8"))
            except ValueError:
                break
            if isinstance(mark, dict) and {"kind", "key"} <= mark.keys():
                return mark
            break
    # A kill right at the start may have left this and nothing else.
    torn = partial_of(directory / STARTED)
    if not directory.is_dir() or any(path != torn for path in directory.iterdir()):
        todo = "choose an empty or new directory"
        raise UsageError("directory is not empty and was not made by sharecap", where=directory, todo=todo)
    return {}
