"""What stops a run, each with one clear line: before it starts where that can be known, else at once.

A run that is broken must never look as if it learned.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError
from sharecap.model.build import Llava
from sharecap.model.trainable import part_of
from sharecap.train.metrics import Count

WINDOW = 50
"""Steps whose losses a new one is compared with; before that many there is no telling what is a spike."""


def check_tokens(llava: Llava, cutter: Cutter) -> None:
    """`SharecapError` unless tokenizer, template and model mean the same by their tokens."""
    where, todo = llava.tokenizer.name_or_path or "model", "take the tokenizer that belongs to the model"
    table: Any = llava.model.get_input_embeddings()
    known = table.num_embeddings
    if len(llava.tokenizer) > known:
        what = f"vocabulary too small: the tokenizer has {len(llava.tokenizer)} tokens, the model {known}"
        raise SharecapError(what, where=where, todo=todo)
    if cutter.image_id != llava.config.image_token_id:
        what = f"the tokenizer's image token is {cutter.image_id}, the model's {llava.config.image_token_id}"
        raise SharecapError(what, where=where, todo=todo)
    ends: Any = llava.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if cutter.template.stop is None and cutter.stop not in ends:
        what = f"template {cutter.template.name} ends answers with token {cutter.stop}, the model with {ends}"
        raise SharecapError(what, where=where, todo=todo)


class Watch:
    """Looks at each step before the weights change. `losses` are those of the steps that were done before."""

    def __init__(
        self, directory: Path, spike: float | None, learning: Iterable[str], losses: Sequence[float]
    ) -> None:
        self.directory, self.spike = directory, spike
        self.silent = {part_of(name) for name in learning}  # parts that have not had a gradient yet
        self.losses = deque(losses, maxlen=WINDOW)

    def look(self, step: int, count: Count, norm: float, norms: Mapping[str, float]) -> None:
        """Raise if step number `step`, counted from 1, is none that a sound run makes."""
        if not (math.isfinite(count.loss) and math.isfinite(norm)):
            self.stop(f"step {step}: loss {count.loss}, gradient {norm}")
        self.silent -= {part for part in self.silent if norms[part] > 0}
        for part in sorted(self.silent):
            if count.images or part == "language":  # without pictures the other parts have none
                self.stop(f"step {step}: no gradient reaches {part}", "see what cuts it off from the loss")
        if self.spike is not None and len(self.losses) == WINDOW:
            usual = statistics.median(self.losses)
            if count.loss > self.spike * usual:
                what = f"loss {count.loss:.4g}, {usual:.4g} being the median of the {WINDOW} steps before"
                self.stop(f"step {step}: {what}")
        self.losses.append(count.loss)

    def stop(self, what: str, todo: str = "lower the learning rate") -> None:
        raise SharecapError(what, where=self.directory, todo=todo)
