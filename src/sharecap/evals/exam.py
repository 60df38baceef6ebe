"""What an evaluation asks and how: tasks, protocol, judge. Names every question, so that answers are kept.

Equal names mean the same model, question, picture, prompt and decoding; nothing less may share an answer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any

from sharecap.evals.judge import Judge
from sharecap.evals.protocols import CONSISTENT, Protocol
from sharecap.evals.task import Sample, Task, check_unique
from sharecap.statistics import RESAMPLES


@dataclass(frozen=True)
class Exam:
    """All that an evaluation asks, and how."""

    tasks: Sequence[Task]
    protocol: Protocol = CONSISTENT
    judge: Judge | None = None  # needed where a task is judged
    missing: Sequence[str] = ()  # benchmarks that were looked for in vain; reported beside the results
    resamples: int = RESAMPLES
    seed: int = 0  # of the resampling

    def __post_init__(self) -> None:
        for task in self.tasks:
            check_unique((sample.id for sample in task.samples), Path(task.name))
            assert self.judge or not task.judging, task.name

    def config(self) -> dict[str, Any]:
        """What tells it from other evaluations of a model."""
        told = {
            "tasks": {task.name: task.digest for task in self.tasks},
            "missing": list(self.missing),
            "resamples": self.resamples,
            "seed": self.seed,
            "protocol": self.protocol.name,
        }
        prompts = {task.name: task.judging.digest for task in self.tasks if task.judging}
        return told | ({"judge": self.judge.name, "judge_prompts": prompts} if self.judge and prompts else {})

    def wanted(self, model: str) -> dict[str, tuple[Task, Sample, str]]:
        """Every question with its prompt, by its key for the model of this digest."""
        found = {}
        encoded = json.JSONEncoder().encode
        for task in self.tasks:
            # The digest of [model, task, id, prompt, ...] as JSON; what all begin with is digested once.
            before = hashlib.sha256(f"{encoded([model, task.digest])[:-1]}, ".encode())
            after = f", {encoded([task.max_new_tokens, 'greedy', self.protocol.name])[1:]}"
            for sample in task.samples:
                prompt = task.prompt(sample)
                key = before.copy()
                key.update(f"{quoted(sample.id)}, {quoted(prompt)}{after}".encode())
                found[key.hexdigest()] = (task, sample, prompt)
        return found
