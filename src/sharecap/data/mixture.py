"""Mixtures: rows drawn from several files by count or weight, and the artifact that keeps the draw.

Implements what the paper's instruction data are (section 4.2): a base mixture of which some rows give way to
new ones. The draw depends on the seed alone, and on each part alone: a part more changes no other's rows.
It holds no rows, only which they are; files that changed since are refused.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.data.mixed import Mixed
from sharecap.data.rows import Rows
from sharecap.data.substitution import Substitution, places_of, substitute
from sharecap.errors import SharecapError, UsageError
from sharecap.records import Conversation

INDEX = "index.npy"


@dataclass(frozen=True)
class Part:
    """A file of rows and how much of it: all of it once, or `count` rows, or a share by `weight`."""

    path: Path
    images: Path | None = None  # folder that image paths are relative to; None: the file's own
    count: int | None = None  # rows; beyond the file's own number they come again
    weight: float | None = None  # share of what the counted and whole parts leave of the mixture's `rows`
    only: str | None = None  # rows whose image, as the file has it, is like this ("sam/*"); "": rows without

    def __post_init__(self) -> None:
        if self.count is not None and self.weight is not None:
            raise UsageError("give count or weight", where=self.path)
        if self.count is not None and self.count < 0:
            raise UsageError("count must be at least 0", where=self.path)
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise UsageError("weight must be a number above 0", where=self.path)


@dataclass(frozen=True)
class Swap:
    """Equal substitution: the mixture's rows that `old` holds give way to as many of `new`."""

    old: Path  # rows to take out, told by id and first question
    new: tuple[Part, ...]  # what replaces them: the same image first, then the same folder

    def __post_init__(self) -> None:
        for part in self.new:
            if part.weight is not None:
                raise UsageError("what replaces rows has no weight", where=part.path)


