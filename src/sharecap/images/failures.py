"""DATASET/failures.jsonl: files that could not be taken in, over all `add`s, each with its reason."""

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError
from sharecap.images.candidate import Failure
from sharecap.images.dataset import FAILURES


def failures_of(dataset: Path) -> list[Failure]:
    """The files that could not be taken and have not been since."""
    path = dataset / FAILURES
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8") as lines:
            return [Failure(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise SharecapError(f"damaged list of failures ({error})", where=path) from None


def record_failures(dataset: Path, new: Sequence[Failure], *, past: AbstractSet[str]) -> None:
    """Put `new` on the list in place of what it said of these files; take off the places in `past`."""
    before = failures_of(dataset)
    if not before and not new:
        return
    again = {f.path for f in new} | past
    kept = [f for f in before if f.path not in again]
    lines = [json.dumps(asdict(f), ensure_ascii=False) for f in [*kept, *new]]
    write_atomically(dataset / FAILURES, "".join(line + "\n" for line in lines))


def failed_line(counts: dict[str, int], dataset: str) -> str:
    """For people: how many files failed for which reason, and where they are named."""
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    return f"could not be taken: {kinds} (named in {Path(dataset) / FAILURES})"
