"""Datasets with layers of given captions, and words tagged without a tagger."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sharecap.captions.layer import write_layer
from sharecap.cli import app
from sharecap.images.catalog import Catalog
from sharecap.quality.tagging import Word
from sharecap.records import Caption
from tests.captions.conftest import make_dataset


class Plain:
    """A tagger that takes every word for a noun."""

    name = "plain"

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        return [["NN" for _ in words] for words in sentences]


def nouns(text: str) -> list[Word]:
    """The words of a text, as nouns."""
    return [(word, "nouns") for word in text.split()]


def dataset_of(folder: Path, images: int, **layers: Sequence[str | None]) -> Path:
    """A dataset of `images` small pictures; each layer has a caption for an image, or None."""
    dataset = make_dataset(folder, images)
    for name, texts in layers.items():
        add_layer(dataset, name, texts)
    return dataset


def add_layer(dataset: Path, name: str, texts: Sequence[str | None]) -> None:
    rows = zip(Catalog.open(dataset), texts, strict=True)
    captions = [Caption(i.id, name, text, "people", "none", "stop") for i, text in rows if text is not None]
    write_layer(dataset, name, captions)


def ids_of(dataset: Path) -> list[str]:
    return [image.id for image in Catalog.open(dataset)]


def typed(*words: object) -> Result:
    """What `sharecap` does with these words."""
    return CliRunner().invoke(app, [str(word) for word in words])


def small_model(folder: Path, tags: dict[str, str]) -> str:
    """A spaCy model made by hand: a tag for each of these words."""
    spacy = pytest.importorskip("spacy")
    model = spacy.blank("en")
    model.meta["name"] = "by_hand"
    ruler = model.add_pipe("attribute_ruler")
    for word, tag in tags.items():
        ruler.add(patterns=[[{"LOWER": word}]], attrs={"TAG": tag})
    model.to_disk(folder / "model")
    return str(folder / "model")
