"""Runs tasks on a model; leaves a directory with `items.jsonl`, a graded answer a line, and `results.json`.

Everything else reads these lines. A killed run goes on where it was; a torn line is dropped and asked again.
No answer is ever taken over from another model, prompt or set of questions: each line has its question's key.
"""

import glob
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.errors import UsageError
from sharecap.evals.answerers import Answerer, Ask
from sharecap.evals.exam import Exam
from sharecap.evals.judge import Bill, UnreviewedError, review
from sharecap.evals.results import ITEMS, RESULTS, Run, read_items, summary
from sharecap.evals.suite import MEASURES
from sharecap.evals.task import Measure, Record, Sample, Task, graded
from sharecap.images.progress import Progress
from sharecap.statistics import RESAMPLES

KIND, SHARD_KIND = "eval", "eval-shard"
_FIELDS = [field.name for field in fields(Record)]
_values = attrgetter(*_FIELDS)
_encoded = json.JSONEncoder(ensure_ascii=False).encode
"""A line is written for every answer: these take a third of the time that `asdict` and `json.dumps` take."""


def evaluate(answerer: Answerer, exam: Exam, out: Path, *, progress: Progress | None = None) -> Artifact:
    """Ask all questions and write items, scores and intervals to `out`. Found again if it is finished.

    What finished shards beside `out` have answered is not asked again. `UnreviewedError`, with the results
    in it, if the judge left answers without a review.
    """

    def work(directory: Path) -> Mapping[str, Any]:
        wanted = exam.wanted(answerer.digest)
        known = {record.key: record for record in _shards(out)}
        answers, written = _answer(answerer, exam, wanted, directory, known=known, progress=progress)
        quiet = progress is None or progress.quiet
        records, bill = _reviewed(exam, wanted, answers, directory, Progress("reviewed", quiet=quiet))
        if bill or not written:
            _write_items(directory, records)
        metrics = _finish(
            directory,
            answerer.name,
            records,
            measures={task.name: task.measure for task in exam.tasks},
            resamples=exam.resamples,
            seed=exam.seed,
            beside=_beside(exam, bill),
            notes={task.name: task.notes for task in exam.tasks},
        )
        if exam.judge and bill and bill.missing:
            error = UnreviewedError(exam.judge.name, bill)
            error.results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
            raise error
        return metrics

    inputs = {"model": answerer.digest}
    return artifact.stage(out, KIND, exam.config(), inputs, work, content=(ITEMS, RESULTS))


def answer_shard(
    answerer: Answerer, exam: Exam, out: Path, shard: tuple[int, int], *, progress: Progress | None = None
) -> Artifact:
    """Answer every n-th question from the i-th on, `shard` being (i, n), into a directory beside `out`.

    Each shard may have a process and a GPU of its own. Nothing is scored: `evaluate` takes the answers in.
    """
    index, number = shard

    def work(directory: Path) -> Mapping[str, Any]:
        whole = exam.wanted(answerer.digest)
        wanted = {key: whole[key] for key in list(whole)[index::number]}
        records, written = _answer(answerer, exam, wanted, directory, known={}, progress=progress)
        if not written:
            _write_items(directory, records)
        return {"model": answerer.name, "answers": len(records)}

    config = exam.config() | {"shard": [index, number]}
    place = out.with_name(f"{out.name}.shard-{index}-of-{number}")
    refuse_other_work(place, artifact.key_of(SHARD_KIND, config, {"model": answerer.digest}))
    return artifact.stage(place, SHARD_KIND, config, {"model": answerer.digest}, work, content=(ITEMS,))


def part_of(text: str) -> tuple[int, int]:
    """(i, n) of a shard "i/n"; `UsageError` if it is none."""
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        todo = "give 0/N to N-1/N, for example 0/2 and 1/2"
        raise UsageError("no shard", where=repr(text), todo=todo)
    return int(index), int(number)


