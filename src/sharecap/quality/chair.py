"""CHAIR over layers: the objects that captions name, against those in the images (`captions/objects.py`).

Images are found among the labels by the names of their files: `000000391895.jpg` and
`COCO_val2014_000000391895.jpg` are image 391895, and any other is the one of just its name: cameras number
their files too. The figures are those of `sharecap score chair`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sharecap.captions.objects import Vocabulary, objects_file, read_objects, read_vocabulary
from sharecap.errors import UsageError
from sharecap.quality.lexical import Pair
from sharecap.records import Image

CHAIR = ("chair_i", "chair_s", "object_recall")
"""Wrong mentions per mention; captions with a wrong one; objects named per object there."""


_COCO = re.compile(r"(?:COCO_[A-Za-z0-9]+_)?([0-9]{12})")


@dataclass(frozen=True)
class Chair:
    """What is in the images, and which words name it."""

    vocabulary: Vocabulary
    objects: Mapping[str, list[str]]

    @classmethod
    def read(cls, labels: Path) -> "Chair":
        """From a directory with `synonyms.txt` and one JSON of objects, or such a file beside the former."""
        if not labels.exists():
            todo = "give the directory with synonyms.txt and the images' objects"
            raise UsageError("no CHAIR labels", where=labels, todo=todo)
        directory = labels if labels.is_dir() else labels.parent
        return cls(read_vocabulary(directory), read_objects(objects_file(labels)))

    def pairs(self, image: Image, text: str) -> dict[str, Pair]:
        """The measures of one caption; none for an image without labels."""
        there = self.objects.get(self.label(image) or "")
        if there is None:
            return {}
        named, objects = self.vocabulary.objects(text), set(there)
        wrong = sum(name not in objects for name in named)
        return {
            "chair_i": (wrong, len(named)),
            "chair_s": (float(wrong > 0), 1),
            "object_recall": (len(objects & set(named)), len(objects)),
        }

    def label(self, image: Image) -> str | None:
        """The image's key among the labels, if it is there."""
        name = PurePosixPath(image.member or image.url.partition("?")[0] or image.path).stem
        coco = _COCO.fullmatch(name)
        keys = [name, *([coco[1], coco[1].lstrip("0") or "0"] if coco else [])]
        return next((key for key in keys if key in self.objects), None)
