"""What lies in a directory of benchmarks: which are whole, in which version, and where the others are.

Reads as an evaluation would, pictures included, and asks no model.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.suite import FOLDERS, read_folder
from sharecap.evals.task import Task

SOURCES: Mapping[str, str] = {
    "mme": "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models",
    "mmbench": "github.com/open-compass/MMBench",
    "seed-bench": "huggingface.co/datasets/AILab-CVC/SEED-Bench",
    "qbench": "github.com/Q-Future/Q-Bench",
    "scienceqa": "scienceqa.github.io",
    "vqav2": "visualqa.org",
    "vizwiz": "vizwiz.org",
    "textvqa": "textvqa.org",
    "gqa": "cs.stanford.edu/people/dorarad/gqa",
    "pope": "github.com/RUCAIBox/POPE, pictures from cocodataset.org",
    "mmstar": "huggingface.co/datasets/Lin-Chen/MMStar",
    "detailed-captions": "huggingface.co/datasets/foundation-multimodal-models/DetailCaps-4870",
    "llava-bench": "huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
    "mm-vet": "github.com/yuweihao/MM-Vet",
}
"""Who gives the benchmark out."""

VERSIONS: Mapping[str, Mapping[int, str]] = {
    "mme": {2374: "whole"},
    "mmbench": {4377: "the dev split"},
    "mmbench-cn": {4377: "the dev split"},
    "seed-bench": {14233: "the old labels", 14232: "the updated labels"},
    "qbench": {1495: "the dev split"},
    "scienceqa": {2017: "the test split's questions with a picture"},
    "vqav2": {214354: "the val split"},
    "vizwiz": {4319: "the val split"},
    "textvqa": {5000: "the val split"},
    "gqa": {12578: "testdev-balanced"},
    "pope": {8910: "random in its old form of 2,910", 9000: "random in its new form of 3,000"},
    "mmstar": {1500: "whole"},
    "detailed-captions": {4870: "DetailCaps-4870"},
    "llava-bench": {60: "whole"},
    "mm-vet": {218: "whole"},
}
"""Number of questions -> what has so many."""


@dataclass(frozen=True)
class Entry:
    """One benchmark in the directory."""

    benchmark: str
    questions: int = 0
    pictures: int = 0
    version: str = ""
    digest: str = ""  # of all that would be asked, pictures included
    problem: str = ""  # why it can't be evaluated


def take_stock(directory: Path) -> list[Entry]:
    """Every benchmark that an evaluation looks for, as it lies in the directory, which must be there."""
    if not directory.is_dir():
        todo = "give the directory that holds the benchmarks"
        raise UsageError("no such directory", where=directory, todo=todo)
    return [entry for name in FOLDERS for entry in _entries(name, directory / name)]


def _entries(name: str, folder: Path) -> list[Entry]:
    if not folder.is_dir():
        return [Entry(name, problem=f"not there; given out at {SOURCES[name]}")]
    try:
        tasks = read_folder(name, folder)
        for task in tasks:
            _look_at_pictures(task, folder)
        return [_entry(task) for task in tasks]
    except SharecapError as error:
        return [Entry(name, problem=str(error))]


def _look_at_pictures(task: Task, folder: Path) -> None:
    """`SharecapError` for the first picture whose head is none; all of it is read when it is asked about."""
    seen = set[int]()  # questions share the object
    for sample in task.samples:
        for image in sample.images:
            if id(image) in seen:
                continue
            seen.add(id(image))
            try:
                with Image.open(image if isinstance(image, Path) else io.BytesIO(image)):
                    pass
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                where = image if isinstance(image, Path) else folder
                raise SharecapError(f"question {sample.id}: its picture is none", where=where) from None


def _entry(task: Task) -> Entry:
    number = len(task.samples)
    pictures = len({image for sample in task.samples for image in sample.images})
    known = VERSIONS[task.name]
    sizes = " or ".join(f"{size:,}" for size in known)
    version = known.get(number, f"not a known version, which has {sizes}")
    return Entry(task.name, number, pictures, version, task.digest)


def stock_lines(entries: list[Entry]) -> list[str]:
    """A line a benchmark."""
    return [f"{entry.benchmark}: {entry.problem or _told(entry)}" for entry in entries]


def _told(entry: Entry) -> str:
    asked = f"{entry.questions:,} questions about {entry.pictures:,} pictures"
    return f"{asked} ({entry.version}), {entry.digest[:12]}"
