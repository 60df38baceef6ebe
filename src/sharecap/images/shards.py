"""WebDataset shards: the images of a tar, left where they lie. Members of one key describe one image.

Nothing is unpacked. A member whose name leads out of the tar, a link, a device and a sparse file are refused.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharecap.errors import UsageError
from sharecap.images.candidate import (
    ALT_TEXT,
    LICENCE,
    URL,
    Candidate,
    Options,
    clean,
    utf8_problem,
)
from sharecap.images.decode import ImageError, read_span
from sharecap.images.folder import SUFFIXES

SIDECARS = frozenset({".txt", ".json"})
MAX_SIDECAR_BYTES = 1_000_000
"""A longer text about an image is none."""


@dataclass
class _Index:
    """What a tar holds: its images in order, and where the words about each key lie."""

    images: list[Candidate] = field(default_factory=list)
    words: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)  # key -> suffix, offset, size
    ignored: int = 0


def members(path: Path, source: str, options: Options) -> Iterator[Candidate | None]:
    """The image members of the tar at `path`, in its order; None stands for a member that is ignored.

    What can't be read of a damaged tar is one failure; the images before the damage are kept.
    """
    index = _Index()
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _scan(tar, path, source, index)
            # Python takes a damaged header for the end, and says nothing.
            os.lseek(file.fileno(), tar.offset, os.SEEK_SET)
            if any(os.read(file.fileno(), tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("bad header")
        damage = None
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        damage = f"damaged tar after {len(index.images)} images ({str(error)[:200] or type(error).__name__})"
        if _is_compressed(path):
            damage = "compressed tar: its images can't be read where they lie; decompress it first"
    except OSError as error:
        damage = f"cannot read the tar ({error.strerror})"
    for candidate in index.images:
        yield _described(candidate, index.words.get(_key(candidate.member), ()), options)
    for _ in range(index.ignored):
        yield None
    if damage:
        yield Candidate(str(path), source, ("unreadable", damage))


def refuse_compressed(path: Path) -> None:
    """`UsageError` for a tar that is named as compressed."""
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        todo = "decompress it first: images are read where they lie in a plain tar"
        raise UsageError("compressed tar", where=path, todo=todo)


def _scan(tar: tarfile.TarFile, path: Path, source: str, index: _Index) -> None:
    end = os.stat(path).st_size
    last = -1
    for info in tar:
        tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every header
        if info.size < 0 or info.offset_data <= last:  # a header that points back would go round for ever
            raise tarfile.ReadError("member with a negative size")
        last = info.offset_data
        if info.isdir():
            continue
        suffix = os.path.splitext(info.name)[1].lower()
        if suffix in SIDECARS and info.isreg() and not _problem(info):
            words = index.words.setdefault(_key(info.name), [])
            words.append((suffix, info.offset_data, info.size))
        elif suffix in SUFFIXES or not info.isreg():
            cut = ("truncated", "the tar ends before the image does")
            problem = _problem(info) or (cut if info.offset_data + info.size > end else None)
            name = ascii(info.name) if utf8_problem(info.name) else info.name
            index.images.append(Candidate(str(path), source, problem, name, info.offset_data, info.size))
        else:
            index.ignored += 1


def _problem(info: tarfile.TarInfo) -> tuple[str, str] | None:
    if info.name.startswith(("/", "\\")) or ".." in info.name.replace("\\", "/").split("/"):
        return ("outside", "the member's name leads out of the tar")
    if info.issym() or info.islnk():
        return ("not_a_file", "a link, not an image")
    if not info.isreg() or info.issparse():
        return ("not_a_file", "a device, pipe or sparse file, not an image")
    if not info.size:
        return ("empty", "member of zero bytes")
    return utf8_problem(info.name)


def _key(member: str) -> str:
    """WebDataset's rule: the name up to the first dot after its folder."""
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _described(candidate: Candidate, words: Any, options: Options) -> Candidate:
    """The candidate with what its sidecars say."""
    text, fields = "", dict[str, Any]()
    for suffix, offset, size in words:
        try:
            data = read_span(Path(candidate.path), offset, size, MAX_SIDECAR_BYTES)
        except ImageError:
            continue
        if suffix == ".txt":
            text = clean(data)
        else:
            fields = _fields(data)
    return described(replace(candidate, alt_text=text), fields, options)


def _fields(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def described(candidate: Candidate, fields: dict[str, Any], options: Options) -> Candidate:
    """The candidate with what `fields` (a sidecar, a row of a list) say; what it has already is kept."""
    source = clean(fields.get(options.source_column)) if options.source_column else ""
    names = (options.alt_text_column,) if options.alt_text_column else ALT_TEXT
    return replace(
        candidate,
        source=source or candidate.source,
        alt_text=candidate.alt_text or first_of(fields, names),
        licence=candidate.licence or first_of(fields, LICENCE),
        url=candidate.url or first_of(fields, URL),
    )


def first_of(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first non-empty text that `fields` has under one of `names`, in any case."""
    lower = {str(key).lower(): value for key, value in fields.items()}
    return next((text for name in names if (text := clean(lower.get(name.lower())))), "")


def _is_compressed(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(6)
    except OSError:
        return False
    return head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"))
