"""Rows of instruction data in LLaVA's format, in and out: a JSON list, JSON lines, or Parquet columns.

Each is {"id", "image" (path, paths, or none), "conversations": [{"from": "human" or "gpt", "value"}]};
other keys are ignored, the authors' files carry some. It must never skip a row that it does not understand.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from sharecap.data.index import TODO, index_of, written
from sharecap.errors import SharecapError
from sharecap.records import Conversation, Turn

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "human": "user",
    "gpt": "assistant",
}
NAMES = {role: name for name, role in ROLES.items()}


class RowError(ValueError):
    """What is wrong with a row, for people; `reason` is one word, for counting: malformed or wrong_role."""

    def __init__(self, what: str, reason: str = "malformed") -> None:
        super().__init__(what)
        self.reason = reason


class Rows(Sequence[Conversation]):
    """The rows of a file, read one by one when they are asked for.

    Relative image paths are below `image_root`, by default the file's own folder. Memory does not grow with
    the file; pickled, it is opened anew where it arrives, so that processes share nothing and multiply
    nothing. Threads may share one.
    """

    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        """`SharecapError` if the file is no JSON list, JSON lines or Parquet; rows are looked at later."""
        self.path, self.root = path, path.parent if image_root is None else image_root
        self.places = index_of(path)
        self.file = open(self.places.file, "rb", buffering=0)  # noqa: SIM115 - closed with the object

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (self.path, self.root, self.digest)

    def __len__(self) -> int:
        return len(self.places.spans)

    @property
    def digest(self) -> str:
        """Of the file's bytes and the image root: what the rows are."""
        return hashlib.sha256(f"{self.places.digest} {self.root}".encode()).hexdigest()

    @overload
    def __getitem__(self, number: int) -> Conversation: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, number: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        number = range(len(self))[number]
        try:
            return self.row(number)
        except RowError as error:
            raise SharecapError(f"row {number}: {error}", where=self.path, todo=TODO) from None

    def row(self, number: int) -> Conversation:
        """Row `number`; `RowError` says what is wrong with it, and nothing about where."""
        first, last = self.places.spans[number]
        # Read, not mapped: pages of a mapped file count as this process's memory.
        data = os.pread(self.file.fileno(), last - first, first)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RowError(f"not JSON ({error})") from None
        return row_of(found, number, self.root)


def reopened(path: Path, root: Path, digest: str) -> Rows:
    """The same rows in another process."""
    rows = Rows(path, root)
    if rows.digest != digest:
        todo = "leave files alone while they are trained on, and start again"
        raise SharecapError("the rows' file has changed", where=path, todo=todo)
    return rows


def read_rows(path: Path, image_root: Path | None = None) -> list[Conversation]:
    """All rows of a small file, in memory. `SharecapError` counts the bad rows and names the first."""
    rows = Rows(path, image_root)
    found: list[Conversation] = []
    bad: list[str] = []
    for number in range(len(rows)):
        try:
            found.append(rows.row(number))
        except RowError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        raise SharecapError(f"{len(bad)} of {len(rows)} rows are bad, first {bad[0]}", where=path, todo=TODO)
    return found


def row_of(found: Any, number: int, root: Path) -> Conversation:
    """One row; `RowError` says what is wrong with it."""
    if not isinstance(found, dict):
        raise RowError("not an object")
    name = str(found.get("id", number))
    image = found.get("image")
    images = [] if image is None else [image] if isinstance(image, str) else image
    if not isinstance(images, list) or not all(isinstance(i, str) and i for i in images):
        raise RowError(f'"image" must be a path or a list of paths (id {name})')
    turns = found.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise RowError(f'no "conversations" (id {name})')
    made = []
    for turn in turns:
        fields = turn if isinstance(turn, dict) else {}
        role, text = ROLES.get(str(fields.get("from"))), fields.get("value")
        if role is None or not isinstance(text, str):
            reason = "wrong_role" if role is None and "from" in fields else "malformed"
            raise RowError(f'a turn must be {{"from": "human" or "gpt", "value": text}} (id {name})', reason)
        if not is_unicode(text):
            raise RowError(f"half of a surrogate pair in a turn (id {name})")
        made.append(Turn(role, text))
    return Conversation(name, tuple(os.path.join(root, i) for i in images), tuple(made))


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; JSON's escapes can spell what can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_rows(path: Path, rows: Iterable[Conversation], image_root: Path | None = None) -> None:
    """Write a JSON list, a row a line, whole or not at all; none of it is held in memory.

    Image paths are relative to `image_root`, absolute without one; `SharecapError` if an image lies outside.
    """
    with written(path) as file:
        file.write(b"[")
        for number, row in enumerate(rows):
            fields: dict[str, Any] = {"id": row.id}
            images = [placed(image, row, image_root) for image in row.images]
            if images:
                fields["image"] = images[0] if len(images) == 1 else images
            fields["conversations"] = [{"from": NAMES[turn.role], "value": turn.text} for turn in row.turns]
            file.write((",\n" if number else "\n").encode() + json.dumps(fields, ensure_ascii=False).encode())
        file.write(b"\n]\n")


def replaceable(path: Path) -> bool:
    """Whether a list of rows may be written there: nothing lies there, or a plain file that begins as one."""
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(64).lstrip()[:1] in (b"[", b"")


def placed(image: str, row: Conversation, root: Path | None) -> str:
    """An image's path as it is written."""
    path = Path(os.path.abspath(image))
    if root is None:
        return str(path)
    try:
        return path.relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        what = f"image outside {root} (row {row.id})"
        raise SharecapError(what, where=image, todo="give a root that holds all images") from None
