"""Captions leave the dataset: one walk over catalog and layer, whatever the format. Streams.

A row never goes without its image; an image that gets no row is counted under a reason and named in a list.
Every export is put into the register first, so that a takedown can find it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from sharecap.artifact import partial_of
from sharecap.captions.exports import register
from sharecap.captions.exports.hf import HuggingFace
from sharecap.captions.exports.llava import INSTRUCTIONS, Llava, read_instructions
from sharecap.captions.exports.parts import LeftOut, Writer
from sharecap.captions.exports.register import Export, File
from sharecap.captions.exports.shards import SHARD_MB
from sharecap.captions.exports.sidecar import Sidecar
from sharecap.captions.exports.webdataset import WebDataset
from sharecap.captions.layer import open_layer, side_by_side
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors, held
from sharecap.images.place import place_of
from sharecap.images.progress import Progress
from sharecap.records import Image


class Target(Protocol):
    """A format with its place and settings (see `exports/`)."""

    @property
    def form(self) -> str:
        """The format's name."""

    @property
    def out(self) -> Path:
        """The file or directory; the dataset itself for what goes beside the images."""

    def options(self) -> dict[str, Any]:
        """The settings as JSON data."""

    def open(self) -> Writer:
        """Check the place and begin; `UsageError` if it won't do."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what could not be."""

    out: str
    form: str
    rows: int
    without_caption: int  # images of the catalog that the layer has no caption for
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> images with a caption but no row
    named_in: str = ""  # JSON lines that name each of those; "" if there are none
    files: list[File] = field(default_factory=list)


def export(dataset: Path, layer: str, target: Target, *, progress: Progress | None = None) -> ExportReport:
    """Write the captions of `layer` to `target`, in the catalog's order, whole or not at all."""
    catalog, sealed = Catalog.open(dataset), open_layer(dataset, layer)
    if sealed.inputs.get("catalog") != catalog.digest:
        todo = "run the command that made the layer again: it does only what is new"
        raise SharecapError(f"images were added since layer {layer!r} was sealed", where=dataset, todo=todo)
    out = target.out.resolve()
    entry = Export(target.form, layer, sealed.digest, str(out), target.options())
    progress = progress or Progress("exported", quiet=True)
    rows = without = 0
    left_out: Counter[str] = Counter()
    with disk_errors(out), held(dataset):
        if entry.form == "llava":
            _refuse_foreign(dataset, entry)
        writer = target.open()
        register.record(dataset, entry)
        try:
            with _list_of_left_out(list_path(dataset, entry)) as name, progress.shown():
                for image, (caption,) in side_by_side(catalog, [layer]):
                    progress.done += 1
                    progress.tick()
                    if caption is None:
                        without += 1
                        continue
                    try:
                        writer.put(image, caption)
                        rows += 1
                    except LeftOut as why:
                        left_out[why.reason] += 1
                        name(image, why)
            files = writer.finish()
        except BaseException:
            writer.abandon()
            if entry.form != "sidecar":  # what lies beside images stays, and stays known
                register.forget_unfinished(dataset, entry)
            raise
        counts = dict(sorted(left_out.items()))
        done = Export(
            **{**vars(entry), "rows": rows, "left_out": counts, "files": files, "written": register.now()}
        )
        register.record(dataset, done)
    named_in = str(list_path(dataset, entry)) if counts else ""
    return ExportReport(str(out), entry.form, rows, without, counts, named_in, files)


def _refuse_foreign(dataset: Path, export: Export) -> None:
    """`UsageError` if a file lies there that is no earlier export of the dataset: it may be an image."""
    if Path(export.out).is_file() and export.place not in {e.place for e in register.exports_of(dataset)}:
        todo = "remove it, or give another --out"
        raise UsageError("a file is there that is no export of this dataset", where=export.out, todo=todo)


def list_path(dataset: Path, export: Export) -> Path:
    """Where the images are named that an export had to leave out: beside it, so that they are seen."""
    out = Path(export.out)
    if export.form == "sidecar":
        return dataset / f"sidecar-{export.layer}.left-out.jsonl"
    return out.with_name(f"{out.name}.left-out.jsonl")


@contextmanager
def _list_of_left_out(path: Path) -> Iterator[Any]:
    """A function that names one image in `path`; no image, no file."""
    partial = partial_of(path)
    file: IO[str] | None = None

    def name(image: Image, why: LeftOut) -> None:
        nonlocal file
        if file is None:
            file = open(partial, "w", encoding="utf-8")  # noqa: SIM115 - closed below
        row = {"image_id": image.id, "where": place_of(image), "reason": why.reason, "what": why.what}
        if image.url:
            row["url"] = image.url
        file.write(json.dumps(row) + "\n")

    try:
        yield name
        if file:
            file.close()
            partial.replace(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        if file:
            file.close()
            partial.unlink(missing_ok=True)


def exported_lines(report: ExportReport) -> list[str]:
    """For people."""
    where = "beside the images" if report.form == "sidecar" else report.out
    shards = f" in {len(report.files):,} shards" if len(report.files) > 1 else ""
    lines = [f"{where}: {report.rows:,} rows{shards}"]
    if report.without_caption:
        lines.append(f"left out: {report.without_caption:,} images without a caption")
    if report.left_out:
        kinds = ", ".join(f"{n:,} {reason}" for reason, n in report.left_out.items())
        lines.append(f"left out: {kinds} (named in {report.named_in})")
    return lines


def target_of(
    form: str,
    dataset: Path,
    out: Path | None,
    *,
    image_root: Path | None = None,
    seed: int | None = None,
    instructions: Path | None = None,
    shard_mb: int | None = None,
) -> Target:
    """The target that a command line asks for; `UsageError` for a setting that its format does not have."""
    known = {
        "llava": {"--out": True, "--image-root": False, "--seed": False, "--instructions": False},
        "hf": {"--out": True, "--shard-mb": False},
        "webdataset": {"--out": True, "--shard-mb": False},
        "sidecar": {},
    }
    given = {
        "--out": out,
        "--image-root": image_root,
        "--seed": seed,
        "--instructions": instructions,
        "--shard-mb": shard_mb,
    }
    if form not in known:
        raise UsageError("unknown format", where=form, todo=f"choose one of {', '.join(known)}")
    for option, value in given.items():
        if value is not None and option not in known[form]:
            raise UsageError(f"{option} means nothing to this format", where=form, todo="leave it out")
        if value is None and known[form].get(option):
            raise UsageError(f"this format needs {option}", where=form)
    if out is None:
        return Sidecar(dataset)
    if form == "llava":
        turns = INSTRUCTIONS if instructions is None else read_instructions(instructions)
        return Llava(out, turns, seed or 0, image_root)
    return (HuggingFace if form == "hf" else WebDataset)(out, shard_mb or SHARD_MB)