def _shards(out: Path) -> Iterable[Record]:
    """What the shards beside `out` have answered; `SharecapError` for one that is not finished."""
    for place in sorted(out.parent.glob(f"{glob.escape(out.name)}.shard-*-of-*")):
        artifact.read(place)
        yield from read_items(place / ITEMS)


def run_directory(
    answerer: Answerer, exam: Exam, to: Path | None = None, *, below: Path = Path("evals")
) -> Path:
    """Where an evaluation goes: `to`, or a place `below` told apart by model, protocol and questions.

    `UsageError` if `to` holds anything but this very evaluation: answers may have been paid for.
    """
    key = artifact.key_of(KIND, exam.config(), {"model": answerer.digest})
    if to is None:
        name = re.sub(r"[^\w.-]+", "-", answerer.name)
        return below / f"{name}-{exam.protocol.name}-{key[:8]}"
    refuse_other_work(to, key)
    return to


def refuse_other_work(directory: Path, key: str) -> None:
    """`UsageError` if the directory holds work, finished or not, that was asked for in other words."""
    mark = artifact.mark_of(directory)
    if mark.get("key", key) not in (key, ""):
        todo = "choose another --to, or remove the directory"
        raise UsageError(f"this directory holds another {mark['kind']}", where=directory, todo=todo)


def keep_predictions(
    name: str, records: Sequence[Record], out: Path, *, resamples: int = RESAMPLES, seed: int = 0
) -> Artifact:
    """Graded predictions that were made elsewhere, as a run that can be compared."""
    answers = json.dumps([[r.id, r.raw, r.reference, dict(r.labels)] for r in records], sort_keys=True)
    config = {"task": records[0].task, "resamples": resamples, "seed": seed}
    inputs = {"predictions": hashlib.sha256(answers.encode()).hexdigest()}
    refuse_other_work(out, artifact.key_of(KIND, config, inputs))

    def work(directory: Path) -> Mapping[str, Any]:
        _write_items(directory, records)
        return _finish(directory, name, records, measures=MEASURES, resamples=resamples, seed=seed)

    return artifact.stage(out, KIND, config, inputs, work)


def _answer(
    answerer: Answerer,
    exam: Exam,
    wanted: Mapping[str, tuple[Task, Sample, str]],
    directory: Path,
    *,
    known: Mapping[str, Record],
    progress: Progress | None,
) -> tuple[list[Record], bool]:
    """Ask what is not answered yet, writing each answer as it comes; all records in the tasks' own order.

    Then whether `items.jsonl` has just them in that order already: so it is where a model answered in order.
    """
    items, pictures = directory / ITEMS, directory / artifact.STATE / "images"
    lines_before = read_items(items, repair=True)
    own = {record.key: record for record in lines_before}
    records = {key: record for key, record in {**known, **own}.items() if key in wanted}
    todo = [key for key in wanted if key not in records]
    files = _Files(pictures)
    asks = []
    for task, sample, prompt in (wanted[key] for key in todo):
        images = tuple(map(files.path, sample.images))
        choices = sample.choices if task.ranks else ()
        pads = task.name not in exam.protocol.cropped
        asks.append(Ask(images, prompt, task.max_new_tokens, pads, choices))
    progress = progress or Progress("answered", quiet=True)
    progress.total, progress.done = len(wanted), len(records)
    ahead = files.read_ahead(ask.images for ask in asks)
    with open(items, "a", encoding="utf-8") as lines, ahead, progress.shown():

        def done(answers: Sequence[tuple[int, str, float]]) -> None:
            for index, text, seconds in answers:
                key, ask = todo[index], asks[index]
                task, sample, prompt = wanted[key]
                images = tuple(map(files.digest, ask.images))
                record = graded(task, sample, text, images=images, prompt=prompt, seconds=seconds, key=key)
                lines.write(_line(record))
                records[key] = record
            lines.flush()
            progress.done += len(answers)
            progress.tick()

        if asks:
            answerer.answer(asks, done)
        os.fsync(lines.fileno())
    assert len(records) == len(wanted), "an answerer must answer every question or raise"
    on_disk = len(lines_before) + len(todo)
    written = not known and on_disk == len(wanted) and list(records) == list(wanted)
    return [records[key] for key in wanted], written


