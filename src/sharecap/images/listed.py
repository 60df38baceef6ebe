"""Lists of images: LLaVA JSON and COCO annotations, whose files lie below a folder of images.

A listed image that isn't there is a named failure, under the name that the list gives it; users must be able
to see what they lack and where to get it. Nothing outside the folder of images is ever opened.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.images.candidate import Candidate, Failure, Options, clean
from sharecap.images.dataset import FAILURES
from sharecap.images.folder import beneath
from sharecap.images.shards import described
from sharecap.images.stream import BadLine, elements, first_character

LISTS = frozenset({".json", ".jsonl"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a LLaVA list: the files that it names, and its whole content."""

    number: int
    images: tuple[str, ...]
    fields: dict[str, Any]


def images(path: Path, options: Options) -> Iterator[Candidate | None]:
    """The images that the list at `path` names, each once; None stands for a row without an image."""
    root = image_root(path, options)
    if not is_rows(path):
        yield from _coco(path, root, options)
        return
    seen: set[str] = set()
    for row in rows(path):
        if isinstance(row, Failure):
            yield Candidate(str(path), "", (row.reason, row.what), member=row.path.removeprefix(f"{path}::"))
            continue
        if not row.images:
            yield None
        for name in row.images:
            if name not in seen:
                seen.add(name)
                # The conversation is about the image; it is a layer of captions, not the image's alt-text.
                fields = {key: value for key, value in row.fields.items() if key != "conversations"}
                yield described(_listed(root, name, options), fields, options)


def is_rows(path: Path) -> bool:
    """The file is a LLaVA list, and no COCO annotations."""
    suffix = path.suffix.lower()
    return suffix == ".jsonl" or (suffix == ".json" and first_character(path) == "[")


def image_root(path: Path, options: Options) -> Path:
    """The folder that the list's paths are relative to."""
    return (options.images or path.parent).resolve()


def rows(path: Path) -> Iterator[Row | Failure]:
    """The rows of a LLaVA list; a row that isn't understood is a failure."""
    for number, (key, found) in enumerate(elements(path)):
        if key:
            raise SharecapError("not a list of rows", where=path, todo='give a JSON list of {"image", ...}')
        if isinstance(found, BadLine):
            yield Failure(f"{path}::line {found.number}", "malformed", found.what)
            continue
        named = found.get("image") if isinstance(found, dict) else 0
        names = [] if named is None else [named] if isinstance(named, str) else named
        if isinstance(names, list) and all(isinstance(name, str) and name for name in names):
            yield Row(number, tuple(names), found)
        else:
            yield Failure(f"{path}::row {number}", "malformed", "neither a path nor a list of paths as image")


def _listed(root: Path, name: str, options: Options) -> Candidate:
    path, problem = beneath(root, name)
    below = name.replace("\\", "/").removeprefix(f"{root}/").lstrip("./").split("/")
    source = options.source or (below[0] if len(below) > 1 else root.name) or "images"
    return Candidate(path, clean(source) or "images", problem, name=clean(name))


def _coco(path: Path, root: Path, options: Options) -> Iterator[Candidate | None]:
    """Two readings: annotations may stand before or behind the images."""
    captions: dict[Any, list[str]] = {}
    licences: dict[Any, str] = {}
    for key, found in elements(path):
        if not isinstance(found, dict):
            continue
        if key == "annotations" and isinstance(found.get("caption"), str):
            captions.setdefault(str(found.get("image_id")), []).append(found["caption"].strip())
        elif key == "licenses":
            licences[str(found.get("id"))] = clean(found.get("name")) or clean(found.get("url"))
    listed, number = False, 0
    for key, found in elements(path):
        if key != "images":
            continue
        listed, number = True, number + 1
        if not isinstance(found, dict) or not isinstance(found.get("file_name"), str):
            what = ("malformed", "an image without a file name")
            yield Candidate(str(path), "", what, member=f"image {number - 1}")
            continue
        candidate = replace(
            _listed(root, found["file_name"], options),
            alt_text=clean(captions.get(str(found.get("id")), [])),
            licence=licences.get(str(found.get("license")), ""),
        )
        fields = {key: value for key, value in found.items() if key != "license"}  # a number
        yield described(candidate, fields, options)
    if not listed:
        todo = 'give a LLaVA list, or COCO annotations with "images"'
        raise SharecapError("no list of images in the file", where=path, todo=todo)


@dataclass(frozen=True)
class Absent:
    """Listed images that aren't there, of one set."""

    folder: str  # first folder of their names
    images: int
    example: str
    hint: str  # where people get the set; "" if that isn't known


HINTS = {
    "sam": "SAM: SA-1B from ai.meta.com/datasets/segment-anything-downloads; ShareGPT4V uses tars 000000 to "
    "000050, and not all of its images are in them",
    "coco": "COCO: images.cocodataset.org/zips/train2017.zip",
    "llava": "LAION-CC-SBU 558K: images.zip of liuhaotian/LLaVA-Pretrain on the Hugging Face Hub",
    "gqa": "GQA: downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
    "textvqa": "TextVQA: dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "vg": "Visual Genome: images.zip and images2.zip from cs.stanford.edu/people/rak248/VG_100K_2",
    "ocr_vqa": "OCR-VQA: by the script of ocr-vqa.github.io, all saved as .jpg; some are gone for good",
    "wikiart": "WikiArt: wikiart/images of the ShareGPT4V collection, linked from docs/Data.md of "
    "ShareGPT4Omni/ShareGPT4V",
    "web-celebrity": "web-celebrity: linked from docs/Data.md of ShareGPT4Omni/ShareGPT4V",
    "web-landmark": "web-landmark: linked from docs/Data.md of ShareGPT4Omni/ShareGPT4V",
    "share_textvqa": "share_textvqa: linked from docs/Data.md of ShareGPT4Omni/ShareGPT4V",
}
"""First folder of a name, as the paper's files have it -> where people get the set."""


def absent(failures: Iterable[Failure]) -> list[Absent]:
    """What is missing of lists, by set, most first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for failure in failures:
        if failure.reason == "missing" and failure.name:
            folder = failure.name.lstrip("./").partition("/")[0] if "/" in failure.name else "."
            counts[folder] += 1
            examples.setdefault(folder, failure.name)
    return [
        Absent(folder, count, examples[folder], HINTS.get(folder.lower().replace("ocrvqa", "ocr_vqa"), ""))
        for folder, count in counts.most_common()
    ]


def absent_lines(sets: Sequence[Absent]) -> list[str]:
    """For people: what the lists lack, and where to get it."""
    if not sets:
        return []
    lines = ["listed, but not there (each is named in " + FAILURES + "):"]
    for one in sets:
        lines.append(f"  {one.folder + '/':<16} {one.images:>9,}, such as {one.example}")
        if one.hint:
            lines.append(f"      {one.hint}")
    return [*lines, "  put them there and add the list again: only they are taken in then"]
