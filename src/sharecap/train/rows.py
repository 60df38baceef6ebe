"""The rows of a run: cut into tokens and checked before time is spent, a few held out, the rest in steps."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from sharecap.chat.templates import template_named
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.loading import Step, check_files, steps
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Llava
from sharecap.model.pixels import Pixels
from sharecap.records import Conversation
from sharecap.train.config import TrainConfig
from sharecap.train.guards import check_tokens
from sharecap.train.parallel import World

HOW = {
    *("pack_tokens", "device", "parallel", "checkpointing", "compile"),
    *("checkpoint_every", "keep_last", "spike", "log_to"),
}
"""Fields of the configuration that change a result by rounding at most: a run may go on with others."""


@dataclass(frozen=True)
class Rows:
    """What a run learns from, and what it never sees but in its held-out loss."""

    learned: Sequence[Document]
    held_out: Sequence[Document]
    dropped: int  # rows that were too long


def prepare(config: TrainConfig, llava: Llava, rows: Sequence[Conversation]) -> Rows:
    """All rows as tokens; what is cheap to check is checked. `SharecapError` names the first bad row."""
    cutter = Cutter(llava.tokenizer, template_named(config.template), llava.image_tokens)
    check_tokens(llava, cutter)
    documents = cutter.documents(rows)
    for document in documents:
        if not document.learned.any():
            raise SharecapError("no answer to learn from", where=f"row {document.id}", todo="remove the row")
    room = min(config.pack_tokens, llava.config.text_config.max_position_embeddings)
    fitting = [d for d in documents if len(d) <= room]
    dropped = len(documents) - len(fitting)
    if dropped and config.too_long == "refuse":
        worst = max(documents, key=len)
        what = f"{dropped} of {len(documents)} rows have more than {room} tokens, the longest {len(worst)}"
        todo = "raise pack_tokens (up to what the model can take), or drop such rows with too_long='drop'"
        raise SharecapError(what, where=f"row {worst.id}", todo=todo)
    if not fitting:
        raise SharecapError("no rows to train on", todo="check the rows' file")
    check_files(fitting)
    return split_off(fitting, config, dropped)


def split_off(documents: Sequence[Document], config: TrainConfig, dropped: int) -> Rows:
    """Hold out as many rows as the configuration says, chosen by its seed; the others stay in order."""
    if not config.eval_rows:
        return Rows(documents, (), dropped)
    if config.eval_rows >= len(documents):
        what = f"eval_rows={config.eval_rows} of {len(documents)} rows leaves none to learn from"
        raise UsageError(what, todo="hold out fewer")
    shuffled = np.random.default_rng(config.seed).permutation(len(documents))
    out = set(shuffled[: config.eval_rows].tolist())
    learned = [d for i, d in enumerate(documents) if i not in out]
    return Rows(learned, [documents[i] for i in sorted(out)], dropped)


def digest(config: TrainConfig, rows: Rows) -> str:
    """What a checkpoint belongs to: all that decides the result, the rows' tokens and pictures among it."""
    decides = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in HOW}
    total = hashlib.sha256(repr(decides).encode())
    for document in (*rows.learned, *rows.held_out):
        total.update(document.ids.tobytes())
        total.update("\0".join(document.images).encode())
    return total.hexdigest()


def batches(
    config: TrainConfig, llava: Llava, rows: Sequence[Document], world: World, *, first: int, last: int
) -> Iterator[Step]:
    """Steps `first` to `last` - 1; of each, the packs of this rank."""
    for step in steps(
        rows,
        Pixels(llava.processor.image_processor),
        batch_rows=config.batch_rows,
        pack_tokens=config.pack_tokens,
        seed=config.seed,
        first=first,
        last=last,
    ):
        yield replace(step, packs=step.packs[world.rank :: world.size])


def held_out(config: TrainConfig, llava: Llava, rows: Rows, world: World) -> Step | None:
    """The held-out rows as one step, kept in memory; None if there are none."""
    if not rows.held_out:
        return None
    all_at_once = replace(config, batch_rows=len(rows.held_out))
    return next(batches(all_at_once, llava, rows.held_out, world, first=0, last=1))
