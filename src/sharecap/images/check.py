"""A look at a dataset: how many images of which source, and whether each lies where the catalog says."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sharecap.images.catalog import Catalog
from sharecap.images.failures import failed_line, failures_of
from sharecap.images.left_out import KINDS, LEFT_OUT, counted
from sharecap.images.listed import Absent, absent, absent_lines
from sharecap.images.place import place_of, presence

EXAMPLES = 20
"""Missing and changed images that `check` names for people; `--json` names all."""


@dataclass(frozen=True)
class CheckReport:
    """What a look at the dataset found; `missing` and `changed` are images whose place is not as it was."""

    dataset: str
    images: int
    sources: dict[str, int]
    failed: dict[str, int]  # reason -> files that could not be taken
    missing: list[str]
    changed: list[str]
    unlicensed: dict[str, int] = field(default_factory=dict)  # source -> images of unknown licence
    absent: list[Absent] = field(default_factory=list)  # listed images that were never there, by set
    left_out: dict[str, int] = field(default_factory=dict)  # duplicate, overlap -> images dropped


def check(dataset: Path) -> CheckReport:
    """Count the images per source, and name those that are missing or have another size at their place."""
    catalog = Catalog.open(dataset)
    sources, unlicensed = Counter[str](), Counter[str]()
    found: dict[str, list[str]] = {"missing": [], "changed": []}
    for image in catalog:
        sources[image.source] += 1
        unlicensed[image.source] += not image.licence
        state = presence(image)
        if state != "there":
            found[state].append(place_of(image))
    failures = failures_of(dataset)
    failed = Counter(f.reason for f in failures)
    return CheckReport(
        str(dataset),
        len(catalog),
        dict(sorted(sources.items())),
        dict(sorted(failed.items())),
        **found,
        unlicensed={name: count for name, count in sorted(unlicensed.items()) if count},
        absent=absent(failures),
        left_out=counted(dataset),
    )


def checked_lines(report: CheckReport) -> list[str]:
    """For people."""
    lines = [f"{report.dataset}: {report.images:,} images"]
    lines += [f"  {name:<16} {count:>9,}" for name, count in report.sources.items()]
    lines += [failed_line(report.failed, report.dataset)] if report.failed else []
    for what, paths in (("missing", report.missing), ("changed", report.changed)):
        if paths:
            lines.append(f"{what}: {len(paths):,} images")
            lines += [f"  {path}" for path in paths[:EXAMPLES]]
            if len(paths) > EXAMPLES:
                lines.append(f"  and {len(paths) - EXAMPLES:,} more (all with --json)")
    if report.missing or report.changed:
        lines.append("  put the files back, or add the folder that has them now: they are found by content")
    if report.unlicensed:
        counts = ", ".join(f"{count:,} of {name}" for name, count in report.unlicensed.items())
        lines.append(f"licence unknown: {counts}")
    if report.left_out:
        counts = ", ".join(f"{count:,} {KINDS.get(kind, kind)}" for kind, count in report.left_out.items())
        lines.append(f"left out: {counts} (named in {Path(report.dataset) / LEFT_OUT})")
    return lines + absent_lines(report.absent)
