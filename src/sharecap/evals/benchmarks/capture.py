"""CAPTURE: how far objects, attributes and relations in a caption are a reference's (arXiv 2405.19092).

The published metric as its authors' package `capture_metric` computes it, item by item: a T5 model parses
captions into scene graphs; elements match by their words, by WordNet's synonyms, or by embeddings; the score
is (0.5 F1 of objects + 0.5 of attributes + 0.2 of relations) / 1.2, a mean over the references. Nothing here
stands in for a part of it: without the package, its models or a GPU there is no score.
"""

import functools
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import detailed_captions
from sharecap.evals.task import Measures, Record, Sample, Task, item_mean

NAME = "capture"
INSTALL = "pip install 'sharecap[capture]', on a machine with a GPU that reaches a hub once for its models"

DEVICE = "cuda:0"
"""The package keeps its encoder there, whatever it is told."""


def task(samples: Sequence[Sample]) -> Task:
    """CAPTURE over these samples; `SharecapError` where the package can't work."""
    _opened()
    version = importlib.metadata.version("capture_metric")
    note = f"computed by capture_metric {version}"
    return Task(NAME, samples, detailed_captions.prompt, 512, parse, score, measure, (note,))


def read_tasks(directory: Path) -> list[Task]:
    """The same folder as detailed-captions, scored by CAPTURE."""
    return [task(detailed_captions.samples_in(directory))]


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """The same files as detailed-captions."""
    found, answers = detailed_captions.read_predictions(path, labels)
    return task(found.samples), answers


@functools.cache
def _opened() -> Any:
    """The package's scorer with its models loaded; one line on what is missing."""
    try:
        import capture_metric.capture as package  # type: ignore[import-not-found]
    except ImportError as error:
        raise SharecapError(f"CAPTURE's own package can't be used ({error})", todo=INSTALL) from None
    try:
        scorer = package.CAPTURE()
        scorer.parse_samples([(0, "A dog.")], DEVICE)
    except Exception as error:  # noqa: BLE001 - what its parts raise has no common root
        said = " ".join(str(error).split())[:200]
        raise SharecapError(f"CAPTURE's models can't be loaded ({said})", todo=INSTALL) from None
    return scorer


@functools.lru_cache(maxsize=100_000)
def _graph(text: str) -> str:
    """Objects, attributes by object, and relations of a text, as JSON in an order of its own."""
    ((_, objects, attributes, relations),) = _opened().parse_samples([(0, text)], DEVICE)
    told = {name: sorted(words) for name, words in sorted(attributes.items())}
    return json.dumps([sorted(objects), told, sorted(map(list, relations))])


def parse(_: Sample, raw: str) -> str | None:
    """The caption's scene graph; None for no caption."""
    return _graph(raw.strip()) if raw.strip() else None


def score(sample: Sample, parsed: str | None) -> float:
    """The mean over the references; 0 for no caption."""
    if parsed is None:
        return 0.0
    found = [_opened().compute_f_score(_read(_graph(text)), _read(parsed))[0] for text in sample.reference]
    return float(sum(found) / len(found))


def _read(graph: str) -> tuple[list[str], dict[str, list[str]], list[tuple[str, ...]]]:
    objects, attributes, relations = json.loads(graph)
    return objects, attributes, [tuple(relation) for relation in relations]


def measure(records: Sequence[Record]) -> Measures:
    """CAPTURE in per cent, as it is published."""
    return Measures("CAPTURE", 100.0, {"CAPTURE": item_mean(records)})