def _reviewed(
    exam: Exam,
    wanted: Mapping[str, tuple[Task, Sample, str]],
    records: Sequence[Record],
    directory: Path,
    progress: Progress,
) -> tuple[list[Record], Bill | None]:
    """The records, with reviews where a judge scores them."""
    asked = zip(wanted.values(), records, strict=True)
    items = [(task, sample, record) for (task, sample, _), record in asked if task.judging]
    if not items or exam.judge is None:
        return list(records), None
    with_review, bill = review(exam.judge, items, directory, progress=progress)
    by_key = {record.key: record for record in with_review}
    return [by_key.get(record.key, record) for record in records], bill


class _Files:
    """Pictures as files, so that every answerer gets paths. Questions share them: each is written, and read
    for its digest, once, however many ask about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory  # where pictures from inside a table go
        self.written: dict[int, Path] = {}  # by what is the same for rows that share one: the object
        self.digests: dict[int, str] = {}  # likewise, by the path

    def path(self, image: Path | bytes) -> Path:
        if isinstance(image, Path):
            return image
        if id(image) in self.written:
            return self.written[id(image)]
        if not self.written:
            self.directory.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(image).hexdigest()
        path = self.written[id(image)] = self.directory / digest
        self.digests[id(path)] = digest
        if not path.exists() or path.stat().st_size != len(image):  # a kill may have cut it short
            path.write_bytes(image)
        return path

    @contextmanager
    def read_ahead(self, asked: Iterable[Sequence[Path]]) -> Iterator[None]:
        """Read pictures for their digests in a thread of its own while the model answers."""
        over = threading.Event()

        def read() -> None:
            with suppress(OSError):  # the model misses the picture too, and says so
                for images in asked:
                    if over.is_set():
                        return
                    for path in images:
                        self.digest(path)

        thread = threading.Thread(target=read, name="digests", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def digest(self, path: Path) -> str:
        if id(path) not in self.digests:
            self.digests[id(path)] = artifact.file_digest(path)
        return self.digests[id(path)]


def _line(record: Record) -> str:
    return _encoded(dict(zip(_FIELDS, _values(record), strict=True))) + "\n"


def _write_items(directory: Path, records: Sequence[Record]) -> None:
    artifact.write_atomically(directory / ITEMS, "".join(map(_line, records)))


def _beside(exam: Exam, bill: Bill | None) -> dict[str, Any]:
    """What stands in the results beside the scores."""
    told: dict[str, Any] = {"missing": list(exam.missing), "protocol": exam.protocol.name}
    if exam.judge and bill:
        told["judge"] = {"name": exam.judge.name, "failures": dict(bill.missing), "usd": bill.usd}
    return told


def _finish(
    directory: Path,
    name: str,
    records: Sequence[Record],
    *,
    measures: Mapping[str, Measure],
    resamples: int,
    seed: int,
    beside: Mapping[str, Any] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Write the results; the numbers for the manifest."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    found = summary(Run(name, by_task, measures), resamples=resamples, seed=seed) | dict(beside or {})
    for task, said in (notes or {}).items():
        found["benchmarks"][task]["notes"] += said
    artifact.write_atomically(directory / RESULTS, json.dumps(found, ensure_ascii=False, indent=1))
    headlines = {
        task: b["scores"][b["headline"]]["value"]
        for task, b in found["benchmarks"].items()
        if not b["withheld"]
    }
    unparsed = sum(b["unparsed"] for b in found["benchmarks"].values())
    return {
        "model": name,
        **({"protocol": found["protocol"]} if "protocol" in found else {}),
        "overall": found["overall"] and found["overall"]["value"],
        **headlines,
        "unparsed": unparsed,
    }
