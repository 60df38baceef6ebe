"""Captions mended by a judge's verdicts: of a sentence that says something wrong, what is supported stays.

Dropping such a sentence loses what it says rightly too; its supported claims, each a sentence already, keep
that. Pure: it makes edits, which `sharecap edit` applies, and never touches a layer.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sharecap.captions.edits import Edit
from sharecap.captions.sentences import sentences
from sharecap.quality.verdicts import Verdict


def mended(texts: Mapping[str, str], verdicts: Sequence[Verdict]) -> list[Edit]:
    """An edit of every sentence with a contradicted claim: its supported claims take its place, if any.

    `texts` are the captions that were judged, by image id. A sentence whose claims are all supported or
    unverifiable stays to the letter.
    """
    by_sentence: dict[tuple[str, int], list[Verdict]] = defaultdict(list)
    for one in verdicts:
        by_sentence[one.image, one.sentence].append(one)
    return [
        Edit(image, at + 1, sentences(texts[image])[at], _supported(said))
        for (image, at), said in by_sentence.items()
        if any(one.verdict == "contradicted" for one in said)
    ]


def _supported(said: Sequence[Verdict]) -> str:
    return " ".join(_sentence(one.claim) for one in said if one.verdict == "supported")


def _sentence(claim: str) -> str:
    return claim if claim.endswith((".", "!", "?", "。")) else f"{claim}."
