"""What the runner of evaluations takes beside the model: `python benchmarks/examine.py MODEL BENCHMARKS`.

Prints a line of JSON: seconds in which the model generated (its pictures' preparation in it), seconds of
everything else until the last answer is on disk, and their ratio; then the time of scoring, apart.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharecap.evals.answerers import Ask, Done, LocalModel
from sharecap.evals.exam import Exam
from sharecap.evals.runner import answer_shard, evaluate
from sharecap.evals.suite import find_tasks


class Timed(LocalModel):
    """Adds up the time in the generator."""

    generating = 0.0

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        generator: Any = self._generator  # loaded before, so that loading isn't counted
        inner = generator.generate

        def generate(*arguments: Any) -> Any:
            clock = time.perf_counter()
            try:
                return inner(*arguments)
            finally:
                self.generating += time.perf_counter() - clock

        generator.generate = generate
        super().answer(asks, done)


def main() -> None:
    model, benchmarks = Path(sys.argv[1]), Path(sys.argv[2])
    clock = time.perf_counter()
    exam = Exam(find_tasks(benchmarks)[0])
    reading = time.perf_counter() - clock
    answerer = Timed(model)
    _ = answerer._generator, answerer.digest
    with tempfile.TemporaryDirectory() as place:
        clock = time.perf_counter()
        answer_shard(answerer, exam, Path(place) / "run", (0, 1))
        answering = time.perf_counter() - clock
        clock = time.perf_counter()
        evaluate(answerer, exam, Path(place) / "run")
        scoring = time.perf_counter() - clock
    rest = answering - answerer.generating
    found = {
        "questions": sum(len(task.samples) for task in exam.tasks),
        "generating_s": round(answerer.generating, 3),
        "beside_s": round(rest, 3),
        "overhead": round(rest / answerer.generating, 4),
        "reading_s": round(reading, 3),
        "scoring_s": round(scoring, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
