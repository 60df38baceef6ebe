"""LLaVA-format rows from a caption layer (paper, section 3.3: the human turn is a short generic instruction).

An exported row always has its image: one whose file is gone is counted, never written.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharecap.captions.layer import open_layer, read_layer
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors
from sharecap.images.place import presence
from sharecap.records import IMAGE_TOKEN

INSTRUCTIONS = (
    "Describe this image in detail.",
    "What does this picture show? Go into detail.",
    "Give a thorough account of what can be seen here.",
    "Tell me everything that you can make out in this picture.",
    "Write a detailed caption for this image.",
    "Put this picture into words for someone who cannot see it.",
    "Explain in detail what is in the image.",
    "What is there to see in this picture?",
)
"""The default human turns, in this project's own words."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what could not be."""

    out: str
    rows: int
    without_caption: int  # images of the catalog that the layer has no caption for
    missing: list[str]  # images whose file is gone or has another size; they have no row


def export_llava(
    dataset: Path,
    layer: str,
    out: Path,
    *,
    instructions: Sequence[str] = INSTRUCTIONS,
    seed: int = 0,
    image_root: Path | None = None,
) -> ExportReport:
    """Write `out`: a JSON list of {"id", "image", "conversations"}, in the catalog's order.

    Image paths are relative to `image_root` if given, which every image must lie below, else absolute. Which
    instruction an image gets depends on `seed` and its id alone. Replaces `out` only when it is whole.
    """
    if not instructions or not all(text.strip() for text in instructions):
        raise UsageError("no instruction for the human turn", todo="give at least one")
    catalog, sealed = Catalog.open(dataset), open_layer(dataset, layer)
    if sealed.inputs.get("catalog") != catalog.digest:
        todo = "run the caption command again: it asks only what is new"
        raise SharecapError(f"images were added since layer {layer!r} was sealed", where=dataset, todo=todo)
    root = image_root.resolve() if image_root else None
    if root and not root.is_dir():
        raise UsageError("no such image root", where=image_root)
    if os.path.isdir(out):
        raise UsageError("this is a directory", where=out, todo="give a file: --out NAME.json")
    rows, seen, missing = 0, 0, []
    partial = out.with_name(out.name + ".partial")
    captions = read_layer(dataset, layer)
    caption = next(captions, None)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write("[")
                for image in catalog:  # captions come in the same order, some left out
                    if caption is None or caption.image_id != image.id:
                        continue
                    text, caption = caption.text, next(captions, None)
                    seen += 1
                    if presence(image) != "there":
                        missing.append(image.path)
                        continue
                    human = f"{IMAGE_TOKEN}\n{instruction(instructions, seed, image.id)}"
                    row = {
                        "id": image.id,
                        "image": _relative(image.path, root),
                        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": text}],
                    }
                    file.write(("\n" if rows == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
                    rows += 1
                file.write("\n]\n")
                file.flush()
                os.fsync(file.fileno())
            assert caption is None, "a layer holds captions in the catalog's order"
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return ExportReport(str(out), rows, len(catalog) - seen, missing)


def instruction(instructions: Sequence[str], seed: int, image_id: str) -> str:
    """The human turn's words for an image: the same for the same seed, whatever else is exported."""
    draw = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return instructions[int.from_bytes(draw[:8], "big") % len(instructions)]


def _relative(path: str, root: Path | None) -> str:
    if root is None:
        return path
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        todo = "give a folder that holds all images, or leave --image-root out"
        raise UsageError(f"image outside the image root {root}", where=path, todo=todo) from None


def exported_lines(report: ExportReport) -> list[str]:
    """For people."""
    lines = [f"{report.out}: {report.rows:,} rows"]
    if report.without_caption:
        lines.append(f"left out: {report.without_caption:,} images without a caption")
    if report.missing:
        lines.append(
            f"left out: {len(report.missing):,} images whose file is gone, such as {report.missing[0]}"
        )
    return lines
