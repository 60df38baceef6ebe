"""DATASET/takedown.jsonl: images that must not be in the dataset. Digest, date and reason, nothing else.

`add` refuses them for ever; taking them out of everything that holds them is `captions/drop.py`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from sharecap.artifact import write_atomically
from sharecap.errors import SharecapError

TAKEDOWN = "takedown.jsonl"


def taken_down(dataset: Path) -> dict[str, str]:
    """Digests on the list, each with its date."""
    path = dataset / TAKEDOWN
    if not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return {str(row["sha256"]): str(row["date"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        todo = "restore it from a copy: it says which images must stay out"
        raise SharecapError(f"damaged takedown list ({error})", where=path, todo=todo) from None


def put_down(dataset: Path, ids: Iterable[str], date: str, reason: str) -> None:
    """Put `ids` on the list; those on it keep their date. The caller holds the dataset."""
    path, known = dataset / TAKEDOWN, taken_down(dataset)
    rows = [{"sha256": i, "date": date, "reason": reason} for i in ids if i not in known]
    before = path.read_text(encoding="utf-8") if known else ""
    write_atomically(path, before + "".join(json.dumps(row) + "\n" for row in rows))
