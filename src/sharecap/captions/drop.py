"""Takedown: an image leaves the catalog, every layer, the ledger's words and every export on record.

The list of takedowns is written first and the catalog last, and every step may be repeated: killed at any
moment, the same command finishes the work. It must never call itself done while something is left.
"""

import json
import os
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap import artifact
from sharecap.artifact import partial_of, write_atomically
from sharecap.captions.card import Said, write_held
from sharecap.captions.export import list_path
from sharecap.captions.exports import hf, llava, register, sidecar, webdataset
from sharecap.captions.exports.register import Export
from sharecap.captions.layer import FAILURES, KIND, ROWS, TABLE, layers, open_layer
from sharecap.captions.ledger import IN_BATCH, connect, ledger_error
from sharecap.captions.page_files import forget_in_page_files, without_lines
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog, publish, written
from sharecap.images.dataset import (
    DOWNLOADS,
    FUSIONS,
    INDEX,
    JUDGEMENTS,
    LEDGER,
    WORDS,
    disk_errors,
    held,
    layer_path,
)
from sharecap.images.place import place_of
from sharecap.images.takedown import put_down
from sharecap.images.words import forget
from sharecap.records import Image


@dataclass
class DropReport:
    """What a takedown removed. `problems` are what a person must see to; empty, it is complete."""

    dataset: str
    images: int = 0  # that left the catalog now
    not_there: int = 0  # digests that the catalog does not have; they are refused from now on
    layers: dict[str, int] = field(default_factory=dict)  # layer -> captions removed
    words: int = 0  # images whose words, read in the picture for prompts, were wiped
    page: int = 0  # edits by hand, pairs of studies and scores that were wiped
    answers: int = 0  # answers whose words were wiped from the ledger; what they cost stays
    exports: dict[str, int] = field(default_factory=dict)  # place -> rows removed
    deleted: list[str] = field(default_factory=list)  # files that sharecap had downloaded
    yours: list[str] = field(default_factory=list)  # where they still lie, not sharecap's to delete
    problems: list[str] = field(default_factory=list)


def drop(dataset: Path, ids: Sequence[str], reason: str) -> DropReport:
    """Take the images with these digests out of everything that sharecap made of `dataset`, for good."""
    for digest in ids:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            todo = "give the sha256 of the image's bytes, 64 hex digits in lower case"
            raise UsageError("not a digest", where=digest, todo=todo)
    if not ids or not reason.strip():
        raise UsageError(
            "a takedown needs digests and a reason", todo="sharecap drop DATASET SHA256 --reason WHY"
        )
    wanted, report = frozenset(ids), DropReport(str(dataset))
    with disk_errors(dataset), held(dataset):
        catalog = Catalog.open(dataset)
        put_down(dataset, sorted(wanted), datetime.now(UTC).date().isoformat(), reason.strip())
        found = {image.id: image for image in catalog if image.id in wanted}
        report.images, report.not_there = len(found), len(wanted) - len(found)
        _from_exports(dataset, catalog, wanted, found, report)
        kept = written(dataset, (i for i in catalog if i.id not in wanted)) if found else catalog
        for name in layers(dataset):
            if gone := from_layer(dataset, name, wanted, catalog.digest, kept.digest):
                report.layers[name] = gone
        _from_ledger(dataset, wanted, report)
        report.words = forget(dataset, wanted)
        report.page = forget_in_page_files(dataset, wanted)
        _from_inner(dataset, wanted, reason, report)
        if found:
            publish(kept)
        _from_cards(dataset, report)
        for image in found.values():
            _pixels(dataset, image, report)
    return report


