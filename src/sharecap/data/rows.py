"""Rows of instruction data in LLaVA's JSON format, in and out.

A list of {"id", "image" (path, paths, or none), "conversations": [{"from": "human" or "gpt", "value"}]};
other keys are ignored, the authors' files carry some. It must never skip a row that it does not understand.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError
from sharecap.records import Conversation, Turn

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "human": "user",
    "gpt": "assistant",
}
NAMES = {role: name for name, role in ROLES.items()}


def read_rows(path: Path, image_root: Path | None = None) -> list[Conversation]:
    """All rows of the file; relative image paths are below `image_root`, by default the file's own folder.

    `SharecapError` if the file is no such list; it counts the bad rows and names the first.
    """
    todo = 'give a JSON list of {"id", "image", "conversations"}'
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
    except OSError as error:
        raise SharecapError(f"cannot read rows ({error.strerror})", where=path) from None
    except (ValueError, RecursionError) as error:
        raise SharecapError(f"not JSON ({error})", where=path, todo=todo) from None
    if not isinstance(found, list):
        raise SharecapError("not a JSON list of rows", where=path, todo=todo)
    root = path.parent if image_root is None else image_root
    rows: list[Conversation] = []
    bad: list[str] = []
    for number, fields in enumerate(found):
        try:
            rows.append(row_of(fields, number, root))
        except ValueError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        raise SharecapError(f"{len(bad)} of {len(found)} rows are bad, first {bad[0]}", where=path, todo=todo)
    return rows


def row_of(found: Any, number: int, root: Path) -> Conversation:
    """One row; `ValueError` that says what is wrong with it."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    name = str(found.get("id", number))
    image = found.get("image")
    images = [] if image is None else [image] if isinstance(image, str) else image
    if not isinstance(images, list) or not all(isinstance(i, str) and i for i in images):
        raise ValueError(f'"image" must be a path or a list of paths (id {name})')
    turns = found.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'no "conversations" (id {name})')
    made = []
    for turn in turns:
        fields = turn if isinstance(turn, dict) else {}
        role, text = ROLES.get(str(fields.get("from"))), fields.get("value")
        if role is None or not isinstance(text, str):
            raise ValueError(f'a turn must be {{"from": "human" or "gpt", "value": text}} (id {name})')
        made.append(Turn(role, text))
    return Conversation(name, tuple(os.path.join(root, i) for i in images), tuple(made))


def write_rows(path: Path, rows: Sequence[Conversation], image_root: Path | None = None) -> None:
    """Write rows, whole or not at all; image paths relative to `image_root`, absolute without one.

    `SharecapError` if an image lies outside the root.
    """
    found = []
    for row in rows:
        fields: dict[str, Any] = {"id": row.id}
        images = [placed(image, row, image_root) for image in row.images]
        if images:
            fields["image"] = images[0] if len(images) == 1 else images
        fields["conversations"] = [{"from": NAMES[turn.role], "value": turn.text} for turn in row.turns]
        found.append(fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(found, ensure_ascii=False, indent=1))


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
