"""The dataset directory: where its files lie, who may write, and what a full disk means.

dataset.json            names the catalog (replaced last, so a killed `add` leaves the old catalog)
catalog-<digest>.parquet, failures.jsonl
ledger.sqlite           requests and answers
words.sqlite            words that were read in the pictures, where prompts hold them
layers/<name>/          sealed caption layers (artifacts)
fusions/<name>/         pairs of texts that became layer <name>, as a dataset of their own
judgements/<name>/      questions to a judge about captions, and its answers, as a dataset of their own
view/, review.sqlite, studies/<name>/, scores/<layer>.jsonl
                        what the page keeps, and what people did there (captions/page_files.py)
runs/<layer>.json       what captioning runs set out to do, for who watches them
exports.jsonl           what was exported where; takedown.jsonl: images that must stay out
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharecap.errors import SharecapError, UsageError

INDEX, FAILURES, LEDGER, LAYERS = "dataset.json", "failures.jsonl", "ledger.sqlite", "layers"
JUDGED = (".claims", ".claims-failed", ".mend")
"""Ends of files that lie beside a layer's scores, which have the layer's own name (`quality/verdicts.py`)."""
DOWNLOADS, FUSIONS, JUDGEMENTS, WORDS = "downloads", "fusions", "judgements", "words.sqlite"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HeldError(SharecapError):
    """Another process is at work in the directory."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Be the one writer of a dataset, or of what else a directory holds. A kill frees the hold.

    `HeldError` if another process has it.
    """
    with disk_errors(directory):
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            todo = "wait until the other sharecap command has ended"
            raise HeldError("another command is writing here", where=directory, todo=todo) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full, read-only or failing disk, or a place that can't be one, into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            todo = "free some space and run the same command again: it goes on from there"
            raise SharecapError("no space left on the disk", where=where, todo=todo) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SharecapError(f"cannot write ({error.strerror})", where=where) from error
        if error.errno is None:  # not from the system: a mistake of ours
            raise
        place = where if error.filename is None else os.fsdecode(error.filename)
        raise SharecapError(f"cannot write ({error.strerror})", where=place) from error


def layer_path(dataset: Path, name: str) -> Path:
    """Where the layer called `name` lies; the name is checked, since it becomes a directory."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        todo = "use letters, digits, '.', '_' and '-' only"
        raise UsageError("not a layer name", where=repr(name), todo=todo)
    if name.endswith(JUDGED):
        todo = f"end it otherwise: {', '.join(JUDGED)} tell what a judge says of a layer"
        raise UsageError("not a layer name", where=repr(name), todo=todo)
    return dataset / LAYERS / name


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where `path` lies."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
