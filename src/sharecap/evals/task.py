"""The nouns of an evaluation: Sample (a question), Task (samples, prompt, rules), Record (a graded answer).

A benchmark is a Task; its file in `benchmarks/` holds its own rules and nothing else (paper, section 4).
A score that can't be computed is not a number: an answer that could not be parsed is wrong, and counted.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.statistics import Mean, Score

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
"""The suffixes of the LLaVA-1.5 protocol, which the paper's evaluation uses (section 4)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a benchmark."""

    id: str  # unique in its task
    images: tuple[Path | bytes, ...]  # files, or encoded images; empty where only predictions are scored
    image_name: str  # what the benchmark calls the image; equal names are the same image
    question: str
    reference: Any  # the right answer, as JSON data
    kind: str  # what is asked for: subtask, category, question type
    group: str  # items that the metric takes together; its own id where each stands alone
    labels: Mapping[str, str] = field(default_factory=dict)  # further names that sub-scores go by
    choices: tuple[str, ...] = ()  # the options' own words, where a task ranks them


@dataclass(frozen=True, slots=True)
class Record:
    """One answered item: a line of `items.jsonl`. All that scores and comparisons are made from."""

    task: str
    id: str
    images: tuple[str, ...]  # digests of their bytes; the benchmark's names where only predictions are known
    prompt: str
    raw: str  # the model's text as it came
    parsed: str | None  # the answer in it; None: could not be parsed
    reference: Any
    score: float  # 0..1
    seconds: float
    kind: str
    group: str
    labels: Mapping[str, str]
    key: str = ""  # digest of all that decides the answer
    review: Mapping[str, str] = field(default_factory=dict)  # `judge`, `prompt` (digest), `text`; if judged

    @property
    def cluster(self) -> str:
        """What is resampled as a whole."""
        return "+".join(self.images) or f"{self.task}/{self.group}"


@dataclass(frozen=True, slots=True)
class Measures:
    """A benchmark's metrics over its records."""

    headline: str  # name of the score that stands for the benchmark
    out_of: float  # the headline's full marks
    scores: Mapping[str, Score]  # empty where `withheld` says why there is none
    notes: tuple[str, ...] = ()  # what a reader must know beside the numbers
    items: int = 0  # what the headline is counted over, where that isn't the records
    unparsed: str = "count as wrong"  # what the rule does with answers that could not be parsed
    withheld: str = ""  # why there is no score
    higher_is_better: bool = True
    printed: Mapping[str, float] = field(default_factory=dict)
    """Figures as official code gives them: rounded midway, or of the whole set and so without an interval."""


Measure = Callable[[Sequence[Record]], Measures]


@dataclass(frozen=True)
class Judging:
    """How a judge is asked about an answer that no rule can score. Its words are what `parse` reads."""

    ask: Callable[[Sample, str], str]  # a sample and the model's text -> the words to the judge
    digest: str  # of all words that are the same for every answer
    system: str = ""
    max_tokens: int = 1024
    temperature: float = 0.0


@dataclass(frozen=True)
class Task:
    """Samples with the rules of their benchmark. Decoding is greedy, as in the paper."""

    name: str
    samples: Sequence[Sample]
    prompt: Callable[[Sample], str]  # what the model is asked
    max_new_tokens: int
    parse: Callable[[Sample, str], str | None]  # answer in the model's text; None: there is none
    score: Callable[[Sample, str | None], float]  # 0..1
    measure: Measure
    notes: tuple[str, ...] = ()  # what was assumed when its files were read
    judging: Judging | None = None  # where a judge is asked for the score
    ranks: bool = False  # the answer is the list of the choices' losses, not a text

    def __post_init__(self) -> None:
        if not self.samples:
            raise SharecapError(f"{self.name} has no questions", todo="check the benchmark's files")

    @cached_property
    def digest(self) -> str:
        """Digest of all that is asked: names, prompts, references, images."""
        known: dict[int, str] = {}
        total = hashlib.sha256(json.dumps([self.name, self.max_new_tokens]).encode())
        encoded = json.JSONEncoder(sort_keys=True).encode
        for s in self.samples:
            images = [_fingerprint(image, known) for image in s.images]
            row = [s.id, self.prompt(s), s.reference, s.kind, s.group, s.image_name, images, dict(s.labels)]
            row += [s.choices] if self.ranks else []
            total.update(encoded(row).encode())
        return total.hexdigest()


