"""Keep, drop or trim captions by what was measured, as a new layer; and its control, thinned at random.

Captions that nothing is known of are kept and counted. The layer that they come from stays as it is.
"""

import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sharecap.artifact import Artifact, file_digest
from sharecap.captions.edits import Edit, applied
from sharecap.captions.layer import Missing, derive, open_layer, read_layer, side_by_side
from sharecap.captions.merge import merged_lines
from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.quality.chair import CHAIR
from sharecap.quality.scores import read_scores, scores_path
from sharecap.quality.sentence_verdicts import bad_sentences
from sharecap.records import Caption

TRIMMED = "trimmed"
"""Flag of a caption that lost a sentence."""

LOW, AWAY, THINNED = "dropped_by_score", "trimmed_away", "dropped_at_random"
"""Failures of images whose caption was dropped, lost its last sentence, or fell to chance."""

LOST = "dropped_sentences.jsonl"
"""File of a trimmed layer, {"image_id", "sentences"} a line: what captions lost (0 is the first sentence)."""

Change = Callable[[Caption, Counter[str]], Caption | Missing]
"""What becomes of a caption; counts what it does."""

LOWER_IS_BETTER = frozenset(CHAIR[:2])


@dataclass(frozen=True)
class Rule:
    """Which captions stay by a score. One of the bounds, or the worst share, must be given."""

    by: str | None = None  # a measure of `sharecap quality`; None: the line's own score, whatever made it
    at_least: float | None = None
    at_most: float | None = None
    worst: float | None = None  # share of the captions with a score, above 0 and below 1

    def __post_init__(self) -> None:
        for bound in (self.at_least, self.at_most):
            if bound is not None and math.isnan(bound):
                raise UsageError("not a bound", where=bound, todo="give a number")
        if self.worst is not None and not 0 < self.worst < 1:
            raise UsageError("not a share", where=self.worst, todo="give --worst a number between 0 and 1")
        if (self.worst is None) == (self.at_least is None and self.at_most is None):
            raise UsageError("give either --worst, or --at-least or --at-most or both")

    @property
    def told(self) -> str:
        """The rule in words."""
        name = self.by or "score"
        if self.worst is not None:
            return f"without the worst {100 * self.worst:g} % by {name}"
        bounds = [("at least", self.at_least), ("at most", self.at_most)]
        return f"{name} " + " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def curate(dataset: Path, layer: str, to: str, rule: Rule) -> Artifact:
    """Seal layer `to`: the captions of `layer` that the rule keeps, by `scores/LAYER.jsonl`.

    Counted: `kept`, `without_score` among them, and failures `dropped_by_score`.
    `UsageError` if there are no scores, or none of that name.
    """
    found, measure = _scores(dataset, layer, rule.by)
    if rule.worst is not None:
        gone = _worst(found, rule.worst, highest=measure in LOWER_IS_BETTER)
    else:
        gone = {image for image, value in found.items() if _out(value, rule)}
    config = {
        "rule": rule.told,
        "bounds": asdict(rule),
        "scores_digest": file_digest(scores_path(dataset, layer)),
    }

    def change(caption: Caption, counts: Counter[str]) -> Caption | Missing:
        if caption.image_id in gone:
            return Missing(caption.image_id, LOW, f"{measure or 'score'} {found[caption.image_id]:g}")
        counts["kept"] += 1
        counts["without_score"] += caption.image_id not in found
        return caption

    return _derive(dataset, layer, to, config, change)


def trim(dataset: Path, layer: str, to: str, verdicts: Collection[str]) -> Artifact:
    """Seal layer `to`: `layer` without the sentences that have one of these verdicts.

    They are read as `sentence_verdicts.py` says. Counted: captions `trimmed`, `sentences_dropped`,
    `without_verdict`, and failures `trimmed_away`. A verdict on a sentence or an image that the layer doesn't
    have is an error: nothing is guessed.
    """
    bad, known, files = bad_sentences(dataset, layer, verdicts)
    if strangers := known - {caption.image_id for caption in read_layer(dataset, layer)}:
        what = f"{len(strangers):,} verdicts are on images that layer {layer!r} has no caption of"
        raise SharecapError(what, where=min(strangers), todo="judge the layer as it is")
    config = {
        "rule": f"without sentences judged {', '.join(sorted(verdicts))}",
        "verdicts_digest": {path.name: file_digest(path) for path in files},
    }

    def change(caption: Caption, counts: Counter[str]) -> Caption | Missing:
        counts["without_verdict"] += caption.image_id not in known
        return _without(caption, bad.get(caption.image_id, frozenset()), counts)

    lost = ({"image_id": i, "sentences": sorted(numbers)} for i, numbers in sorted(bad.items()) if numbers)
    notes = {LOST: "".join(json.dumps(one) + "\n" for one in lost)}
    return _derive(dataset, layer, to, config, change, notes=notes)


def thin(dataset: Path, curated: str, to: str, seed: int = 0) -> Artifact:
    """Seal layer `to`, the control of a layer that `curate` or `trim` made: as many captions of the same
    layer dropped, or as many sentences of the same captions, chosen at random.

    A difference between the two is what the scores or verdicts knew.
    """
    made = open_layer(dataset, curated)
    layer = made.config.get("curated")
    if layer is None or "control_of" in made.config:
        todo = "make one: sharecap curate DATASET LAYER --to NEWLAYER ..."
        raise UsageError(f"layer {curated!r} was not curated by scores or verdicts", where=dataset, todo=todo)
    config = {"rule": f"at random, as much as {curated}", "control_of": curated, "seed": seed}
    by_sentence = "verdicts_digest" in made.config
    change = _sentences_at_random(made, seed) if by_sentence else _captions_at_random(made, layer, seed)
    return _derive(dataset, layer, to, config, change, parents=(curated,))


