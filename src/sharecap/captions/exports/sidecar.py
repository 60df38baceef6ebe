"""A `.txt` beside each image, as tools for image generators read it. Only for images that are files.

A text that sharecap did not write there is never overwritten: what it wrote, its layers still say.
"""

import errno
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.artifact import partial_of
from sharecap.captions.exports.parts import LeftOut, own_file, plain_text
from sharecap.captions.exports.register import File, exports_of
from sharecap.captions.layer import layers, side_by_side
from sharecap.images.catalog import Catalog
from sharecap.images.folder import SUFFIXES
from sharecap.records import Caption, Image

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Sidecar:
    """Export beside the images of `dataset`."""

    dataset: Path
    form = "sidecar"

    @property
    def out(self) -> Path:
        """What the register files it under."""
        return self.dataset

    def options(self) -> dict[str, Any]:
        """What the register keeps."""
        return {}

    def open(self) -> "SidecarWriter":
        """Begin."""
        return SidecarWriter(self.dataset)


class SidecarWriter:
    """See `Writer`; but each file is in place, whole, as soon as it is put."""

    def __init__(self, dataset: Path) -> None:
        self.rows = 0
        self._earlier = said_before(Catalog.open(dataset))

    def put(self, image: Image, caption: Caption) -> None:
        path, text = beside(own_file(image)), plain_text(caption.text)
        ours = next(texts for earlier, texts in self._earlier if earlier.id == image.id)
        try:
            there = read(path)
            if there is not None and there not in ours and there != text.encode():
                if other := namesake(own_file(image)):
                    raise LeftOut("same_name", f"{path} is also that of {other.name}")
                raise LeftOut("foreign_txt", f"{path} was not written by sharecap")
            if there != text.encode():
                partial = partial_of(path)
                partial.write_text(text, encoding="utf-8", newline="\n")
                os.replace(partial, path)
        except OSError as error:
            if error.errno in _DENIED:
                raise LeftOut("cannot_write", f"{path}: {error.strerror}") from None
            raise
        self.rows += 1

    def finish(self) -> list[File]:
        os.sync()  # once, not after each of a million files
        return []

    def abandon(self) -> None:
        self._earlier.close()


def beside(image: Path) -> Path:
    """Where the caption of an image file goes."""
    return image.with_suffix(".txt")


def namesake(image: Path) -> Path | None:
    """Another image file whose caption goes to the same place: `a.png` beside `a.jpg`."""
    others = (image.with_suffix(suffix) for suffix in sorted(SUFFIXES) if suffix != image.suffix)
    return next((other for other in others if other.is_file()), None)


def read(path: Path) -> bytes | None:
    """What lies there; None if nothing does. Something that is no plain file is not ours."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        return b"\0"
    return path.read_bytes()


def said_before(catalog: Catalog) -> Generator[tuple[Image, set[bytes]]]:
    """For every image in order, the texts that a sidecar export of this dataset may have put beside it."""
    recorded = dict.fromkeys(e.layer for e in exports_of(catalog.dataset) if e.form == "sidecar")
    there = set(layers(catalog.dataset))
    for image, row in side_by_side(catalog, [name for name in recorded if name in there]):
        yield image, {plain_text(caption.text).encode() for caption in row if caption}


def take_down(catalog: Catalog, ids: Mapping[str, Image]) -> tuple[int, list[str]]:
    """Remove the texts beside the images of `ids`; how many, and the paths of those that somebody changed.

    What another image of the same name says there stays.
    """
    ours: dict[Path, set[bytes]] = {}
    for image, texts in said_before(catalog):
        if image.id in ids and not image.member and texts:
            ours.setdefault(beside(Path(image.path)), set()).update(texts)
    if any(namesake(Path(image.path)) for image in ids.values() if not image.member):
        for image, texts in said_before(catalog):
            path = beside(Path(image.path))
            if image.id not in ids and path in ours and read(path) in texts:
                del ours[path]
    removed, changed = 0, []
    for path, texts in ours.items():
        there = read(path)
        if there in texts:
            path.unlink()
            removed += 1
        elif there is not None:
            changed.append(str(path))
    return removed, changed