def _fingerprint(image: Path | bytes, known: dict[int, str]) -> str:
    """Size, head and tail of a file: enough to see a change, and quick for a hundred thousand files.

    Samples that share a picture share the object, by which it is `known`.
    """
    if (found := known.get(id(image))) is None:
        found = known[id(image)] = hashlib.sha256(
            image if isinstance(image, bytes) else _ends(image)
        ).hexdigest()
    return found


def _ends(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY)  # a file object would take longer than the reading
    try:
        size = os.fstat(file).st_size
        head = os.pread(file, 4096, 0)
        tail = head if size <= 4096 else os.pread(file, 4096, size - 4096)
        return head + tail + str(size).encode()
    finally:
        os.close(file)


def graded(
    task: Task,
    sample: Sample,
    raw: str,
    *,
    images: tuple[str, ...],
    prompt: str = "",
    seconds: float = 0.0,
    key: str = "",
) -> Record:
    """The record of one answer. The only place where an answer becomes a score; `judged` is the other half.

    An answer that waits for its judge has none yet.
    """
    parsed = None if task.judging else task.parse(sample, raw)
    return Record(
        task=task.name,
        id=sample.id,
        images=images,
        prompt=prompt,
        raw=raw,
        parsed=parsed,
        reference=sample.reference,
        score=task.score(sample, parsed),
        seconds=seconds,
        kind=sample.kind,
        group=sample.group,
        labels=dict(sample.labels),
        key=key,
    )


def judged(task: Task, sample: Sample, record: Record, judge: str, text: str) -> Record:
    """The record with what the judge said of the answer, and the score that this is."""
    assert task.judging is not None
    parsed = task.parse(sample, text)
    review = {"judge": judge, "prompt": task.judging.digest, "text": text}
    return replace(record, parsed=parsed, score=task.score(sample, parsed), review=review)


def grade(task: Task, answers: Mapping[str, str], where: Path) -> list[Record]:
    """Records of predictions (sample id -> text); `SharecapError` unless every sample has just one."""
    check_unique((s.id for s in task.samples), where)
    missing = [s.id for s in task.samples if s.id not in answers]
    known = {s.id for s in task.samples}
    unknown = [name for name in answers if name not in known]
    for problem, names in (("have no prediction", missing), ("are not in the benchmark", unknown)):
        if names:
            what = f"{len(names):,} of {len(known):,} items {problem} (first: {names[0]})"
            raise SharecapError(what, where=where, todo="score the predictions of one complete run")
    return [
        graded(task, s, answers[s.id], images=(f"{task.name}/{s.image_name}",) if s.image_name else ())
        for s in task.samples
    ]


def check_unique(ids: Any, where: Path) -> None:
    """`SharecapError` that names the first id that comes twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise SharecapError(f"item {name} appears twice", where=where, todo="keep one of the two")
        seen.add(name)


def mean_of(weight: float, units: Sequence[tuple[str, float]]) -> Score:
    """`weight` x the mean over (cluster, value) units."""
    clusters, values = zip(*units, strict=True)
    return (Mean(weight, clusters, values),)


def ratio_of(weight: float, units: Sequence[tuple[str, float, float]]) -> Score:
    """`weight` x the sum of the values over the sum of the counts, of (cluster, value, count) units."""
    clusters, values, counts = zip(*units, strict=True)
    return (Mean(weight, clusters, values, counts),)


def by_label(records: Sequence[Record], label: str) -> dict[str, list[Record]]:
    """Records that carry the label, by its value, in the order of the values."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if label in record.labels:
            found.setdefault(record.labels[label], []).append(record)
    return dict(sorted(found.items()))


def item_mean(records: Sequence[Record]) -> Score:
    """Mean score of the items, in per cent."""
    return mean_of(100.0, [(r.cluster, r.score) for r in records])


def group_mean(records: Sequence[Record]) -> Score:
    """Share of groups in which every item is right, in per cent."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return mean_of(100.0, [(rs[0].cluster, float(all(r.score == 1 for r in rs))) for rs in groups.values()])
