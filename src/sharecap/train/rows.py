"""The rows of a run: checked before time is spent, a few held out, the others in steps."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter
from sharecap.chat.truncation import Shortening
from sharecap.data import check
from sharecap.data.documents import Documents
from sharecap.data.loading import Step, steps
from sharecap.errors import UsageError
from sharecap.model.build import Llava
from sharecap.model.pixels import Pixels, framed
from sharecap.records import Conversation
from sharecap.train.config import TrainConfig
from sharecap.train.guards import check_tokens
from sharecap.train.parallel import World


@dataclass(frozen=True)
class Rows:
    """What a run learns from, and what it never sees but in its held-out loss."""

    learned: Documents
    held_out: Documents | None
    dropped: int  # rows that were left out
    cut: int  # rows that were, and were shortened


def prepare(
    config: TrainConfig, llava: Llava, rows: Sequence[Conversation], directory: Path, world: World
) -> Rows:
    """All rows checked and measured; bad ones are listed in `directory`/quarantine.jsonl.

    `SharecapError` if there are any, but for those that the configuration leaves out or cuts.
    """
    template = template_named(config.template, llava.processor)
    cutter = Cutter(llava.tokenizer, template, llava.image_tokens)
    check_tokens(llava, cutter)
    room = min(config.pack_tokens, llava.config.text_config.max_position_embeddings)
    if not world.first:
        world.wait()  # for what the first rank measures and keeps
    found = check.prepare(
        rows,
        Shortening(cutter, room) if config.too_long == "cut" else cutter,
        room=room,
        quarantine=directory / check.QUARANTINE,
        pack_images=config.pack_images,
        drop=(*config.leave_out, *((check.TOO_LONG, check.TOO_MANY) if config.too_long != "refuse" else ())),
        workers=config.workers,
    )
    if world.first:
        world.wait()
    documents, dropped, cut = found.documents, sum(found.dropped.values()), sum(found.cut.values())
    if not config.eval_rows:
        return Rows(documents, None, dropped, cut)
    if config.eval_rows >= len(documents):
        what = f"eval_rows={config.eval_rows} of {len(documents)} rows leaves none to learn from"
        raise UsageError(what, todo="hold out fewer")
    shuffled = np.random.default_rng(config.seed).permutation(len(documents))
    out, stay = np.sort(shuffled[: config.eval_rows]), np.sort(shuffled[config.eval_rows :])
    return Rows(documents.some(stay), documents.some(out), dropped, cut)


def digest(config: TrainConfig, rows: Rows) -> str:
    """What a checkpoint belongs to: all that decides the result, the rows' tokens and pictures among it."""
    held_out = "" if rows.held_out is None else rows.held_out.digest
    return hashlib.sha256(repr((config.decides(), rows.learned.digest, held_out)).encode()).hexdigest()


def batches(
    config: TrainConfig, llava: Llava, rows: Documents, world: World, *, first: int, last: int
) -> Iterator[Step]:
    """Steps `first` to `last` - 1; of each, the packs of this rank."""
    kept = 0 if config.workers else 1 << 30  # bytes of pictures; processes would each keep their own
    processor = llava.processor.image_processor
    if config.centre_crop:
        processor = framed(processor, pads=False)
    return steps(
        rows,
        Pixels(processor, kept),
        batch_rows=config.batch_rows,
        batch_tokens=config.batch_tokens,
        pack_tokens=config.pack_tokens,
        pack_images=config.pack_images,
        grouped=config.grouped,
        seed=config.seed,
        first=first,
        last=last,
        rank=world.rank,
        world=world.size,
        workers=config.workers,
    )


def held_out(config: TrainConfig, llava: Llava, rows: Rows, world: World) -> Step | None:
    """The held-out rows as one step, kept in memory; None if there are none."""
    if rows.held_out is None:
        return None
    at_once = replace(config, batch_rows=len(rows.held_out), batch_tokens=None, workers=0)
    return next(batches(at_once, llava, rows.held_out, world, first=0, last=1))
