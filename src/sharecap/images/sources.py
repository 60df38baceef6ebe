"""From what a user names to candidates: folders, files, tar shards, tables, lists. One function, one rule.

A source that isn't there is an error before anything starts; whatever is wrong inside one is a named failure.
"""

from collections.abc import Iterator
from pathlib import Path

from sharecap.errors import UsageError
from sharecap.images import listed, shards, table
from sharecap.images.candidate import Candidate, Options
from sharecap.images.dataset import INDEX
from sharecap.images.folder import TABLES, TARS, named, walk


def candidates(root: Path, options: Options) -> Iterator[Candidate | None]:
    """Every image of the source `root`, in a fixed order; None stands for a file that is ignored."""
    must_exist(root)
    suffix = root.suffix.lower()
    if root.is_dir():
        for found in walk(root, options.source):
            if found is None or isinstance(found, Candidate):
                yield found
            elif found.path.suffix.lower() in TARS:
                yield from shards.members(found.path, found.source, options)
            else:
                yield from table.rows(found.path, found.source, options, must=False)
        return
    root = root.resolve()
    source = options.source or root.parent.name or "images"
    if suffix in TARS:
        yield from shards.members(root, source, options)
    elif suffix in TABLES:
        yield from table.rows(root, source, options, must=True)
    elif suffix in listed.LISTS:
        yield from listed.images(root, options)
    else:
        shards.refuse_compressed(root)
        yield named(root, source)


def must_exist(root: Path) -> None:
    """`UsageError` if there is no such source, or it is a dataset: its tables would be read as lists."""
    if not root.exists():
        raise UsageError("no such file or folder", where=root, todo="give a folder of images")
    if (root / INDEX).is_file():
        raise UsageError("this is a dataset, not images", where=root, todo="give the folder of its images")
