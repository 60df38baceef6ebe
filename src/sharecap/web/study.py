"""A preference study: which of two captions is better? Blind pairs, judged by people (paper, table 2).

`DATASET/studies/NAME/study.json` holds layers, pairs, seed and the raters' tokens; `votes.jsonl` one line a
vote, on disk before the rater sees the next pair. Each rater has an order of their own: pairs shuffled, sides
drawn, and some pairs shown again late with the sides drawn anew, for the rater's agreement with themselves.
What a rater gets must never tell a layer: trials are known to them by their number alone.
"""

import csv
import io
import json
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from sharecap.artifact import write_atomically
from sharecap.captions.layer import open_layer, side_by_side
from sharecap.captions.page_files import STUDIES, STUDY
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors

VOTES = "votes.jsonl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True)
class Pair:
    """Two captions of one image that are to be compared."""

    image_id: str
    layers: tuple[str, str]
    texts: tuple[str, str]


@dataclass(frozen=True)
class Trial:
    """One question to one rater."""

    pair: int
    left: int  # which of the pair's captions stands left: 0 or 1
    repeat: bool  # the pair was asked before


@dataclass(frozen=True)
class Vote:
    """One answer. Of two of the same rater and trial, the later one counts."""

    rater: str
    trial: int
    pair: Annotated[int, Field(ge=0)]
    image_id: str
    left: str  # layer
    right: str  # layer
    choice: Literal["left", "right", "tie"]
    repeat: bool
    seconds: float  # from the page being shown to the answer
    time: float  # seconds since 1970


