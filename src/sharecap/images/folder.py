"""Images that lie in folders: which files of a folder are images, and which hold images.

It must never follow a link out of the folder that it was given.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharecap.errors import UsageError
from sharecap.images.candidate import Candidate, utf8_problem

_NAMES = "jpg jpeg jpe jfif mpo png webp gif bmp tif tiff ppm pgm avif jp2"
SUFFIXES = frozenset("." + name for name in _NAMES.split(" "))
"""A file in a folder is taken for an image by its name; files named by themselves always are."""

TARS, TABLES = frozenset({".tar"}), frozenset({".parquet", ".arrow"})


@dataclass(frozen=True, slots=True)
class Container:
    """A file of many images: a tar shard or a table."""

    path: Path
    source: str  # by its path
    root: Path  # the folder that was given


def walk(root: Path, source: str | None = None) -> Iterator[Candidate | Container | None]:
    """Every image file and container below the folder `root`, in a fixed order; None: a file is ignored.

    `source` overrides the default: the name of the first folder below `root`, else `root`'s own name. Tables
    take `root`'s own, since their folders are called "data" or "train".
    """
    given, root = root, root.resolve()
    if not os.access(root, os.R_OK | os.X_OK):
        raise UsageError("cannot read the folder", where=given, todo="check its permissions")
    yield from _walk(root, root, source)


def files(root: Path) -> Iterator[Candidate]:
    """The image files at or below `root`, and nothing else."""
    if root.is_dir():
        yield from (found for found in walk(root) if isinstance(found, Candidate))
    else:
        yield named(root.resolve(), root.parent.name)


def _walk(folder: Path, root: Path, source: str | None) -> Iterator[Candidate | Container | None]:
    below = folder.relative_to(root).parts
    name = source or (below[0] if below else root.name) or "images"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield named(folder, name, ("unreadable", f"cannot list the folder ({error.strerror})"))
        return
    saved = _saved_tables(folder)
    for entry in entries:
        path, suffix = folder / entry.name, os.path.splitext(entry.name)[1].lower()
        if entry.is_symlink():
            problem = _link_problem(path, root)
            if suffix in SUFFIXES or (problem and (suffix in TARS | TABLES or path.is_dir())):
                yield named(path, name, problem)
            elif not path.is_dir():  # what is linked inside the root is taken where it really is
                yield None
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root, source)
        elif suffix in SUFFIXES:
            yield named(path, name, None)
        elif suffix in TARS:
            yield Container(path, name, root)
        elif suffix in TABLES and (saved is None or entry.name in saved):
            yield Container(path, source or root.name or "images", root)
        elif suffix != ".txt":  # may be an alt-text
            yield None


def _saved_tables(folder: Path) -> frozenset[str] | None:
    """Which tables belong to the data set that `datasets` saved here; None: it is no such folder."""
    if not (folder / "dataset_info.json").is_file():
        return None
    try:
        files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        return frozenset(str(file["filename"]) for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link_problem(path: Path, root: Path) -> tuple[str, str] | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return ("missing", "link to nothing")
    return None if target.is_relative_to(root) else ("outside", f"link that leaves the folder, to {target}")


def named(path: Path, source: str, problem: tuple[str, str] | None = None) -> Candidate:
    """The candidate for a file of its own."""
    text = str(path)
    if bad := utf8_problem(text):
        return Candidate(ascii(text), source, bad)
    return Candidate(text, source, problem)


def beneath(root: Path, name: str) -> tuple[str, tuple[str, str] | None]:
    """(path, problem) of the file that a list or table calls `name`; it must lie below the folder `root`.

    `root` is resolved. Neither an absolute path elsewhere, nor "..", nor a link may lead out of it.
    """
    path = os.path.normpath(os.path.join(root, name))
    if problem := utf8_problem(path):
        return ascii(path), problem
    if "\0" in name or ".." in name.replace("\\", "/").split("/") or not _inside(path, root):
        return path.replace("\0", "\\0"), ("outside", f"the path leaves the folder of images {root}")
    try:
        target = os.path.realpath(path, strict=True)
    except (OSError, ValueError) as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        return path, ("missing" if gone else "unreadable", "no such file" if gone else f"{error}"[:200])
    if not _inside(target, root):
        return path, ("outside", f"link that leaves the folder of images, to {target}")
    return path, None


def _inside(path: str, root: Path) -> bool:
    return path.startswith(os.path.join(root, ""))
