"""Which images are judged: a fair draw that more images only add to, so that nothing paid for is left out."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharecap.captions.layer import open_layer, side_by_side
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption, Image

Row = tuple[Image, tuple[Caption, ...]]
"""An image, and its caption in each of the layers."""


def drawn(dataset: Path, layers: Sequence[str], images: int | None) -> list[Row]:
    """`images` of the images that have a caption in all layers (None: all of them), in the catalog's order.

    An image's lot depends on its id alone. `UsageError` if there is none to judge.
    """
    for layer in layers:
        open_layer(dataset, layer)
    rows = _whole(dataset, layers)
    if images is None:
        found = list(rows)
    else:
        few = heapq.nsmallest(images, enumerate(rows), key=lambda one: _lot(one[1][0]))
        found = [row for _, row in sorted(few, key=lambda one: one[0])]
    if not found:
        raise UsageError("no image has a caption to judge", where=", ".join(layers))
    return found


def _whole(dataset: Path, layers: Sequence[str]) -> Iterator[Row]:
    for image, row in side_by_side(Catalog.open(dataset), layers):
        captions = tuple(caption for caption in row if caption is not None)
        if len(captions) == len(layers):
            yield image, captions


def _lot(image: Image) -> bytes:
    return hashlib.sha256(f"lot {image.id}".encode()).digest()
