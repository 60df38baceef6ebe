"""Runs tasks on a model; leaves a directory with `items.jsonl`, a graded answer a line, and `results.json`.

Everything else reads these lines. A killed run goes on where it was; a torn line is dropped and asked again.
No answer is ever taken over from another model, prompt or set of questions: each line has its question's key.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.errors import UsageError
from sharecap.evals.answerers import Answerer, Ask
from sharecap.evals.results import ITEMS, RESULTS, Run, read_items, summary
from sharecap.evals.suite import MEASURES
from sharecap.evals.task import Measure, Record, Sample, Task, check_unique, graded
from sharecap.images.progress import Progress
from sharecap.statistics import RESAMPLES

KIND = "eval"


def evaluate(
    answerer: Answerer,
    tasks: Sequence[Task],
    out: Path,
    *,
    missing: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artifact:
    """Ask all tasks' questions and write items, scores and intervals to `out`. Found again if it is finished.

    `missing` names benchmarks that the caller looked for in vain; it is reported beside the results.
    """
    config = _config(tasks, missing, resamples, seed)

    def work(directory: Path) -> Mapping[str, Any]:
        ordered = _answer_all(answerer, tasks, directory, progress or Progress("answered", quiet=True))
        return _finish(
            directory,
            answerer.name,
            ordered,
            measures={task.name: task.measure for task in tasks},
            missing=missing,
            resamples=resamples,
            seed=seed,
        )

    return artifact.stage(out, KIND, config, {"model": answerer.digest}, work)


def _config(tasks: Sequence[Task], missing: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    return {
        "tasks": {task.name: task.digest for task in tasks},
        "missing": list(missing),
        "resamples": resamples,
        "seed": seed,
    }


def run_directory(
    answerer: Answerer, tasks: Sequence[Task], missing: Sequence[str], to: Path | None = None
) -> Path:
    """Where an evaluation goes: `to`, or a place told apart by the content of model and questions.

    `UsageError` if `to` holds anything but this very evaluation: answers may have been paid for.
    """
    inputs = {"model": answerer.digest}
    key = artifact.key_of(KIND, _config(tasks, missing, RESAMPLES, 0), inputs)
    if to is None:
        name = re.sub(r"[^\w.-]+", "-", answerer.name)
        return Path("evals") / f"{name}-{key[:8]}"
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
        return _finish(directory, name, records, measures=MEASURES, resamples=resamples, seed=seed)

    return artifact.stage(out, KIND, config, inputs, work)


def _answer_all(
    answerer: Answerer, tasks: Sequence[Task], directory: Path, progress: Progress
) -> list[Record]:
    """Ask what is not answered yet, writing each answer as it comes; all records in the tasks' own order."""
    wanted: dict[str, tuple[Task, Sample, str]] = {}
    for task in tasks:
        check_unique((sample.id for sample in task.samples), Path(task.name))
        for sample in task.samples:
            prompt = task.prompt(sample)
            wanted[_key(answerer, task, sample, prompt)] = (task, sample, prompt)
    items = directory / ITEMS
    records = {record.key: record for record in read_items(items, repair=True) if record.key in wanted}
    pictures = directory / artifact.STATE / "images"
    todo = [key for key in wanted if key not in records]
    asks = [
        Ask(tuple(_as_file(image, pictures) for image in sample.images), prompt, task.max_new_tokens)
        for task, sample, prompt in (wanted[key] for key in todo)
    ]
    progress.total, progress.done = len(wanted), len(records)
    with open(items, "a", encoding="utf-8") as lines, progress.shown():

        def done(index: int, text: str, seconds: float) -> None:
            task, sample, prompt = wanted[todo[index]]
            record = graded(
                task,
                sample,
                text,
                images=asks[index].image_ids,
                prompt=prompt,
                seconds=seconds,
                key=todo[index],
            )
            lines.write(_line(record))
            lines.flush()
            records[record.key] = record
            progress.done += 1
            progress.tick()

        if asks:
            answerer.answer(asks, done)
    assert len(records) == len(wanted), "an answerer must answer every question or raise"
    return [records[key] for key in wanted]


def _key(answerer: Answerer, task: Task, sample: Sample, prompt: str) -> str:
    what = [answerer.digest, task.digest, sample.id, prompt, task.max_new_tokens, "greedy"]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _as_file(image: Path | bytes, directory: Path) -> Path:
    """Encoded images from inside a table become files, so that every answerer gets paths."""
    if isinstance(image, Path):
        return image
    path = directory / hashlib.sha256(image).hexdigest()
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(image)
        partial.replace(path)
    return path


def _line(record: Record) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def _finish(
    directory: Path,
    name: str,
    records: Sequence[Record],
    *,
    measures: Mapping[str, Measure],
    missing: Sequence[str] = (),
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Write items in their order and the results; the numbers for the manifest."""
    artifact.write_atomically(directory / ITEMS, "".join(_line(record) for record in records))
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    found = summary(Run(name, by_task, measures), resamples=resamples, seed=seed) | {"missing": list(missing)}
    artifact.write_atomically(directory / RESULTS, json.dumps(found, ensure_ascii=False, indent=1))
    headlines = {
        task: b["scores"][b["headline"]]["value"]
        for task, b in found["benchmarks"].items()
        if not b["withheld"]
    }
    unparsed = sum(b["unparsed"] for b in found["benchmarks"].values())
    return {
        "model": name,
        "overall": found["overall"] and found["overall"]["value"],
        **headlines,
        "unparsed": unparsed,
    }
