"""What a source hands over: a place that should hold an image, with what the source says about it.

A candidate is a promise, not an image; looking at it gives an `Image`, a known one, or a named failure.
"""

from dataclasses import dataclass
from pathlib import Path

from sharecap.errors import UsageError

MAX_ALT_TEXT = 100_000
"""Characters kept of an original caption."""

ALT_TEXT = ("alt_text", "alt", "caption", "captions", "text", "txt", "title", "description")
LICENCE = ("licence", "license", "rights")
URL = ("url", "image_url", "original_url", "coco_url", "flickr_url")
"""The usual names of columns and fields, in any case, first match wins."""


@dataclass(frozen=True, slots=True)
class Options:
    """How sources are read."""

    source: str | None = None  # name of all images' source; None: by `source_column`, else by the path
    source_column: str | None = None  # column of a table, field of a list or of a sidecar
    alt_text_column: str | None = None  # None: the first of `ALT_TEXT`
    image_column: str | None = None  # None: the one marked as image, else by its usual names
    images: Path | None = None  # folder that listed paths are relative to; None: the list's own folder
    retry_failed: bool = False  # ask again those addresses of a list that failed for good

    def check(self) -> None:
        """`UsageError` where options make no sense."""
        if self.source is not None and not self.source.strip():
            raise UsageError("the source's name is empty", todo="leave --source out or give it a name")
        if self.source is not None and self.source_column is not None:
            raise UsageError("two rules for the source's name", todo="give --source or --source-column")
        if self.images is not None and not self.images.is_dir():
            raise UsageError("no such folder of images", where=self.images)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file, tar member or table row that should be an image. `problem`: it may not even be opened."""

    path: str
    source: str
    problem: tuple[str, str] | None = None  # reason, words
    member: str = ""  # as in `Image`
    offset: int = 0  # as in `Image`
    size: int = 0  # bytes of a tar member
    data: bytes | None = None  # the bytes themselves, where reading them again would cost
    alt_text: str = ""
    licence: str = ""
    url: str = ""
    name: str = ""  # what a list calls the file, relative to the folder of images

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.path}::{self.member}" if self.member else self.path


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be taken, and why."""

    path: str  # the file, with "::" and the member where it is inside one
    reason: str  # one word, see `ImageError`
    what: str
    name: str = ""  # what a list calls the file

    @classmethod
    def of(cls, candidate: Candidate, reason: str, what: str) -> "Failure":
        """The failure of this candidate."""
        return cls(candidate.place, reason, what, candidate.name)


@dataclass(frozen=True, slots=True)
class Known:
    """A place with the same bytes as an image that the catalog has."""

    id: str
    path: str
    member: str = ""
    offset: int = 0


def clean(text: object) -> str:
    """Words from outside as one bounded text without NUL; lists of texts become lines."""
    if isinstance(text, list | tuple):
        return "\n".join(filter(None, map(clean, text)))[:MAX_ALT_TEXT]
    if isinstance(text, bytes):
        text = text[: 4 * MAX_ALT_TEXT].decode("utf-8", "replace")
    if not isinstance(text, str):
        return str(text) if isinstance(text, int | float) and not isinstance(text, bool) else ""
    safe = text[:MAX_ALT_TEXT].replace("\0", "").strip()
    return safe.encode("utf-8", "replace").decode()


def utf8_problem(name: str) -> tuple[str, str] | None:
    """Why no table can hold the name, if so."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return ("unreadable", "file name is not UTF-8; rename it")
    return None
