"""Captions that people gave: one for each image of a dataset."""

from pathlib import Path

from sharecap.images.catalog import Catalog
from sharecap.records import Caption, Usage


def given(dataset: Path, text: str = "A red boat. It floats.") -> list[Caption]:
    """Captions for layer `hand`, numbered in the catalog's order."""
    return [
        Caption(image.id, "hand", f"{text} {n}", "people", "none", "stop", Usage(1, 2), 0.5, ("checked",))
        for n, image in enumerate(Catalog.open(dataset))
    ]