@dataclass(frozen=True)
class Study:
    """A study as it lies on disk."""

    directory: Path
    name: str
    layers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    repeats: int  # pairs that every rater sees twice
    seed: int
    raters: Mapping[str, str]  # token -> name

    def trials(self, rater: str) -> list[Trial]:
        """The questions to one rater, in their order. The same each time."""
        rng = random.Random(f"{self.seed}/{rater}")
        order = rng.sample(range(len(self.pairs)), len(self.pairs))
        again = rng.sample(order[: max(1, len(order) // 2)], min(self.repeats, max(1, len(order) // 2)))
        first = [Trial(pair, rng.randrange(2), False) for pair in order]
        return first + [Trial(pair, rng.randrange(2), True) for pair in again]


_VOTE = TypeAdapter(Vote)
_WRITING = threading.Lock()


def create(
    dataset: Path,
    name: str,
    layers: Sequence[str],
    raters: Sequence[str],
    *,
    images: int = 50,
    repeats: int = 5,
    seed: int = 0,
) -> Study:
    """Draw a study of `images` images, a fair draw that the seed fixes; every pair of layers is compared.

    Only images that all layers have a caption of, and different ones, can be in it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "not a name for a study", where=repr(name[:80]), todo="use letters, digits, '.', '_', '-'"
        )
    if len(set(layers)) != len(layers) or len(layers) not in (2, 3):
        raise UsageError("a study compares two or three layers", where=", ".join(layers))
    names = [one.strip() for one in raters if one.strip()]
    if not names or len(set(names)) != len(names) or any(len(n) > 60 for n in names):
        raise UsageError("name each rater once, in up to 60 characters")
    if not 1 <= images <= 100_000 or not 0 <= repeats <= images:
        raise UsageError("a study has 1 to 100,000 images, and repeats no more than it has")
    directory = dataset / STUDIES / name
    if (directory / STUDY).exists():
        raise UsageError("there is a study of that name", where=directory, todo="choose another name")
    for layer in layers:
        open_layer(dataset, layer)
    rng, drawn, seen = random.Random(f"images {seed}"), list[tuple[str, list[str]]](), 0
    for image, row in side_by_side(Catalog.open(dataset), layers):
        texts = [caption.text for caption in row if caption]
        if len(texts) < len(layers) or len(set(texts)) < len(layers):
            continue
        seen += 1  # a sample of fixed size from a stream of unknown length
        if len(drawn) < images:
            drawn.append((image.id, texts))
        elif (place := rng.randrange(seen)) < images:
            drawn[place] = (image.id, texts)
    if not drawn:
        raise UsageError("no image has different captions in all of the layers", where=", ".join(layers))
    pairs = [
        Pair(image, (layers[a], layers[b]), (texts[a], texts[b]))
        for image, texts in drawn
        for a, b in combinations(range(len(layers)), 2)
    ]
    facts = {
        "layers": list(layers),
        "digests": {layer: open_layer(dataset, layer).digest for layer in layers},
        "repeats": repeats,
        "seed": seed,
        "raters": {secrets.token_urlsafe(12): rater for rater in names},
        "pairs": [asdict(pair) for pair in pairs],
    }
    with disk_errors(dataset):
        directory.mkdir(parents=True, exist_ok=True)  # a kill may have left it, with nothing in it
        write_atomically(directory / STUDY, json.dumps(facts, ensure_ascii=False, indent=1))
    return open_study(dataset, name)


def studies(dataset: Path) -> list[str]:
    """Names of the dataset's studies."""
    folder = dataset / STUDIES
    return sorted(p.name for p in folder.iterdir() if (p / STUDY).is_file()) if folder.is_dir() else []


def open_study(dataset: Path, name: str) -> Study:
    """The study of that name; `UsageError` if there is none."""
    directory = dataset / STUDIES / name
    if not _NAME.fullmatch(name) or not (directory / STUDY).is_file():
        raise UsageError("no such study", where=repr(name[:80]))
    return _read(directory, (directory / STUDY).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(directory: Path, _changed: int) -> Study:
    try:
        facts = json.loads((directory / STUDY).read_text(encoding="utf-8"))
        pairs = tuple(Pair(p["image_id"], tuple(p["layers"]), tuple(p["texts"])) for p in facts["pairs"])
        how = (int(facts["repeats"]), int(facts["seed"]), dict(facts["raters"]))
        return Study(directory, directory.name, tuple(facts["layers"]), pairs, *how)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SharecapError(f"damaged study ({error})", where=directory / STUDY) from None


def by_token(dataset: Path, token: str) -> tuple[Study, str] | None:
    """The study and rater that a link is for; `SharecapError` where it may be for one that is damaged."""
    damaged = None
    for name in studies(dataset):
        try:
            study = open_study(dataset, name)
        except SharecapError as error:
            damaged = error
            continue
        for known, rater in study.raters.items():
            if secrets.compare_digest(known.encode(), token.encode()):
                return study, rater
    if damaged:
        raise damaged
    return None


def vote(
    study: Study, rater: str, trial: int, choice: Literal["left", "right", "tie"], seconds: float
) -> None:
    """Put one answer on disk."""
    trials = study.trials(rater)
    if not 0 <= trial < len(trials):
        raise UsageError("no such question")
    asked = trials[trial]
    pair = study.pairs[asked.pair]
    sides = (pair.layers[asked.left], pair.layers[1 - asked.left])
    spent = min(max(seconds, 0.0), 86_400.0)
    row = Vote(rater, trial, asked.pair, pair.image_id, *sides, choice, asked.repeat, spent, time.time())
    line = json.dumps(asdict(row), ensure_ascii=False) + "\n"
    with _WRITING, disk_errors(study.directory), open(study.directory / VOTES, "a+b") as file:
        if file.tell() and not _ends_a_line(file):
            line = "\n" + line  # a kill or a full disk cut the line before
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def votes(study: Study) -> list[Vote]:
    """The answers that count, by rater and trial. A line that a kill cut is none, nor is another study's."""
    path = study.directory / VOTES
    found: dict[tuple[str, int], Vote] = {}
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                one = _VOTE.validate_json(line)
            except ValueError:
                continue
            if one.pair < len(study.pairs) and {one.left, one.right} == {*study.pairs[one.pair].layers}:
                found[one.rater, one.trial] = one
    return [found[key] for key in sorted(found)]


def as_csv(study: Study) -> str:
    """The votes, one a row."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Vote.__dataclass_fields__))
    writer.writeheader()
    for one in votes(study):
        # A cell that a spreadsheet would take for a formula is kept a text.
        row = {k: "'" + v if isinstance(v, str) and v[:1] in "=+-@" else v for k, v in asdict(one).items()}
        writer.writerow(row)
    return out.getvalue()


LABEL_STUDIO_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
  <Choices name="preference" toName="image" choice="single">
    <Choice value="left"/><Choice value="right"/><Choice value="tie"/>
  </Choices>
</View>"""
"""The labelling interface that `as_label_studio` fits."""


def as_label_studio(study: Study, place: Mapping[str, str]) -> list[dict[str, Any]]:
    """The votes as tasks with annotations, in Label Studio's JSON; `place` says where each image lies."""
    return list(_tasks(study, place))


def _tasks(study: Study, place: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for one in votes(study):
        pair = study.pairs[one.pair]
        left, right = (pair.texts[pair.layers.index(layer)] for layer in (one.left, one.right))
        data = {"image": place.get(one.image_id, one.image_id), "left": left, "right": right}
        about = {"left_layer": one.left, "right_layer": one.right, "rater": one.rater, "repeat": one.repeat}
        result = {"from_name": "preference", "to_name": "image", "type": "choices"}
        result |= {"value": {"choices": [one.choice]}}  # type: ignore[dict-item]
        yield {"data": data, "meta": about, "annotations": [{"result": [result], "lead_time": one.seconds}]}