def _from_exports(
    dataset: Path, catalog: Catalog, ids: Set[str], found: dict[str, Image], report: DropReport
) -> None:
    exports = register.exports_of(dataset)
    finished = {export.place for export in exports if export.written}
    if any(export.form == "sidecar" for export in exports):
        removed, changed = sidecar.take_down(catalog, found)
        if removed:
            report.exports["beside the images"] = removed
        report.problems += [f"{path}: edited since it was written; remove it yourself" for path in changed]
    for number, export in enumerate(exports):
        try:
            _from_list(list_path(dataset, export), ids)
        except _EDITED as error:
            report.problems.append(f"{list_path(dataset, export)}: not rewritten ({_words_of(error)})")
        if export.form in ("sidecar", "card"):
            continue
        if not export.written:
            _remove_unfinished(Path(export.out))
            if export.place not in finished and _something_at(Path(export.out)):
                what = f"{export.form} export that was killed as it ended; remove it"
                report.problems.append(f"{export.out}: {what}")
            continue
        try:
            exports[number], gone = _without(export, ids)
        except _EDITED as error:
            what = f"{export.form} export not rewritten ({_words_of(error)})"
            report.problems.append(f"{export.out}: {what}")
            continue
        if gone:
            report.exports[export.out] = gone
            register.write(dataset, exports)


def _without(export: Export, ids: Set[str]) -> tuple[Export, int]:
    out = Path(export.out)
    if not out.exists():
        todo = "take the images out of the place where it went, then export again"
        raise SharecapError("moved or removed", where=out, todo=todo)
    if export.form == "llava":
        return llava.without(export, ids)
    return (hf.without if export.form == "hf" else webdataset.without)(export, ids)


_EDITED = (SharecapError, OSError, pa.ArrowException, ValueError, LookupError, TypeError)
"""What an export raises whose files somebody has changed: the others are rewritten all the same."""


def _words_of(error: BaseException) -> str:
    """What a line about it says."""
    return str(error) or type(error).__name__


def _something_at(out: Path) -> bool:
    return out.is_file() or (out.is_dir() and any(out.iterdir()))


def _remove_unfinished(out: Path) -> None:
    """What a killed export left holds pixels too."""
    partial = partial_of(out)
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


def _from_list(path: Path, ids: Set[str]) -> int:
    """Take the lines about `ids` out of a list of JSON lines; how many there were."""
    return without_lines(path, lambda line: json.loads(line)["image_id"] in ids) if path.exists() else 0


def from_layer(dataset: Path, name: str, ids: Set[str], before: str, after: str) -> int:
    """Take `ids` out of a sealed layer and bring its manifest up to date; the captions removed.

    The one case in which a finished layer changes: the law goes before the history.
    """
    directory = layer_path(dataset, name)
    gone = _from_table(directory / TABLE, ids)
    for beside in directory.glob("*.jsonl"):
        _from_list(beside, ids)
    manifest = directory / artifact.MANIFEST
    fields: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    sealed = open_layer(dataset, name)
    inputs = {k: after if (k, v) == ("catalog", before) else v for k, v in sealed.inputs.items()}
    with pq.ParquetFile(directory / TABLE) as table:
        captions = table.metadata.num_rows
    with open(directory / FAILURES, encoding="utf-8") as lines:
        failures = dict(sorted(Counter(json.loads(line)["kind"] for line in lines).items()))
    metrics = {**sealed.metrics, "captions": captions, "failures": failures}
    if "images" in metrics:
        metrics["images"] = captions + sum(failures.values())
    if (inputs, metrics) == (sealed.inputs, sealed.metrics) and not gone:
        return 0
    digest = artifact.files_digest(directory)
    key = artifact.key_of(KIND, sealed.config, inputs)
    fields |= {"inputs": inputs, "metrics": metrics, "digest": digest, "key": key}
    write_atomically(manifest, json.dumps(fields, indent=1, ensure_ascii=False))
    return gone


