"""The rows of a recipe's stages: where their files lie, which are missing, what is in them."""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sharecap import artifact
from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.mixed import Mixed, one_after_another
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


def measured(stage: Stage, data: Path, language: str | Path, image_tokens: int) -> tuple[RowKind, ...]:
    """What kinds of rows there are, by number of images; their lengths from a sample of `SAMPLE` rows.

    `SharecapError` without a tokenizer in `language`.
    """
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
    chosen = random.Random(0).sample(rows, min(SAMPLE, len(rows)))
    by_images: dict[int, list[Document]] = defaultdict(list)
    for document in cutter.documents(chosen):
        by_images[len(document.images)].append(document)
    kinds = []
    for images, documents in sorted(by_images.items()):
        learned = sum(int(d.learned.sum()) for d in documents)
        given = sum(map(len, documents)) - learned - images * image_tokens * len(documents)
        name, count = f"rows with {images} pictures", round(len(rows) * len(documents) / len(chosen))
        kinds.append(RowKind(name, count, images, given / len(documents), learned / len(documents)))
    return tuple(kinds)
