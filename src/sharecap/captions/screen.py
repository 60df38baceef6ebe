"""Near-duplicates and benchmark overlap of a whole dataset: found, and on demand left out of it.

What is left out leaves the catalog and every layer, and is noted with its reason. Unlike a takedown it keeps
the answers in the ledger, which were paid for, and the files. It must never drop an image without its count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharecap.captions.drop import from_layer
from sharecap.captions.layer import layers
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog, publish, written
from sharecap.images.dataset import disk_errors, held
from sharecap.images.duplicates import (
    BITS,
    Duplicates,
    copies,
    duplicates_lines,
    find_duplicates,
    stored_duplicates,
)
from sharecap.images.left_out import KINDS, LEFT_OUT, Reason, note_left_out
from sharecap.images.overlap import Overlap, find_overlap, flagged, overlap_lines, stored_overlap
from sharecap.images.progress import Progress


@dataclass(frozen=True)
class LeaveReport:
    """What one dropping removed."""

    kind: str  # "duplicate" or "overlap"
    images: int  # that left the catalog
    layers: dict[str, int]  # layer -> captions that left it
    left: int  # images of the catalog now


@dataclass(frozen=True)
class Screening:
    """What is known of the dataset; None where it wasn't looked for, now or before."""

    overlap: Overlap | None = None
    duplicates: Duplicates | None = None
    dropped: list[LeaveReport] = field(default_factory=list)


def screen(
    dataset: Path,
    *,
    duplicates: bool = False,
    against: Sequence[Path] = (),
    bits: int = BITS,
    drop: bool = False,
    progress: Progress | None = None,
) -> Screening:
    """Look for overlap with `against`, then for near-duplicates; `drop` what was found of each.

    Overlap goes first, so that no image stays out for the sake of one that is dropped itself. What isn't
    asked for is told from an earlier search of the same catalog.
    """
    if drop and not duplicates and not against:
        raise UsageError("nothing to drop", todo="add --duplicates or --against BENCHMARK")
    dropped: list[LeaveReport] = []
    overlap = stored_overlap(Catalog.open(dataset))
    if against:
        overlap = find_overlap(dataset, against, bits, progress=progress)
        if drop and overlap.flagged:
            why = {image: Reason("overlap", item) for image, item in flagged(dataset).items()}
            dropped.append(leave_out(dataset, "overlap", why))
    found = stored_duplicates(Catalog.open(dataset))
    if duplicates:
        found = find_duplicates(dataset, bits)
        if drop and found.duplicates:
            why = {image: Reason("duplicate", kept) for image, kept in copies(dataset).items()}
            dropped.append(leave_out(dataset, "duplicate", why))
    return Screening(overlap, found, dropped)


def leave_out(dataset: Path, kind: str, why: Mapping[str, Reason]) -> LeaveReport:
    """Drop these images from the catalog and from every layer; killed halfway, the same call finishes.

    The list of what is left out is written first and the catalog last.
    """
    gone: dict[str, int] = {}
    with disk_errors(dataset), held(dataset):
        catalog = Catalog.open(dataset)
        note_left_out(dataset, why)
        kept = written(dataset, (image for image in catalog if image.id not in why))
        for name in layers(dataset):
            if captions := from_layer(dataset, name, frozenset(why), catalog.digest, kept.digest):
                gone[name] = captions
        publish(kept)
    return LeaveReport(kind, len(catalog) - len(kept), gone, len(kept))


def screened_lines(found: Screening, dataset: Path) -> list[str]:
    """For people."""
    lines = overlap_lines(found.overlap) if found.overlap else []
    lines += duplicates_lines(found.duplicates) if found.duplicates else []
    for one in found.dropped:
        counts = f"dropped {one.images:,} {KINDS[one.kind]}; {one.left:,} images left"
        lines.append(f"{counts} (named in {dataset / LEFT_OUT})")
        lines += [f"  layer {name}: {captions:,} captions" for name, captions in one.layers.items()]
    return lines
