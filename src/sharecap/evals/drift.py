"""A judge's drift: recorded reviews done again, by the same judge later or by another one (LLaVA#1905).

The same answers get the same words to the judge; whatever changes is the judge. The recorded reviews stay as
they are: what is measured goes to `RUN.drift/`, a line a measurement, with its own ledger.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.errors import UsageError
from sharecap.evals.exam import Exam
from sharecap.evals.judge import Item, review
from sharecap.evals.results import ITEMS, read_items
from sharecap.images.progress import Progress
from sharecap.statistics import compare

LINES = "drift.jsonl"


def drift(exam: Exam, run: Path, number: int, *, progress: Progress | None = None) -> dict[str, Any]:
    """Review `number` of the finished run's answers again, always the same ones first, and compare.

    Per benchmark: its metric over them as recorded and now, and the paired difference with its interval.
    A review that fails is left out on both sides, and counted.
    """
    assert exam.judge is not None
    artifact.read(run)
    known = {(task.name, sample.id): (task, sample) for task in exam.tasks for sample in task.samples}
    recorded = [record for record in read_items(run / ITEMS) if record.review]
    if not recorded:
        raise UsageError("this run has no reviews to be done again", where=run, todo="leave out --rejudge")
    recorded.sort(key=lambda record: hashlib.sha256(record.key.encode()).digest())
    items: list[Item] = [(*known[record.task, record.id], record) for record in recorded[:number]]
    place = run.with_name(f"{run.name}.drift")
    place.mkdir(exist_ok=True)
    lines = place / LINES
    before = lines.read_text(encoding="utf-8").count("\n") if lines.exists() else 0
    again, bill = review(exam.judge, items, place, draw=f"drift {before}", progress=progress)
    found: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "judge": exam.judge.name,
        "recorded": sorted({record.review["judge"] for _, _, record in items}),
        "failures": dict(bill.missing),
        "usd": bill.usd,
        "benchmarks": {},
    }
    # A repetition that failed leaves its record as it was, the very object.
    both = [(old, new) for (_, _, old), new in zip(items, again, strict=True) if new is not old]
    for task in exam.tasks:
        pairs = [(old, new) for old, new in both if old.task == task.name]
        if pairs:
            olds, news = (task.measure(side) for side in zip(*pairs, strict=True))
            metric = olds.headline
            one = compare({metric: (news.scores[metric], olds.scores[metric])})[metric]
            changed = sum(old.parsed != new.parsed for old, new in pairs)
            told = {"metric": metric, "n": len(pairs), "changed": changed}
            sides = {"recorded": one.b, "now": one.a, "difference": one.difference}
            found["benchmarks"][task.name] = told | artifact.plain(sides)
    with open(lines, "a", encoding="utf-8") as f:
        f.write(json.dumps(found, ensure_ascii=False) + "\n")
    return found | {"path": str(lines)}


def drift_lines(found: Mapping[str, Any]) -> list[str]:
    """A line a benchmark."""
    lines = []
    for name, one in found["benchmarks"].items():
        low, high = one["difference"]["low"], one["difference"]["high"]
        between = "" if low is None else f" ({low:+.2f} .. {high:+.2f})"
        lines.append(
            f"{name}: {one['n']:,} answers reviewed again by {found['judge']}: "
            f"{one['recorded']['value']:.2f} as recorded, {one['now']['value']:.2f} now, "
            f"{one['difference']['value']:+.2f}{between}; {one['changed']:,} reviews changed"
        )
    failed = sum(found["failures"].values())
    return [*lines, f"{failed:,} could not be reviewed again", f"drift: {found['path']}"]
