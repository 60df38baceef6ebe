"""CHAIR: how many of the objects that a caption names are not in the picture (arXiv 1809.02156).

CHAIRi is wrong mentions per mention, CHAIRs captions with a wrong mention, Recall objects named per object
there: fractions, as published. The object vocabulary (`synonyms.txt`) and the objects of each image are data
of the user's. Words are made singular by the table beside them, where there is one, else by the rules below.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks.coco_caption import captions_of, part_of
from sharecap.evals.files import read_json, read_rows, read_text
from sharecap.evals.task import Measures, Record, Sample, Task, mean_of, ratio_of

CAPTION = "Generate a short caption of the image."
_TOKEN = re.compile(r"\w+(?:[-/.]\w+)*|[^\w\s]")

_TWO_WORDS = """
    motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant,
    stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass,
    hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer,
    stove top oven, home plate, train track
"""
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_DOUBLE = {pair.strip(): pair.strip() for pair in _TWO_WORDS.split(",")}
_DOUBLE |= {f"{age} {animal}": animal for animal in (*_ANIMALS, "animal", "cub") for age in ("baby", "adult")}
_DOUBLE |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
_DOUBLE |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
"""Words that mean another object together than one by one; the singular of "glass" comes out as "glas"."""

_IRREGULAR = {"men": "man", "people": "person", "children": "child", "geese": "goose", "feet": "foot"}
_IRREGULAR |= {"mice": "mouse", "oxen": "ox", "teeth": "tooth"}
_UNCHANGED = ("sheep", "scissors", "bison", "deer", "fish", "swine", "aircraft", "series", "species")
_ENDINGS = (
    (r"(kni|wi|li|lea|loa|shel|wol|cal|hal|sel|thie|hoo|scar)ves$", r"\1f"),
    (r"(bus|gas)(es)?$", r"\1"),
    (r"(x|ch|ss|sh)es$", r"\1"),
    (r"(tomato|potato|buffalo|hero|mosquito)es$", r"\1"),
    (r"(mov|cook|collie|dogg)ies$", r"\1ie"),
    (r"([^aeiouy]|qu)ies$", r"\1y"),
    (r"s$", ""),
)
_FE = ("knif", "wif", "lif")


@dataclass(frozen=True)
class Vocabulary:
    """Which words name which object."""

    object_of: Mapping[str, str]  # synonym -> object
    singular_of: Mapping[str, str] = field(default_factory=dict)  # where the rules below don't do

    def objects(self, caption: str) -> list[str]:
        """The objects that the caption mentions, in order, each as often as it does."""
        words = [self.singular(word) for word in _TOKEN.findall(caption.lower())]
        joined: list[str] = []
        at = 0
        while at < len(words):
            pair = " ".join(words[at : at + 2])
            joined.append(_DOUBLE.get(pair, words[at]))
            at += 2 if pair in _DOUBLE else 1
        if "toilet" in joined:
            joined = [word for word in joined if word != "seat"]
        return [self.object_of[word] for word in joined if word in self.object_of]

    def singular(self, word: str) -> str:
        """The word in the singular."""
        return self.singular_of.get(word) or singular(word)


def singular(word: str) -> str:
    """The singular by rule, as the original's library has it ("glass" becomes "glas")."""
    if word.endswith(_UNCHANGED):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word[: -len(plural)] + one
    for ending, end in _ENDINGS:
        made = re.sub(ending, end, word)
        if made != word:
            return made + "e" if made in _FE else made
    return word


def task(samples: Sequence[Sample], vocabulary: Vocabulary) -> Task:
    """CHAIR over these samples."""

    def parse(_: Sample, raw: str) -> str | None:
        return json.dumps(vocabulary.objects(raw)) if raw.strip() else None

    return Task("chair", samples, prompt, 512, parse, score, measure)


def read_vocabulary(directory: Path) -> Vocabulary:
    """`synonyms.txt` (an object and its synonyms a line), and `singularize_table.json` if it is there."""
    path = directory / "synonyms.txt"
    if not path.is_file():
        raise SharecapError("no synonyms.txt", where=directory, todo="CHAIR needs the table of object names")
    object_of: dict[str, str] = {}
    for line in filter(str.strip, read_text(path).splitlines()):
        # A doubled space stays in the name, as in the original, which therefore never finds "cheesecake".
        names = line.strip().split(", ")
        object_of |= dict.fromkeys(names, names[0])
    table = directory / "singularize_table.json"
    return Vocabulary(object_of, read_json(table) if table.is_file() else {})


def read_objects(path: Path) -> dict[str, list[str]]:
    """Image id -> the objects in it (instances and captions together): a JSON object of lists."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise SharecapError("expected lists of object names by image id", where=path)
    return {str(image): sorted(set(names)) for image, names in content.items()}


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """Rows of `image_id` and `caption` (or `text`), against a directory with objects and vocabulary."""
    directory = labels if labels.is_dir() else labels.parent
    objects = read_objects(_objects_file(labels))
    rows = read_rows(path)
    answers = captions_of(rows, path)
    unknown = [name for name in answers if name not in objects]
    if unknown:
        what = f"{len(unknown):,} of {len(rows):,} images are not among the labels (first: {unknown[0]})"
        raise SharecapError(what, where=path, todo="take the label file that has them")
    samples = [_sample(name, objects) for name in answers]
    found = task(samples, read_vocabulary(directory))
    return replace(found, notes=part_of(len(samples), len(objects))), answers


def _objects_file(labels: Path) -> Path:
    if labels.is_file():
        return labels
    files = [p for p in sorted(labels.glob("*.json")) if "objects" in p.name]
    if len(files) != 1:
        what = f"{len(files)} files with 'objects' in their name, expected one"
        raise SharecapError(what, where=labels, todo="name the file itself")
    return files[0]


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
    return float(parsed is not None and set(json.loads(parsed)) <= set(sample.reference))


def measure(records: Sequence[Record]) -> Measures:
    """CHAIRi (lower is better), CHAIRs, recall and the captions' length."""
    empty = sum(record.parsed is None for record in records)
    if empty:
        why = f"{empty:,} of {len(records):,} images have no caption"
        return Measures("CHAIRi", 1.0, {}, withheld=why, unparsed="leave no score", higher_is_better=False)
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