@dataclass(frozen=True)
class Mixture:
    """What to train on."""

    parts: tuple[Part, ...]
    rows: int | None = None  # of the mixture; needed where a part has a weight
    swap: Swap | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        weighted = any(part.weight is not None for part in self.parts)
        if not self.parts:
            raise UsageError("a mixture needs a file of rows")
        if weighted != (self.rows is not None):
            raise UsageError("weights share out a number of rows: give both or none", where="mixture")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that rows are read from, or told by."""
        swapped = () if self.swap is None else (self.swap.old, *(part.path for part in self.swap.new))
        return (*(part.path for part in self.parts), *swapped)


@dataclass(frozen=True)
class Mix:
    """A mixture drawn: its rows, and how many came from where."""

    rows: Mixed
    counts: tuple[int, ...]  # of each part, before rows were swapped
    substitution: Substitution | None

    def metrics(self) -> dict[str, Any]:
        """For manifests and people."""
        found: dict[str, Any] = {"rows": len(self.rows), "parts": list(self.counts)}
        if self.substitution is not None:
            found["replaced"] = {
                name: getattr(self.substitution, name)
                for name in ("same_image", "same_source", "other_source")
            }
        return found


def part_of(text: str) -> Part:
    """`rows.json,images=DIR,count=N,weight=W,only=PATTERN` as a part; all but the file may be left out."""
    path, *settings = text.split(",")
    found: dict[str, Any] = {}
    forms: dict[str, Any] = {"images": Path, "count": int, "weight": float, "only": str}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            found[name] = forms[name](value)
        except (KeyError, ValueError):
            todo = "write FILE,images=DIR,count=N,weight=W,only=PATTERN, each of which may be left out"
            raise UsageError(f"cannot read {setting!r}", where=text, todo=todo) from None
    return Part(Path(path), **found)


def mix(mixture: Mixture) -> Mix:
    """Draw the mixture. Files are gone through at most once, and only where rows are chosen by content."""
    sources = [Rows(part.path, part.images) for part in mixture.parts]
    chosen = [matching(rows, part.only) for part, rows in zip(mixture.parts, sources, strict=True)]
    counts = shares(mixture, [len(numbers) for numbers in chosen])
    drawn = [
        draw(numbers, count, mixture.seed, at, mixture.parts[at].path)
        for at, (numbers, count) in enumerate(zip(chosen, counts, strict=True))
    ]
    which = np.repeat(np.arange(len(sources), dtype=np.uint16), counts)
    rows = Mixed(sources, which, np.concatenate(drawn))
    if mixture.swap is None:
        return Mix(rows, counts, None)
    places = places_of(rows, Rows(mixture.swap.old))
    new = replacements(mixture.swap.new, {rows[i].images for i in places}, mixture.seed)
    swapped = substitute(rows, places, new, seed=mixture.seed)
    return Mix(swapped.rows, counts, swapped)


def replacements(parts: Sequence[Part], wanted: Collection[tuple[str, ...]], seed: int) -> Mixed:
    """The rows that may replace others. Of a counted part, those about `wanted` images are taken first."""
    sources = [Rows(part.path, part.images) for part in parts]
    drawn = []
    for at, (part, rows) in enumerate(zip(parts, sources, strict=True)):
        numbers = matching(rows, part.only)
        if part.count is not None:
            same = np.array([rows[i].images in wanted for i in numbers.tolist()], dtype=bool)
            first = draw(numbers[same], min(part.count, int(same.sum())), seed, at, part.path)
            others = draw(numbers[~same], part.count - len(first), seed, at, part.path)
            numbers = np.concatenate([first, others])
        drawn.append(numbers)
    which = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(numbers) for numbers in drawn])
    return Mixed(sources, which, np.concatenate(drawn))


def matching(rows: Rows, only: str | None) -> NDArray[np.int64]:
    """Numbers of the rows whose first image is like `only`."""
    if only is None:
        return np.arange(len(rows))

    def like(row: Conversation) -> bool:
        if not row.images or not only:
            return not row.images and not only
        return fnmatchcase(Path(os.path.relpath(row.images[0], rows.root)).as_posix(), only)

    return np.array([i for i, row in enumerate(rows) if like(row)], dtype=np.int64)


def shares(mixture: Mixture, there: list[int]) -> tuple[int, ...]:
    """How many rows each part gives; what weights leave over goes to the largest fractions."""
    counts = [n if part.count is None else part.count for part, n in zip(mixture.parts, there, strict=True)]
    weighted = [i for i, part in enumerate(mixture.parts) if part.weight is not None]
    if mixture.rows is None:
        return tuple(counts)
    left = mixture.rows - sum(n for i, n in enumerate(counts) if i not in weighted)
    if left < 0:
        what = f"{mixture.rows} rows are wanted, parts without a weight have {mixture.rows - left}"
        raise UsageError(what, where="mixture", todo="raise rows or lower counts")
    total = sum(mixture.parts[i].weight or 0 for i in weighted)
    exact = {i: left * (mixture.parts[i].weight or 0) / total for i in weighted}
    for i in weighted:
        counts[i] = int(exact[i])
    missing = left - sum(counts[i] for i in weighted)
    for i in sorted(weighted, key=lambda i: (counts[i] - exact[i], i))[:missing]:
        counts[i] += 1
    return tuple(counts)


def draw(numbers: NDArray[np.int64], count: int, seed: int, part: int, path: Path) -> NDArray[np.int64]:
    """`count` of the numbers, in order: each as often as goes for all, the rest at random."""
    if count and not len(numbers):
        raise UsageError("no such rows to draw from", where=path)
    often, rest = divmod(count, len(numbers)) if count else (0, 0)
    few = np.random.default_rng([seed, part]).permutation(numbers)[:rest]
    return np.sort(np.concatenate([np.tile(numbers, often), few]))


def keep(mixture: Mixture, directory: Path) -> Artifact:
    """Draw the mixture and keep the draw as an artifact; nothing is done if it is there already."""
    inputs = {str(file.absolute()): Rows(file).places.digest for file in mixture.files}
    parts = tuple(absolute(part) for part in mixture.parts)
    swap = mixture.swap
    if swap is not None:
        swap = Swap(swap.old.absolute(), tuple(map(absolute, swap.new)))
    mixture = replace(mixture, parts=parts, swap=swap)

    def work(place: Path) -> Mapping[str, Any]:
        made = mix(mixture)
        np.save(place / INDEX, np.stack([made.rows.which.astype(np.int64), made.rows.rows]))
        return made.metrics()

    return artifact.stage(directory, "mixture", mixture, inputs, work)


def mixed_lines(made: Artifact) -> list[str]:
    """A kept mixture for people."""
    parts = zip(made.config["parts"], made.metrics["parts"], strict=True)
    lines = [f"{count:>9,} rows of {part['path']}" for part, count in parts]
    if swapped := made.metrics.get("replaced"):
        total, same = sum(swapped.values()), swapped["same_image"]
        lines.append(
            f"{total:>9,} of them replaced: {same:,} by a row about the same image, "
            f"{swapped['same_source']:,} from the same folder, {swapped['other_source']:,} from elsewhere"
        )
    return [*lines, f"{made.metrics['rows']:>9,} rows in {made.path}"]


def absolute(part: Part) -> Part:
    """The part with paths that hold from anywhere."""
    return replace(part, path=part.path.absolute(), images=part.images and part.images.absolute())


def open_rows(path: Path, image_root: Path | None = None) -> Rows | Mixed:
    """The rows at `path`: of a file (`image_root` says where its images are), or of a kept mixture."""
    if not path.is_dir():
        return Rows(path, image_root)
    found = artifact.read(path)
    if found.kind != "mixture":
        raise UsageError(f"this is a {found.kind!r}, no mixture", where=path)
    parts = [*found.config["parts"], *(found.config["swap"]["new"] if found.config["swap"] else [])]
    sources = []
    for part in parts:
        rows = Rows(Path(part["path"]), Path(part["images"]) if part["images"] else None)
        if rows.places.digest != found.inputs[part["path"]]:
            what = f"{path} was made from other rows than this file holds now"
            raise SharecapError(what, where=rows.path, todo="mix again")
        sources.append(rows)
    index = np.load(path / INDEX, mmap_mode="r")
    return Mixed(sources, index[0].astype(np.uint16), index[1])
