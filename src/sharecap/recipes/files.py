"""The rows of a recipe's stages: where their files lie, which are missing, what is in them."""

from collections import defaultdict
from collections.abc import Sequence
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


def measured(stage: Stage, data: Path, language: str | Path, image_tokens: int) -> Lengths:
    """What kinds of rows there are, from `SAMPLE` of them; `SharecapError` without a tokenizer."""
    rows = rows_of(stage, data)
    if not rows:
        raise SharecapError("no rows", where=data / stage.rows[0].file)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(language))
    except Exception:  # noqa: BLE001 - whatever its absence makes the loaders raise
        todo = "name a directory that has one, or leave --data away to plan from the recipe's own estimates"
        raise SharecapError("no tokenizer to measure rows with", where=language, todo=todo) from None
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    cutter = Cutter(tokenizer, template_named(stage.train.template, tokenizer), image_tokens)
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
        given = sum(map(len, documents)) - learned - images * image_tokens * len(documents)
        name = f"rows with {images} pictures"
        count = round(len(rows) * len(documents) / (len(chosen) - len(problems)))
        kinds.append(RowKind(name, count, images, given / len(documents), learned / len(documents)))
    stopping = (p for _, p in sorted(problems.items()) if p.reason not in stage.train.leave_out)
    told = tuple(f"row {p.id}: {p.what}" + (f" ({p.image})" if p.image else "") for p in stopping)
    if not kinds and not told:
        raise SharecapError("no rows that can be trained on", where=data / stage.rows[0].file)
    return Lengths(tuple(kinds), told)
