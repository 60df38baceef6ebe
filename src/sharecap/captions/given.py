"""Captions that come with the images: the rows of a LLaVA list become a layer like any captioner's.

Only a row of one image with one question and one answer is a caption; a conversation is none, and is counted.
Nothing is repaired or cut.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.captions.in_order import InOrder
from sharecap.captions.layer import seal_given
from sharecap.captions.storable import storable
from sharecap.errors import UsageError
from sharecap.images.candidate import Failure, Options
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import layer_path
from sharecap.images.decode import ImageError, read_bytes
from sharecap.images.folder import beneath
from sharecap.images.listed import image_root, is_rows, rows
from sharecap.records import Caption


@dataclass
class Given:
    """What became of a list's rows. `captions + others + no_image + repeated` is the number of rows."""

    layer: str  # "" if there was no caption to make a layer of
    captions: int = 0
    others: int = 0  # text only, several images or turns, or not understood
    no_image: int = 0  # captions of images that could not be taken in
    repeated: int = 0  # further captions of an image that has one


def lists_of(sources: Sequence[Path], layer: str | None, options: Options) -> list[tuple[Path, str]]:
    """The LLaVA lists among `sources` and the names of their layers; `UsageError` before anything starts."""
    lists = [path for path in sources if path.is_file() and is_rows(path)]
    if layer is not None and len(lists) != 1:
        todo = "leave --layer out: each list's layer is named like the list"
        raise UsageError(
            "--layer names the captions of one LLaVA list", where=f"{len(lists)} given", todo=todo
        )
    options.check()
    found = [
        (path, layer or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100]) for path in lists
    ]
    for path, name in found:
        layer_path(path.parent, name)
    return found


def keep_given(dataset: Path, path: Path, layer: str, options: Options) -> Given:
    """Seal the captions of the list at `path`, whose images are in the dataset, as `layer`."""
    found, root = Given(""), image_root(path, options)
    with InOrder(Catalog.open(dataset)) as given:
        for row in rows(path):
            text = None if isinstance(row, Failure) or len(row.images) != 1 else caption_in(row.fields)
            if isinstance(row, Failure) or text is None:
                found.others += 1
                continue
            image_id = _listed(given, root, row.images[0])
            if image_id is None:
                found.no_image += 1
            elif given.put(Caption(image_id, layer, storable(text), "given", f"given@1/{path.stem}", "stop")):
                found.captions += 1
            else:
                found.repeated += 1
        if found.captions:
            seal_given(dataset, layer, given, grow=True)  # images of the list may come in later
            found.layer = layer
    return found


def _listed(given: InOrder, root: Path, name: str) -> str | None:
    """The id of the image that the list calls `name`, if it is in the catalog."""
    file, problem = beneath(root, name)
    if problem:
        return None
    if (known := given.id_at(file)) is not None:
        return known
    digest = _digest(Path(file))
    return digest if digest is not None and given.has(digest) else None


def _digest(file: Path) -> str | None:
    """The digest of a listed file that is no image of the catalog by its path; None if it can't be read."""
    try:
        return hashlib.sha256(read_bytes(file)).hexdigest()  # bounded, and a pipe is not waited for
    except ImageError:
        return None


def caption_in(row: dict[str, Any]) -> str | None:
    """The one answer of a row with one question; None for any other conversation."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        return None
    human, model = turns
    text = model.get("value")
    if (human.get("from"), model.get("from")) != ("human", "gpt") or not isinstance(text, str):
        return None
    return text.strip() or None


def given_lines(given: Given) -> list[str]:
    """For people."""
    lines = (
        [f"layer {given.layer}: {given.captions:,} captions that came with the images"] if given.layer else []
    )
    for count, what in (
        (given.no_image, "captions of images that are not in the dataset"),
        (given.repeated, "further captions of an image that has one"),
        (given.others, "rows that are no caption of one image"),
    ):
        if count:
            lines.append(f"not taken: {count:,} {what}")
    return lines
