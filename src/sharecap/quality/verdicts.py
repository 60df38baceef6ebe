"""A judge's verdicts on claims as they lie on disk: DATASET/scores/LAYER.claims.jsonl and what goes with it.

One line a claim, by sentence, so that curation can drop single sentences and people can put verdicts right.
What failed has a file of its own; it must never stand among the verdicts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sharecap.artifact import write_atomically
from sharecap.captions.edits import Edit
from sharecap.captions.page_files import SCORES
from sharecap.captions.sentences import sentences
from sharecap.errors import UsageError
from sharecap.images.dataset import disk_errors
from sharecap.quality.scores import read_scores, scores_path
from sharecap.quality.wording import VERDICTS


@dataclass(frozen=True)
class Verdict:
    """One line of LAYER.claims.jsonl: what the judge said of one claim."""

    image: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layer: str = ""
    sentence: Annotated[int, Field(ge=0, strict=True)] = field(
        kw_only=True
    )  # from 0, as captions/sentences.py splits
    claim: str = ""
    verdict: Annotated[str, Field(pattern=f"^({'|'.join(VERDICTS)})$")] = field(kw_only=True)
    raw: str = ""  # the judge's own words
    judge: str = ""
    prompt: str = ""  # digest of the wording of the questions


@dataclass(frozen=True)
class Failure:
    """One line of LAYER.claims-failed.jsonl: a caption that was not split, or a claim without a verdict."""

    image: str
    layer: str
    stage: str  # "split" or "check"
    kind: str
    sentence: int | None = None
    claim: str = ""
    raw: str = ""


def path_of(dataset: Path, layer: str, what: str) -> Path:
    """Where a layer's judged `what` ("claims", "claims-failed", "mend") lies."""
    return dataset / SCORES / f"{layer}.{what}.jsonl"


JUDGE = "sharecap judge"
"""Says in a line of the page's scores that score and sentences come from verdicts."""


def write_for_page(dataset: Path, layer: str, verdicts: Sequence[Verdict], texts: Mapping[str, str]) -> bool:
    """Have the page colour sentences and sort by the share of supported claims; `texts` are by image id.

    Measures in the file stay. False, and nothing written, where scores or marks of others are in it.
    """
    path = scores_path(dataset, layer)
    lines: dict[str, dict[str, Any]] = {}
    for old in read_scores(path) if path.exists() else ():
        if old.by != JUDGE and (old.sentences or (old.score is not None and old.by not in old.measures)):
            return False
        kept = old.model_dump(exclude_unset=True, exclude={"sentences", "score", "by"})
        if old.measures:
            lines[old.image_id] = kept
    by_image: dict[str, list[Verdict]] = {}
    for one in verdicts:
        by_image.setdefault(one.image, []).append(one)
    for image, said in by_image.items():
        of = [{one.verdict for one in said if one.sentence == n} for n in range(len(sentences(texts[image])))]
        lines[image] = lines.get(image, {"image_id": image}) | {
            "score": sum(one.verdict == "supported" for one in said) / len(said),
            "by": JUDGE,
            "sentences": [
                "wrong" if "contradicted" in s else "right" if s == {"supported"} else "" for s in of
            ],
        }
    with disk_errors(path):
        if not lines:
            path.unlink(missing_ok=True)
            return True
        path.parent.mkdir(exist_ok=True)
        write_atomically(
            path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
        )
    return True


def write_lines(path: Path, lines: Sequence[Verdict | Failure | Edit]) -> None:
    """Write JSON lines so that a reader sees the old file or the new one; no file where there are none."""
    with disk_errors(path):
        if not lines:  # an old one is about other verdicts
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(json.dumps(asdict(one)) + "\n" for one in lines))


Place = tuple[str, int, str]
"""Image, sentence and claim."""


def place_of(one: Verdict) -> Place:
    """What names the claim."""
    return one.image, one.sentence, one.claim


def read_verdicts(path: Path, layer: str | None = None) -> Iterator[Verdict]:
    """The lines of such a file, a judge's or one that people wrote; only image, sentence and verdict must be.

    `UsageError` names the first that is bad or, where a layer is named, of another layer.
    """
    read = TypeAdapter(Verdict).validate_json
    todo = 'give {"image", "layer", "sentence", "claim", "verdict"} a line, as LAYER.claims.jsonl has'
    try:
        with open(path, encoding="utf-8-sig") as lines:  # editors put a mark before what they save
            for number, line in enumerate(lines, 1):
                try:
                    one = read(line)
                except ValidationError as error:
                    first = error.errors()[0]
                    place = ".".join(map(str, first["loc"]))
                    what = f"bad verdict in line {number}, {place or 'as a whole'}: {first['msg']}"
                    raise UsageError(what, where=path, todo=todo) from None
                if layer is not None and one.layer != layer:
                    what = f"line {number} is on layer {one.layer!r}, not {layer!r}"
                    raise UsageError(what, where=path, todo="judge the layer itself")
                yield one
    except FileNotFoundError:
        todo = "make them: sharecap judge DATASET LAYER --judge JUDGE"
        raise UsageError("no verdicts on claims", where=path, todo=todo) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the verdicts ({error})", where=path, todo=todo) from None