def _from_table(path: Path, ids: Set[str]) -> int:
    listed, partial = pa.array(sorted(ids), pa.string()), partial_of(path)
    with pq.ParquetFile(path) as table:
        column = (batch.column(0) for batch in table.iter_batches(columns=["image_id"]))
        gone = sum(pc.is_in(piece, value_set=listed).true_count for piece in column)
        if not gone:
            return 0
        try:
            with pq.ParquetWriter(partial, table.schema_arrow, compression="zstd") as writer:
                for batch in table.iter_batches(ROWS):
                    kept = batch.filter(pc.invert(pc.is_in(batch.column("image_id"), value_set=listed)))
                    if kept.num_rows:
                        writer.write_batch(kept)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return int(gone)


def _from_ledger(dataset: Path, ids: Set[str], report: DropReport) -> None:
    """Wipe what was said about the images; what it cost stays on the books."""
    path = dataset / LEDGER
    if not path.exists():
        return
    waiting = 0
    try:
        db = connect(path)
        try:
            db.execute("PRAGMA secure_delete = ON")  # the words are to leave the file, not only the table
            with db:
                for image_id in ids:
                    db.execute(
                        "DELETE FROM texts WHERE id IN (SELECT id FROM requests WHERE image_id = ?)",
                        (image_id,),
                    )
                    report.answers += db.execute(
                        "UPDATE requests SET state = 'failed', error_kind = 'taken_down', error = NULL, "
                        "finish_reason = NULL "
                        "WHERE image_id = ? AND error_kind IS NOT 'taken_down' AND error_kind IS NOT ?",
                        (image_id, IN_BATCH),
                    ).rowcount
                    waiting += db.execute(
                        "SELECT count(*) FROM requests WHERE image_id = ? AND error_kind = ?",
                        (image_id, IN_BATCH),
                    ).fetchone()[0]
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error
    if waiting:
        what = f"{waiting} requests about these images are out in a batch, whose answers are still to come"
        report.problems.append(f"{what}; run the same command again when it has ended")


def _from_inner(dataset: Path, ids: Set[str], reason: str, report: DropReport) -> None:
    """Take what was asked about these images out of the datasets that it was asked in.

    They are those of fusions (`fuse.py`) and of judges (`quality/cases.py`); there, words in an image's place
    are JSON that names the image.
    """
    for index in sorted(
        path for kind in (FUSIONS, JUDGEMENTS) for path in (dataset / kind).glob(f"*/{INDEX}")
    ):
        place = index.parent
        asked = [row.id for row in Catalog.open(place) if json.loads(row.alt_text)["image_id"] in ids]
        if asked:
            inner = drop(place, asked, reason)
            report.answers += inner.answers
            report.problems += inner.problems


def _from_cards(dataset: Path, report: DropReport) -> None:
    for card in register.exports_of(dataset):
        if card.form != "card":
            continue
        try:
            write_held(dataset, card.layer, Path(card.out), Said(**card.options))
        except SharecapError as error:
            report.problems.append(f"card not brought up to date: {error}")


def _pixels(dataset: Path, image: Image, report: DropReport) -> None:
    """Delete what sharecap had downloaded; name what is the user's."""
    path = Path(image.path)
    if not image.member and path.is_relative_to((dataset / DOWNLOADS).resolve()):
        path.unlink(missing_ok=True)
        report.deleted.append(str(path))
    else:
        report.yours.append(place_of(image))


def dropped_lines(report: DropReport) -> list[str]:
    """For people."""
    lines = [f"{report.dataset}: {report.images:,} images taken down"]
    if report.not_there:
        lines.append(f"{report.not_there:,} digests are not in the catalog; they are refused from now on")
    lines += [f"  layer {name}: {n:,} captions" for name, n in report.layers.items()]
    lines += [f"  export {place}: {n:,} rows" for place, n in report.exports.items()]
    if report.words:
        lines.append(f"  {WORDS}: what was read in {report.words:,} pictures wiped")
    if report.answers:
        lines.append(f"  ledger: the words of {report.answers:,} answers wiped")
    lines += [f"deleted: {path}" for path in report.deleted]
    lines += [f"not sharecap's, remove it yourself: {path}" for path in report.yours]
    return lines + [f"NOT DONE: {problem}" for problem in report.problems]
