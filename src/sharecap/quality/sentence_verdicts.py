"""Verdicts on single sentences: of claims that a judge checked, and of people or tools in the page's form.

DATASET/scores/LAYER.claims.jsonl   {"image", "layer", "sentence" (0 is the first), "claim", "verdict"} a line
DATASET/scores/LAYER.jsonl          "sentences": ["right", "wrong", ""] a caption (`scores.py`)
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.errors import SharecapError, UsageError
from sharecap.quality.scores import read_scores, scores_path

CLAIMS = ("supported", "contradicted", "unverifiable")
MARKS = ("right", "wrong")


class Claim(BaseModel):
    """One claim of a sentence, judged. What else a line holds is left to whoever wrote it."""

    model_config = ConfigDict(extra="ignore")
    image: str = Field(pattern=r"^[0-9a-f]{64}$")
    layer: str
    sentence: int = Field(ge=0)
    verdict: Literal["supported", "contradicted", "unverifiable"]


def claims_path(dataset: Path, layer: str) -> Path:
    """Where the verdicts on a layer's claims lie."""
    return scores_path(dataset, f"{layer}.claims")


def read_claims(path: Path, layer: str) -> Iterator[Claim]:
    """The lines of such a file; `SharecapError` names the first that is bad or of another layer."""
    todo = 'give {"image", "layer", "sentence", "verdict"} a line'
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    claim = Claim.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors()[0]
                    what = f"bad verdict in line {number}, {'.'.join(map(str, first['loc']))}: {first['msg']}"
                    raise SharecapError(what, where=path, todo=todo) from None
                if claim.layer != layer:
                    raise SharecapError(
                        f"line {number} is on layer {claim.layer!r}, not {layer!r}", where=path
                    )
                yield claim
    except FileNotFoundError:
        raise UsageError(
            "no verdicts on claims", where=path, todo="have a judge check the captions"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SharecapError(f"cannot read the verdicts ({error})", where=path) from None


def bad_sentences(
    dataset: Path, layer: str, verdicts: Collection[str]
) -> tuple[dict[str, set[int]], set[str], list[Path]]:
    """Image -> sentences (0 is the first) with a claim or a mark of these verdicts; the images that have
    any verdict at all; and the files that say so. A sentence with one bad claim is bad.

    `UsageError` for a verdict that nobody gives, `SharecapError` for lines that are bad.
    """
    for verdict in verdicts:
        if verdict not in (*CLAIMS, *MARKS):
            raise UsageError(
                "no such verdict", where=verdict, todo=f"choose from {', '.join((*CLAIMS, *MARKS))}"
            )
    bad: dict[str, set[int]] = defaultdict(set)
    known: set[str] = set()
    files: list[Path] = []
    if not set(CLAIMS).isdisjoint(verdicts):
        files.append(claims_path(dataset, layer))
        for claim in read_claims(files[-1], layer):
            known.add(claim.image)
            if claim.verdict in verdicts:
                bad[claim.image].add(claim.sentence)
    if not set(MARKS).isdisjoint(verdicts):
        files.append(scores_path(dataset, layer))
        for one in read_scores(files[-1]):
            if one.sentences:
                known.add(one.image_id)
                bad[one.image_id] |= {n for n, mark in enumerate(one.sentences) if mark in verdicts}
    return bad, known, files
