"""Verdicts on single sentences: of claims that a judge checked, and of people or tools in the page's form.

DATASET/scores/LAYER.claims.jsonl   {"image", "layer", "sentence" (0 is the first), "claim", "verdict"} a line
DATASET/scores/LAYER.jsonl          "sentences": ["right", "wrong", ""] a caption (`scores.py`)
"""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from sharecap.errors import UsageError
from sharecap.quality.scores import read_scores, scores_path
from sharecap.quality.verdicts import path_of, read_verdicts
from sharecap.quality.wording import VERDICTS

MARKS = ("right", "wrong")


def bad_sentences(
    dataset: Path, layer: str, verdicts: Collection[str]
) -> tuple[dict[str, set[int]], set[str], list[Path]]:
    """Image -> sentences (0 is the first) with a claim or a mark of these verdicts; the images that have
    any verdict at all; and the files that say so. A sentence with one bad claim is bad.

    `UsageError` for a verdict that nobody gives, `SharecapError` for lines that are bad.
    """
    for verdict in verdicts:
        if verdict not in (*VERDICTS, *MARKS):
            raise UsageError(
                "no such verdict", where=verdict, todo=f"choose from {', '.join((*VERDICTS, *MARKS))}"
            )
    bad: dict[str, set[int]] = defaultdict(set)
    known: set[str] = set()
    files: list[Path] = []
    if not set(VERDICTS).isdisjoint(verdicts):
        files.append(path_of(dataset, layer, "claims"))
        for claim in read_verdicts(files[-1], layer):
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
