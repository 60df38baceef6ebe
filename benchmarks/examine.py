"""What the runner of evaluations takes beside the model: `python benchmarks/examine.py MODEL BENCHMARKS`.

Prints a line of JSON: seconds in which the model generated (its pictures' preparation in it), seconds of
everything else until the last answer is on disk, and their ratio, by the clock and by the processor's time
of the thread that does both (others' work on the machine leaves that alone); then scoring, apart.
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

    generating = cpu = 0.0

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        generator: Any = self._generator  # loaded before, so that loading isn't counted
        inner = generator.generate

        def generate(*arguments: Any) -> Any:
            clock, cpu = time.perf_counter(), time.thread_time()
            try:
                return inner(*arguments)
            finally:
                self.generating += time.perf_counter() - clock
                self.cpu += time.thread_time() - cpu

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
        clock, cpu = time.perf_counter(), time.thread_time()
        answer_shard(answerer, exam, Path(place) / "run", (0, 1))
        answering, cpu = time.perf_counter() - clock, time.thread_time() - cpu
        clock = time.perf_counter()
        evaluate(answerer, exam, Path(place) / "run")
        scoring = time.perf_counter() - clock
    rest = answering - answerer.generating
    found = {
        "questions": sum(len(task.samples) for task in exam.tasks),
        "generating_s": round(answerer.generating, 3),
        "beside_s": round(rest, 3),
        "overhead": round(rest / answerer.generating, 4),
        "overhead_cpu": round((cpu - answerer.cpu) / answerer.cpu, 4),
        "reading_s": round(reading, 3),
        "scoring_s": round(scoring, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