def _sentences_at_random(made: Artifact, seed: int) -> Change:
    lines = (made.path / LOST).read_text(encoding="utf-8").splitlines()
    lost = {one["image_id"]: len(one["sentences"]) for one in map(json.loads, lines)}

    def change(caption: Caption, counts: Counter[str]) -> Caption | Missing:
        numbers = range(len(sentences(caption.text)))
        chance = sorted(numbers, key=lambda n: _draw(seed, f"{caption.image_id}:{n}"))
        return _without(caption, chance[: lost.get(caption.image_id, 0)], counts)

    return change


def _captions_at_random(made: Artifact, layer: str, seed: int) -> Change:
    dataset, name = made.path.parents[1], made.path.name
    ids = [caption.image_id for caption in read_layer(dataset, layer)]
    fewer = len(ids) - int(made.metrics["captions"])
    gone = set(heapq.nsmallest(fewer, ids, key=lambda i: _draw(seed, i)))

    def change(caption: Caption, counts: Counter[str]) -> Caption | Missing:
        if caption.image_id in gone:
            return Missing(caption.image_id, THINNED, f"as many as {name} drops")
        counts["kept"] += 1
        return caption

    return change


def curated_lines(made: Artifact) -> list[str]:
    """For people."""
    head, *rest = merged_lines(made)
    told = {
        "trimmed": "captions trimmed",
        "sentences_dropped": "sentences dropped",
        "without_score": "captions kept without a score",
        "without_verdict": "captions kept whole without a verdict",
    }
    counts = [f"  {made.metrics[name]:,} {words}" for name, words in told.items() if made.metrics.get(name)]
    return [f"{head} of {made.config['curated']}, {made.config['rule']}", *counts, *rest]


def _derive(
    dataset: Path,
    layer: str,
    to: str,
    config: Mapping[str, Any],
    change: Change,
    *,
    parents: tuple[str, ...] = (),
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    captioner = str(open_layer(dataset, layer).config.get("captioner", "given"))
    counts: Counter[str] = Counter()

    def rows(catalog: Catalog) -> Iterator[Caption | Missing]:
        for image, (caption,) in side_by_side(catalog, [layer]):
            if caption is None:
                yield Missing(image.id, "no_caption", f"layer {layer} has none")
            else:
                changed = change(caption, counts)
                origin = caption.origin or layer
                yield changed if isinstance(changed, Missing) else replace(changed, origin=origin)

    whole = {"captioner": captioner, "curated": layer, **config}
    return derive(
        dataset,
        to,
        whole,
        [layer, *parents],
        rows=rows,
        metrics=lambda: dict(sorted(counts.items())),
        notes=notes,
    )


def _without(caption: Caption, numbers: Collection[int], counts: Counter[str]) -> Caption | Missing:
    """The caption without these sentences (0 is the first)."""
    if not numbers:
        return caption
    cut = sentences(caption.text)
    if max(numbers) >= len(cut):
        what = f"a verdict on sentence {max(numbers)} of a caption that has {len(cut)} (0 is the first)"
        todo = "judge the layer again: the verdicts are on other words"
        raise SharecapError(what, where=caption.image_id, todo=todo)
    edits = {n + 1: Edit(caption.image_id, n + 1, cut[n]) for n in numbers}
    text = applied(caption.text, edits, caption.image_id)
    counts["sentences_dropped"] += len(edits)
    if not text:
        return Missing(caption.image_id, AWAY, "every sentence was dropped")
    counts["trimmed"] += 1
    return replace(caption, text=text, flags=tuple(dict.fromkeys((*caption.flags, TRIMMED))))


def _scores(dataset: Path, layer: str, by: str | None) -> tuple[dict[str, float], str | None]:
    """Image -> value, and the measure that it is, if one is named."""
    path, found = scores_path(dataset, layer), dict[str, float]()
    named, kinds = set[str](), set[str | None]()
    for one in read_scores(path):
        named |= one.measures.keys()
        value = one.score if by is None else one.measures.get(by)
        if value is not None:
            found[one.image_id] = value
            kinds.add(by or one.by)
    if not found:
        todo = f"it has {', '.join(sorted(named))}" if named else "make them: sharecap quality DATASET LAYER"
        raise UsageError(f"no caption has the score {by or 'score'!r}", where=path, todo=todo)
    if len(kinds) > 1:
        todo = "name the measure with --by, or score all by one: sharecap quality ... --score MEASURE"
        raise UsageError("the scores are of different kinds", where=path, todo=todo)
    return found, kinds.pop()


def _out(value: float, rule: Rule) -> bool:
    low, high = rule.at_least, rule.at_most
    return (low is not None and value < low) or (high is not None and value > high)


def _worst(found: Mapping[str, float], share: float, *, highest: bool) -> set[str]:
    """The worst share, rounded down; among equals the image's digest decides."""
    sign = -1 if highest else 1
    return set(heapq.nsmallest(int(share * len(found)), found, key=lambda i: (sign * found[i], i)))


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
