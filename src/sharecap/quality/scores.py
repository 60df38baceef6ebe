"""DATASET/scores/LAYER.jsonl: what somebody or something makes of each caption of a layer, a line for each.

The page shows and sorts by it (`web/`), curation keeps or drops by it (`curate.py`). What others wrote in a
line, such as verdicts on sentences or a score of theirs, is never lost to a score from here.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.artifact import partial_of
from sharecap.captions.page_files import SCORES
from sharecap.errors import SharecapError, UsageError
from sharecap.images.dataset import disk_errors

Verdict = Literal["right", "wrong", ""]


class Scored(BaseModel):
    """One line. `by` says what `score` is: the name of one of `measures`, or who else gave it."""

    model_config = ConfigDict(extra="allow")
    image_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    score: float | None = Field(default=None, allow_inf_nan=False)
    sentences: list[Verdict] | None = None
    by: str | None = None
    measures: dict[str, float] = {}


def scores_path(dataset: Path, layer: str) -> Path:
    """Where a layer's scores lie."""
    return dataset / SCORES / f"{layer}.jsonl"


def read_scores(path: Path) -> Iterator[Scored]:
    """The lines of a file of scores; `SharecapError` names the first bad one."""
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Scored.model_validate_json(line)
                except ValidationError as error:
                    what = f"bad score in line {number}: {error.errors()[0]['msg']}"
                    todo = 'give {"image_id", "score", "sentences"} a line'
                    raise SharecapError(what, where=path, todo=todo) from None
    except FileNotFoundError:
        raise UsageError("no scores", where=path, todo="make them: sharecap quality DATASET LAYER") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SharecapError(f"cannot read the scores ({error})", where=path) from None


class Scores:
    """Writes one layer's file: `with Scores(...) as file: file.put(...)`. It is whole or as it was before.

    `by` is the measure that becomes the page's score. A score that came from elsewhere stays, unless the
    user chose (`chosen`). The caller holds the dataset.
    """

    def __init__(self, dataset: Path, layer: str, by: str, *, chosen: bool) -> None:
        self._path, self._by, self._chosen = scores_path(dataset, layer), by, chosen
        self._theirs: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        if self._path.exists():
            for old in read_scores(self._path):
                kept = old.model_dump(exclude_unset=True, exclude={"image_id", "measures"})
                if self._chosen or old.by in old.measures:
                    kept.pop("score", None)
                    kept.pop("by", None)
                if kept:
                    self._theirs[old.image_id] = kept
        with disk_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
            self._file = open(partial_of(self._path), "w", encoding="utf-8")
        return self

    def put(self, image_id: str, measures: Mapping[str, float]) -> None:
        """The measures of an image's caption."""
        theirs = self._theirs.pop(image_id, {})
        ours = {"score": measures[self._by], "by": self._by} if self._by in measures else {}
        if "score" in theirs:
            ours = {}
        self._write({"image_id": image_id, **ours, **theirs, "measures": dict(measures)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        partial = partial_of(self._path)
        try:
            with disk_errors(self._path), self._file as file:
                if kind is None:
                    for image_id, theirs in self._theirs.items():
                        self._write({"image_id": image_id, **theirs})
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(partial, self._path)
        finally:
            partial.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
