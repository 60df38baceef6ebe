"""The rows of a recipe's stages: where their files lie, which are missing, what is in them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from sharecap import artifact
from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.check import picture_problems, too_large
from sharecap.data.measure import measure
from sharecap.data.mixed import Mixed, one_after_another, some_of
from sharecap.data.mixture import open_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.model import qwen
from sharecap.model.build import Parts, read_config
from sharecap.recipes.recipe import Stage
from sharecap.records import IMAGE_TOKEN
from sharecap.train.cost import RowKind

SAMPLE = 1000
"""Rows that are cut to know how long all are."""


def check(stages: Sequence[Stage], data: Path) -> None:
    """`UsageError` that names every file of rows that isn't there, and where people get it."""
    if not data.is_dir():
        raise UsageError(
            "no such data directory", where=data, todo="give the one that holds the rows: --data"
        )
    sources = dict.fromkeys(source for stage in stages for source in stage.rows)
    missing = [source for source in sources if not (data / source.file).exists()]
    if missing:
        listed = "; ".join(s.file + (f" (from {s.origin})" if s.origin else "") for s in missing)
        what = f"{len(missing)} of {len(sources)} files of rows are missing"
        raise UsageError(what, where=data, todo=f"put there: {listed}")
    absent = [source.images for source in sources if not (data / source.images).is_dir()]
    if absent:
        raise UsageError("no such folder of images", where=data / absent[0], todo="put the images there")


def rows_of(stage: Stage, data: Path) -> Mixed:
    """All rows that the stage learns from, file by file or mixture by mixture; they stay where they are."""
    return one_after_another([open_rows(data / source.file, data / source.images) for source in stage.rows])


def digests(stage: Stage, data: Path) -> dict[str, str]:
    """What each file holds, or what each mixture was asked for, by the name that the recipe has for it."""
    found = {source.file: data / source.file for source in stage.rows}
    return {
        name: artifact.read(path).key if path.is_dir() else artifact.file_digest(path)
        for name, path in found.items()
    }


@dataclass(frozen=True)
class Lengths:
    """What a sample of a stage's rows says of them all."""

    kinds: tuple[RowKind, ...]  # by number of images
    bad: tuple[str, ...]  # each row of the sample that training would stop at: its name and what is wrong


def reader_of(parts: Parts | Path) -> Any:
    """What cuts a model's rows: its tokenizer, or the processor of one of Qwen's; `SharecapError` without."""
    place = parts if isinstance(parts, Path) else parts.language
    try:
        if isinstance(parts, Path) and read_config(parts).model_type == qwen.KIND:
            return qwen.PictureProcessor.read(parts)
        tokenizer: Any = AutoTokenizer.from_pretrained(str(place))
    except Exception:  # noqa: BLE001 - whatever its absence makes the loaders raise
        todo = "name a directory that has one, or leave --data away to plan from the recipe's own estimates"
        raise SharecapError("no tokenizer to measure rows with", where=place, todo=todo) from None
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def measured(stage: Stage, data: Path, reads: Any, places: int | Callable[[str], int]) -> Lengths:
    """What kinds of rows there are, from `SAMPLE` of them.

    `reads` is what `reader_of` gave; `places` are those of a picture in the language model.
    """
    rows = rows_of(stage, data)
    if not rows:
        raise SharecapError("no rows", where=data / stage.rows[0].file)
    template = template_named(stage.train.template, reads)
    cutter = Cutter(getattr(reads, "tokenizer", reads), template, places)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:SAMPLE])
    sample = some_of(rows, chosen)
    found = measure(sample, cutter)
    assert found.documents is not None, "a sample is few rows"
    listed = [*picture_problems(sample, False, 0), *found.problems]
    if stage.train.too_long == "refuse":
        listed += too_large(sample, found.sizes, stage.train.pack_tokens, stage.train.pack_images)
    problems = {problem.number: problem for problem in listed}
    by_images: dict[int, list[Document]] = defaultdict(list)
    for number, document in enumerate(found.documents):
        if number not in problems:
            by_images[len(document.images)].append(document)
    kinds = []
    for images, documents in sorted(by_images.items()):
        learned = sum(int(d.learned.sum()) for d in documents)
        seen = sum(int((d.ids == cutter.image_id).sum()) for d in documents)
        given, few = sum(map(len, documents)) - learned - seen, len(documents)
        name = f"rows with {images} pictures"
        count = round(len(rows) * few / (len(chosen) - len(problems)))
        mean = seen / (few * images) if images else None
        kinds.append(RowKind(name, count, images, given / few, learned / few, mean))
    stopping = (p for _, p in sorted(problems.items()) if p.reason not in stage.train.leave_out)
    told = tuple(f"row {p.id}: {p.what}" + (f" ({p.image})" if p.image else "") for p in stopping)
    if not kinds and not told:
        raise SharecapError("no rows that can be trained on", where=data / stage.rows[0].file)
    return Lengths(tuple(kinds), told)
