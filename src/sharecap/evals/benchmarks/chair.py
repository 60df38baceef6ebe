"""CHAIR: how many of the objects that a caption names are not in the picture (arXiv 1809.02156).

CHAIRi is wrong mentions per mention, CHAIRs captions with a wrong mention, Recall objects named per object
there: fractions, as published. Which objects a caption names is settled in `captions/objects.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sharecap.captions.objects import Vocabulary, objects_file, read_objects, read_vocabulary
from sharecap.errors import SharecapError
from sharecap.evals.benchmarks.coco_caption import captions_of, image_number, part_of
from sharecap.evals.files import Row, read_rows
from sharecap.evals.task import Measures, Record, Sample, Task, mean_of, ratio_of

CAPTION = "Generate a short caption of the image."


def task(samples: Sequence[Sample], vocabulary: Vocabulary) -> Task:
    """CHAIR over these samples."""

    def parse(_: Sample, raw: str) -> str:
        return json.dumps(vocabulary.objects(raw))  # an empty caption mentions none, and counts

    return Task("chair", samples, prompt, 512, parse, score, measure)


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """Rows of `image_id` and `caption` (or `text`), against a directory with objects and vocabulary.

    Also the original's own form, `imgToEval`: captions by image.
    """
    directory = labels if labels.is_dir() else labels.parent
    objects = {image_number(name): there for name, there in read_objects(objects_file(labels)).items()}
    rows = _rows(path)
    answers = captions_of(rows, path)
    missing = sum(row.get("caption", row.get("text")) is None for row in rows)
    if missing:
        what = f"{missing:,} of {len(rows):,} images have no caption"
        raise SharecapError(what, where=path, todo="caption them; an empty text is a caption, a null is none")
    unknown = [name for name in answers if name not in objects]
    if unknown:
        what = f"{len(unknown):,} of {len(rows):,} images are not among the labels (first: {unknown[0]})"
        raise SharecapError(what, where=path, todo="take the label file that has them")
    samples = [_sample(name, objects) for name in answers]
    found = task(samples, read_vocabulary(directory))
    return replace(found, notes=part_of(len(samples), len(objects))), answers


def _rows(path: Path) -> list[Row]:
    rows = read_rows(path)
    if len(rows) == 1 and isinstance(rows[0].get("imgToEval"), dict):
        return [{"image_id": image, **row} for image, row in rows[0]["imgToEval"].items()]
    return rows


def _sample(image: str, objects: Mapping[str, Iterable[str]]) -> Sample:
    return Sample(
        id=image,
        images=(),
        image_name=image,
        question="",
        reference=list(objects[image]),
        kind="",
        group=image,
    )


def prompt(_: Sample) -> str:
    """The shortest of the prompts that the published tables used."""
    return CAPTION


def score(sample: Sample, parsed: str | None) -> float:
    """1 for a caption without a wrong object."""
    return float(set(json.loads(parsed or "[]")) <= set(sample.reference))


def measure(records: Sequence[Record]) -> Measures:
    """CHAIRi (lower is better), CHAIRs, recall and the captions' length."""
    named = [(r.cluster, json.loads(r.parsed or "[]"), set(r.reference)) for r in records]
    wrong = [(c, float(sum(w not in there for w in words)), float(len(words))) for c, words, there in named]
    if not any(mentions for _, _, mentions in wrong):
        why = "no caption mentions an object"
        return Measures("CHAIRi", 1.0, {}, withheld=why, higher_is_better=False)
    scores = {
        "CHAIRi": ratio_of(1.0, wrong),
        "CHAIRs": mean_of(1.0, [(c, float(n > 0)) for c, n, _ in wrong]),
    }
    if any(there for _, _, there in named):
        scores["Recall"] = ratio_of(
            1.0, [(c, float(len(there & set(words))), float(len(there))) for c, words, there in named]
        )
    scores["avg_words"] = mean_of(1.0, [(r.cluster, float(len(r.raw.split()))) for r in records])
    return Measures("CHAIRi", 1.0, scores, higher_is_better=False)
