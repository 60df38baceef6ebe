"""A judge's verdicts on claims as they lie on disk: DATASET/scores/LAYER.claims.jsonl and what goes with it.

One line a claim, by sentence, so that curation can drop single sentences and people can put verdicts right.
What failed has a file of its own; it must never stand among the verdicts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sharecap.artifact import write_atomically
from sharecap.captions.edits import Edit
from sharecap.captions.page_files import SCORES
from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.images.dataset import disk_errors
from sharecap.quality.scores import read_scores, scores_path
from sharecap.quality.wording import VERDICTS


@dataclass(frozen=True)
class Verdict:
    """One line of LAYER.claims.jsonl: what the judge said of one claim."""

    image: str
    layer: str
    sentence: int  # from 0, as captions/sentences.py splits
    claim: str
    verdict: str  # one of VERDICTS
    raw: str  # the judge's own words
    judge: str
    prompt: str  # digest of the wording of the questions


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


def read_checked(path: Path) -> dict[Place, str]:
    """The verdicts of a file in the form of LAYER.claims.jsonl; `UsageError` names the first bad line."""
    found: dict[Place, str] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                one = json.loads(line)
                match one:
                    case {"image": str(), "sentence": int(), "claim": str()} if (
                        one.get("verdict") in VERDICTS
                    ):
                        found[one["image"], one["sentence"], one["claim"]] = one["verdict"]
                    case _:
                        todo = (
                            'give {"image", "sentence", "claim", "verdict"} a line, as LAYER.claims.jsonl has'
                        )
                        raise UsageError("not a checked claim", where=f"{path}:{number}", todo=todo)
    except OSError as error:
        raise UsageError(f"can't read the file ({error.strerror})", where=path) from None
    except (ValueError, RecursionError):
        raise UsageError("not a JSON Lines file", where=path) from None
    return found


def read_verdicts(path: Path) -> list[Verdict]:
    """The lines of a LAYER.claims.jsonl; `SharecapError` if it is damaged."""
    try:
        with open(path, encoding="utf-8") as lines:
            return [Verdict(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise SharecapError(f"damaged verdicts ({error})", where=path) from None
