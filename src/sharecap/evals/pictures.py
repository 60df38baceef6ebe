"""Finds the pictures of a benchmark's questions, in folders or inside a table.

A question whose picture is missing or broken is named before anything is asked; none is left out in silence.
"""

import base64
import binascii
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError

Find = Callable[[Any], tuple[Path, ...]]
"""What a benchmark calls an image -> its file, or nothing where only predictions are scored."""


def nowhere(_: Any) -> tuple[Path, ...]:
    """No pictures are needed."""
    return ()


def below(directory: Path, folders: Sequence[str]) -> Find:
    """Pictures by name, with or without .jpg or .png, in the first of these folders that has them."""

    @functools.cache  # many questions share a picture
    def find(name: Any) -> tuple[Path, ...]:
        names = [str(name)] if Path(str(name)).suffix in (".jpg", ".png", ".jpeg") else []
        names = names or [f"{name}.jpg", f"{name}.png", str(name)]
        for folder in folders:
            for one in names:
                if (directory / folder / one).is_file():
                    return (directory / folder / one,)
        todo = f"looked in {', '.join(folders)}"
        raise SharecapError(
            "image of a question is missing", where=directory / folders[0] / names[0], todo=todo
        )

    return find


def from_base64(code: str, row: str, where: Path) -> bytes:
    """The encoded image in a table's cell."""
    try:
        return base64.b64decode(code, validate=True)
    except (binascii.Error, ValueError):
        raise SharecapError(f"row {row}: the image is not base64", where=where) from None


def embedded(cell: Any, row: str, where: Path) -> bytes:
    """The encoded image in a cell: base64 text, or Parquet's bytes, bare or in the hub's `{bytes, path}`."""
    if isinstance(cell, str):
        return from_base64(cell, row, where)
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes) or not content:
        raise SharecapError(f"row {row}: the cell holds no image", where=where)
    return content
