"""Images that lie in folders: which files of a source are images, and what each of them is.

It must never follow a link out of the folder that it was given, and never hold more than one file in memory.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from sharecap.errors import UsageError
from sharecap.images.decode import MAX_PIXELS, ImageError, broken, open_header, read_bytes
from sharecap.records import Image

_NAMES = "jpg jpeg jpe jfif mpo png webp gif bmp tif tiff ppm pgm avif jp2"
SUFFIXES = frozenset("." + name for name in _NAMES.split(" "))
"""A file in a folder is taken for an image by its name; files named by themselves always are."""

MAX_ALT_TEXT = 100_000
"""Characters kept of a sidecar text."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that should be an image. `problem` is set where the file may not even be opened."""

    path: str
    source: str
    problem: tuple[str, str] | None = None  # reason, words


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be taken, and why."""

    path: str
    reason: str  # one word, see `ImageError`
    what: str


def candidates(root: Path, source: str | None = None) -> Iterator[Candidate | None]:
    """Every image file at or below `root`, in a fixed order; None stands for a file that is ignored.

    `source` overrides the default: the name of the first folder below `root`, else `root`'s own name.
    """
    if not root.exists():
        raise UsageError("no such file or folder", where=root, todo="give a folder of images")
    given, root = root, root.resolve()
    if not root.is_dir():
        yield _named(root, source or root.parent.name or "images", None)
        return
    if not os.access(root, os.R_OK | os.X_OK):
        raise UsageError("cannot read the folder", where=given, todo="check its permissions")
    yield from _walk(root, root, source)


def _walk(folder: Path, root: Path, source: str | None) -> Iterator[Candidate | None]:
    below = folder.relative_to(root).parts
    name = source or (below[0] if below else root.name) or "images"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _named(folder, name, ("unreadable", f"cannot list the folder ({error.strerror})"))
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink():
            problem = _link_problem(path, root)
            if _is_image(entry.name) or (problem and path.is_dir()):
                yield _named(path, name, problem)
            elif not path.is_dir():  # a linked folder inside the root is walked where it really is
                yield None
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root, source)
        elif _is_image(entry.name):
            yield _named(path, name, None)
        elif not entry.name.endswith(".txt"):  # may be an alt-text
            yield None


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _link_problem(path: Path, root: Path) -> tuple[str, str] | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return ("missing", "link to nothing")
    return None if target.is_relative_to(root) else ("outside", f"link that leaves the folder, to {target}")


def _named(path: Path, source: str, problem: tuple[str, str] | None) -> Candidate:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8: no table can hold the name
        return Candidate(ascii(text), source, ("unreadable", "file name is not UTF-8; rename it"))
    return Candidate(text, source, problem)


@dataclass(frozen=True, slots=True)
class Known:
    """A file with the same bytes as an image that the catalog has."""

    id: str
    path: str


def examine(
    candidate: Candidate, known: frozenset[bytes] = frozenset(), max_pixels: int = MAX_PIXELS
) -> Image | Known | Failure:
    """Read the file once: its digest and, unless that is `known` (raw sha256), the whole picture."""
    if candidate.problem:
        return Failure(candidate.path, *candidate.problem)
    path = Path(candidate.path)
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data)
        if digest.digest() in known:
            return Known(digest.hexdigest(), candidate.path)
        width, height, form, phash = look(data, path, max_pixels)
    except ImageError as error:
        return Failure(candidate.path, error.reason, error.what)
    return Image(
        id=digest.hexdigest(),
        source=candidate.source,
        path=candidate.path,
        width=width,
        height=height,
        format=form,
        bytes=len(data),
        phash=phash,
        alt_text=alt_text(path),
    )


def look(data: bytes, where: object, max_pixels: int = MAX_PIXELS) -> tuple[int, int, str, str]:
    """Upright width and height, format, perceptual hash. Decodes every byte, JPEGs at reduced scale."""
    import imagehash  # pulls in scipy: not at start-up

    image = open_header(data, where, max_pixels)
    width, height, form = image.width, image.height, image.format or ""
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        image.draft("L", (128, 128))
        image.load()
        upright = ImageOps.exif_transpose(image)
        phash = str(imagehash.phash(upright.convert("RGBA") if upright.mode == "P" else upright))
    except MemoryError:
        raise ImageError("too_large", "not enough memory to decode", where) from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises on hostile bytes, the file is counted
        raise broken(error, where) from None
    return (height, width, form, phash) if turned else (width, height, form, phash)


def alt_text(path: Path) -> str:
    """The text of the sidecar `x.txt` beside `x.png`; "" where there is none that can be read."""
    try:
        with open(path.with_suffix(".txt"), encoding="utf-8", errors="replace") as f:
            return f.read(MAX_ALT_TEXT).replace("\0", "").strip()
    except (OSError, ValueError):
        return ""
