"""Rows as LLaVA's trainers and the paper's own files have them (3.3: a short generic instruction each).

A JSON list of {"id", "image", "conversations": [human, gpt]}, one row a line, so that one can be taken out.
Image paths are relative to the folder that the trainer is given, as in the paper's `coco/train2017/...`.
"""

import hashlib
import json
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharecap.artifact import partial_of
from sharecap.captions.exports.parts import Sink, own_file
from sharecap.captions.exports.register import Export, File
from sharecap.errors import SharecapError, UsageError
from sharecap.records import IMAGE_TOKEN, Caption, Image

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
class Llava:
    """Export as one JSON file, which is replaced only when the new one is whole."""

    out: Path
    instructions: Sequence[str] = INSTRUCTIONS  # one is drawn for each image
    seed: int = 0  # which instruction an image gets depends on this and its id alone
    image_root: Path | None = None  # paths are relative to it, and all images lie below it; None: absolute
    form = "llava"

    def options(self) -> dict[str, Any]:
        """What the register keeps."""
        root = str(self.image_root.resolve()) if self.image_root else None
        return {"instructions": list(self.instructions), "seed": self.seed, "image_root": root}

    def open(self) -> "LlavaWriter":
        """Check the place and begin."""
        if not self.instructions or not all(text.strip() for text in self.instructions):
            raise UsageError("no instruction for the human turn", todo="give at least one")
        if self.image_root and not self.image_root.is_dir():
            raise UsageError("no such image root", where=self.image_root)
        if os.path.isdir(self.out):
            raise UsageError("this is a directory", where=self.out, todo="give a file: --out NAME.json")
        if os.path.lexists(self.out) and not os.path.isfile(self.out):
            raise UsageError("this is no plain file", where=self.out, todo="give a file: --out NAME.json")
        return LlavaWriter(self)


class LlavaWriter:
    """See `Writer`."""

    def __init__(self, target: Llava) -> None:
        self.target, self.rows = target, 0
        self.root = target.image_root.resolve() if target.image_root else None
        target.out.parent.mkdir(parents=True, exist_ok=True)
        self.sink = Sink(partial_of(target.out))
        self.sink.write(b"[")

    def put(self, image: Image, caption: Caption) -> None:
        path = _relative(own_file(image), self.root)
        human = f"{IMAGE_TOKEN}\n{instruction(self.target.instructions, self.target.seed, image.id)}"
        turns = [{"from": "human", "value": human}, {"from": "gpt", "value": caption.text}]
        row = {"id": image.id, "image": path, "conversations": turns}
        self.sink.write(_line(json.dumps(row, ensure_ascii=False), self.rows))
        self.rows += 1

    def finish(self) -> list[File]:
        self.sink.write(b"\n]\n")
        self.sink.close()
        os.replace(self.sink.path, self.target.out)
        return [self.sink.file(self.target.out.name, self.rows)]

    def abandon(self) -> None:
        self.sink.abandon()
        self.sink.path.unlink(missing_ok=True)


def _line(row: str, number: int) -> bytes:
    return (("\n" if number == 0 else ",\n") + row).encode()


def instruction(instructions: Sequence[str], seed: int, image_id: str) -> str:
    """The human turn's words for an image: the same for the same seed, whatever else is exported."""
    draw = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return instructions[int.from_bytes(draw[:8], "big") % len(instructions)]


def read_instructions(path: Path) -> tuple[str, ...]:
    """The human turns in a text file, one a line; empty lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the instructions ({error})", where=path) from None
    return tuple(line.strip() for line in lines if line.strip())


def _relative(path: Path, root: Path | None) -> str:
    if root is None:
        return str(path)
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        todo = "give a folder that holds all images, or leave --image-root out"
        raise UsageError(f"image outside the image root {root}", where=path, todo=todo) from None


def without(export: Export, ids: Set[str]) -> tuple[Export, int]:
    """The export with the rows of `ids` taken out of its file, and how many there were.

    `SharecapError` if the file is not one row a line any more: nothing is guessed in a takedown.
    """
    out, gone, rows = Path(export.out), 0, 0
    sink = Sink(partial_of(out))
    try:
        sink.write(b"[")
        with open(out, encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines):
                text = line.rstrip("\n").removesuffix(",")
                if text in ("[", "]", ""):
                    continue
                try:
                    mine = json.loads(text)["id"] in ids
                except (ValueError, TypeError, KeyError):
                    todo = "remove it, or export it again: sharecap export"
                    what = f"line {number + 1} is not a row as sharecap wrote it"
                    raise SharecapError(what, where=out, todo=todo) from None
                gone += mine
                if not mine:
                    sink.write(_line(text, rows))
                    rows += 1
        sink.write(b"\n]\n")
        sink.close()
        if gone:
            os.replace(sink.path, out)
            export = replace(export, rows=rows, files=[sink.file(out.name, rows)])
    finally:
        sink.abandon()
        sink.path.unlink(missing_ok=True)
    return export, gone
