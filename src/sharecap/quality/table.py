"""The table of `sharecap quality`, for people."""

from collections.abc import Sequence

from sharecap.quality.lexical import NUMBERS
from sharecap.quality.measure import Column, Quality
from sharecap.statistics import Estimate

NAMES = {
    "chair_i": "CHAIRi",
    "chair_s": "CHAIRs",
    "object_recall": "objects named",
    "ocr_recall": "words read",
}


def quality_lines(found: Quality) -> list[str]:
    """For people. Intervals are 95 %; `*` marks a difference whose interval leaves zero out."""
    columns = found.columns
    names = list(dict.fromkeys(name for column in columns for name in column.measures))
    rows = [["", *(column.layer for column in columns)]]
    rows.append(["captions", *(f"{column.captions:,}" for column in columns)])
    rows += [[NAMES.get(name, name), *(_cell(name, one, columns[0]) for one in columns)] for name in names]
    compared = columns[0].together.captions
    rows.append([f"of {compared:,} captions each", *("" for _ in columns)])
    rows.append(["  distinct_2", *(_share(column.together.distinct_2) for column in columns)])
    rows.append(["  mtld", *(_number(column.together.mtld) for column in columns)])
    rows.append(["  similarity", *(_share(column.together.similarity) for column in columns)])
    rows.append(["  openings", *(f"{column.together.different_openings:,}" for column in columns)])
    lines = [f"{found.dataset}: {found.images:,} images; words tagged by {found.tagger}", *_aligned(rows)]
    lines += _by_source(found)
    for column in columns:
        told = ", ".join(f"{words!r} {n:,}" for words, n in column.together.openings[:3])
        lines.append(f"{column.layer} begins: {told or 'nothing'}")
    if len(columns) > 1:
        both = ", ".join(f"{column.layer} {column.in_both:,}" for column in columns[1:])
        lines.append(f"* differs from {columns[0].layer}, on the images of both ({both}): 95 % interval")
    if found.agreement and found.agreement[0]:
        words, same = found.agreement
        lines.append(f"textblob agrees on {100 * same / words:.1f} % of {words:,} words")
    if found.labelled is not None:
        lines.append(f"objects are known of {found.labelled:,} of {found.images:,} images")
    if found.reader is not None:
        lines.append(f"words read in the images by {found.reader}")
    return [*lines, f"scores of single captions ({found.score}) are in {found.dataset}/scores"]


def _by_source(found: Quality) -> list[str]:
    """A table of the same rows for each source."""
    lines = []
    for part in found.sources:
        names = list(dict.fromkeys(name for one in part.measures for name in one))
        rows = [["", *(column.layer for column in found.columns)]]
        rows += [
            [NAMES.get(name, name), *(_told(name, one.get(name)) for one in part.measures)] for name in names
        ]
        lines += [f"source {part.source}: {part.images:,} images", *_aligned(rows)]
    others = found.images - sum(part.images for part in found.sources)
    if found.sources and others:
        lines.append(f"other sources: {others:,} images, too few in each to measure apart")
    return lines


def _cell(name: str, column: Column, first: Column) -> str:
    return _told(name, column.measures.get(name)) + (
        "*" if column is not first and _differs(column.minus_first.get(name)) else ""
    )


def _told(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = estimate.low, estimate.high
    told = _value(name, estimate.value)
    if low is not None and high is not None:
        told += f" [{_value(name, low)}, {_value(name, high)}]"
    return told


def _differs(difference: Estimate | None) -> bool:
    if difference is None or difference.low is None or difference.high is None:
        return False
    return difference.low > 0 or difference.high < 0


def _value(name: str, value: float) -> str:
    return f"{value:.1f}" if name in NUMBERS else f"{100 * value:.1f} %"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
