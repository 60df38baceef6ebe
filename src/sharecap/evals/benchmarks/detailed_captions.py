"""Detailed captions against references: DetailCaps-4870, or a set of one's own (arXiv 2405.19092).

Read are JSON lines `id, image, references` with images/. ROUGE-L is scored anywhere. CAPTURE, the published
metric of this benchmark, is asked for by name: its authors' own package computes it (see `capture`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.files import Row, answers_of, id_of, need, only, read_rows, within
from sharecap.evals.pictures import Find, below, nowhere
from sharecap.evals.task import Measures, Record, Sample, Task, check_unique, mean_of

DETAIL = "Describe this image in detail."
"""DetailCaps' words, as lmms-eval asks it."""

IDS = ("id", "image_id", "question_id", "image")
TEXTS = ("caption", "text", "prediction", "response")
BETA = 1.2
"""Weight of recall against precision, as pycocoevalcap has it."""

_WORD = re.compile(r"\w+(?:['-]\w+)*")


def task(samples: Sequence[Sample]) -> Task:
    """Detailed captions over these samples, by ROUGE-L."""
    return Task("detailed-captions", samples, prompt, 512, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The one file of JSON lines, with images/."""
    return [task(samples_in(directory))]


def samples_in(directory: Path) -> list[Sample]:
    """The samples of a benchmark's folder, with their pictures."""
    return read_samples(only(directory, "*.jsonl"), below(directory, ("images", ".")))


def read_samples(path: Path, find: Find = nowhere) -> list[Sample]:
    """JSON lines of `references`, a list, or `reference`, with `image` and, if it isn't that, an `id`."""
    rows = read_rows(path)
    need(rows, ["|".join(IDS), "references|reference"], path)
    check_unique((id_of(row, IDS) for row in rows), path)
    return [_sample(row, find, path) for row in rows]


def _sample(row: Row, find: Find, where: Path) -> Sample:
    name = id_of(row, IDS)
    told: Any = row["references"] if "references" in row else [row["reference"]]
    if not isinstance(told, list) or not told or not all(isinstance(t, str) and words_of(t) for t in told):
        todo = "expected a text, or a list of texts under references"
        raise SharecapError(f"item {name} has no reference in words", where=where, todo=todo)
    image = str(row.get("image", name))
    return Sample(
        id=name, images=find(image), image_name=image, question=DETAIL, reference=told, kind="", group=name
    )


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """Rows of `id` (or `image_id`, `question_id`, `image`) and `caption` (or `text`)."""
    return task(read_samples(within(labels, "*.jsonl"))), read_answers(path)


def read_answers(path: Path) -> dict[str, str]:
    """Captions by their sample."""
    return answers_of(read_rows(path), path, ids=IDS, texts=TEXTS)


def prompt(sample: Sample) -> str:
    """The same words for all."""
    return sample.question


def parse(_: Sample, raw: str) -> str | None:
    """The caption in one line."""
    return " ".join(raw.split()) or None


def score(sample: Sample, parsed: str | None) -> float:
    """ROUGE-L against the references; 0 for no caption."""
    return rouge_l(parsed, sample.reference) if parsed else 0.0


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F of the longest common subsequence (Lin 2004): best precision and best recall over the references.

    As pycocoevalcap combines them; it cuts words with a tokeniser in Java, here `words_of` does.
    """
    said = words_of(caption)
    if not said:
        return 0.0
    pairs = [(len(told), common(said, told)) for told in map(words_of, references)]
    precision = max(shared / len(said) for _, shared in pairs)
    recall = max(shared / length for length, shared in pairs)
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as the bits of one number."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & whole
    return len(one) - row.bit_count()


def measure(records: Sequence[Record]) -> Measures:
    """ROUGE-L in per cent, and the captions' length."""
    scores = {
        "ROUGE_L": mean_of(100.0, [(r.cluster, r.score) for r in records]),
        "avg_words": mean_of(1.0, [(r.cluster, float(len(r.raw.split()))) for r in records]),
    }
    note = "ROUGE-L over words in lower case; the benchmark's published metric is CAPTURE (capture)"
    return Measures("ROUGE_L", 100.0, scores, (note,))
