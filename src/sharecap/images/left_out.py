"""DATASET/left_out.jsonl: images that were dropped as near-duplicates or for their overlap with a benchmark.

`add` does not take them in again. Unlike a takedown this is the user's choice, so it can be undone: without
its line, an image comes back with the next `add`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError

LEFT_OUT = "left_out.jsonl"
KINDS = {"duplicate": "near-duplicates", "overlap": "images of benchmarks"}
"""The reasons there are, in words."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an image is left out."""

    kind: str  # one of `KINDS`
    like: str  # the image that stays for it, by id, or the benchmark's item


def left_out(dataset: Path) -> dict[str, Reason]:
    """The images left out, by id."""
    path = dataset / LEFT_OUT
    if not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return {str(row["sha256"]): Reason(str(row["kind"]), str(row["like"])) for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        todo = "restore it from a copy, or remove it: all that was left out comes back then"
        raise SharecapError(f"damaged list of images left out ({error})", where=path, todo=todo) from None


def note_left_out(dataset: Path, why: Mapping[str, Reason]) -> None:
    """Put images on the list; those on it keep their reason. The caller holds the dataset."""
    rows = {**why, **left_out(dataset)}
    lines = (json.dumps({"sha256": i, **asdict(reason)}, ensure_ascii=False) for i, reason in rows.items())
    write_atomically(dataset / LEFT_OUT, "".join(line + "\n" for line in lines))


def counted(dataset: Path) -> dict[str, int]:
    """How many images are left out, by kind."""
    return dict(sorted(Counter(reason.kind for reason in left_out(dataset).values()).items()))
