"""A captioner beside its teacher on the same held-out pictures (the paper's Table 2, and its table of words).

Nothing is trained: both layers are those that each world has already. Facts are held against the truth; a
judge who knows it compares the captions blind and in both orders; a tagger counts the words.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sharecap import artifact
from sharecap.artifact import Artifact, plain, write_atomically
from sharecap.captions.layer import read_layer, write_layer
from sharecap.images.add import add
from sharecap.images.dataset import disk_errors
from sharecap.quality import cases
from sharecap.quality.comparison import compare_layers
from sharecap.quality.measure import LEXICAL, measure
from sharecap.quality.tagging import PARTS, TEXTBLOB, open_tagger
from sharecap.quality.wording import DIGEST
from sharecap.recipes.design import Claim, Experiment
from sharecap.recipes.peers import PREFERENCE
from sharecap.scenes.facts import summed, tally
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_scores import APART, PER_CENT, Cell, Detail, Outcome, Row, Tried, over_seeds, p_of
from sharecap.scenes.summary_captions import CAPTIONER, RESAMPLES, TEACHER, layer, probed
from sharecap.scenes.world import SOURCES, Truth
from sharecap.statistics import Estimate, Floats, interval_of

COMPARED, FOUND = "lab/compared", "compared.json"
BOTH = (TEACHER, CAPTIONER)
ALL = "all sources"
SHARES = (*PARTS, "distinct_1", "distinct_2")
"""Measures of words that are shares of 1, and shown per cent."""

Counts = Floats
"""[pictures, 4]: facts stated, of those right, of those that must be told, and all that must be."""


def compare(bench: Bench) -> Artifact:
    """Have the captions of the world's probe judged and their words counted."""
    tagger = open_tagger(TEXTBLOB)
    probe = artifact.read(bench.root / "probe")

    def work(directory: Path) -> Mapping[str, Any]:
        from sharecap.scenes.simulator import Settings, serving

        world, dataset = bench.root / "world" / "heldout", directory / "dataset"
        add([world / truth.file for truth in probed(bench)], dataset)
        for name in BOTH:
            write_layer(dataset, name, read_layer(probe.path / "dataset", name))
        settings = Settings(truth=(world / "truth.jsonl",), seed=bench.spec.seed)
        with serving(settings) as url:
            judged = compare_layers(cases.Bench(dataset, f"{url}#scenes-judge"), BOTH)
        found = {"preference": plain(judged), "words": plain(measure(dataset, BOTH, tagger))}
        choices = [json.loads(line) for line in Path(judged.path).read_text(encoding="utf-8").splitlines()]
        found["choices"] = {one["image_id"]: WORTH[one["choice"]] for one in choices}
        write_atomically(directory / FOUND, json.dumps(found, indent=1, ensure_ascii=False))
        return {"requests": judged.requests, "failures": judged.failures}

    config = {"tagger": tagger.name, "wording": DIGEST, "seed": bench.spec.seed}
    with disk_errors(bench.root):
        return bench.stage(COMPARED, "comparison", config, {"probe": probe.digest}, work, content=(FOUND,))


WORTH = {"left": -1, "tie": 0, "right": 1}
"""What a choice is worth to the captioner, whose captions are always the right ones."""


class Compared:
    """What one world says."""

    def __init__(self, bench: Bench) -> None:
        place = artifact.read(bench.root / COMPARED).path
        self.found: dict[str, Any] = json.loads((place / FOUND).read_text(encoding="utf-8"))
        truths = probed(bench)
        said = {name: layer(place / "dataset", name, truths) for name in BOTH}
        self.counts = {name: counts_of(told) for name, told in said.items()}
        self.truths = [truth for _, truth in said[TEACHER]]

    @property
    def pictures(self) -> int:
        """That both were asked about."""
        return len(self.truths)

    @cached_property
    def files(self) -> list[str]:
        """What is resampled."""
        return [truth.file for truth in self.truths]

    def of(self, source: str) -> list[int]:
        """Places of a source's pictures, or of all."""
        return [n for n, truth in enumerate(self.truths) if source in (ALL, truth.source)]

    def quality(self, who: str, source: str) -> tuple[Estimate, Estimate, Estimate]:
        """Precision, recall and F1, per cent, over one source's pictures."""
        places = self.of(source)
        files, counts = [self.files[n] for n in places], self.counts[who][places]
        found = [
            interval_of(partial(metric, counts), files, resamples=RESAMPLES)
            for metric in (precision, recall, f1)
        ]
        return found[0], found[1], found[2]

    def difference(self, claim: Claim) -> Estimate:
        """The claim's row less the other one, paired over pictures, in points."""
        if claim.measure == "preference":
            choices = self.found["choices"]
            each = 100 if claim.row == CAPTIONER else -100
            worth = each * np.array([float(one) for one in choices.values()])
            return interval_of(partial(mean, worth), list(choices), resamples=RESAMPLES)
        ours, theirs = self.counts[claim.row], self.counts[claim.than]
        return interval_of(
            lambda weights: f1(ours, weights) - f1(theirs, weights), self.files, resamples=RESAMPLES
        )

    def words(self, name: str) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
        """A measure of the teacher's words, of the captioner's, and the captioner's less the teacher's."""
        teacher, captioner = self.found["words"]["columns"]
        factor = 100 if name in SHARES else 1
        told = (teacher["measures"], captioner["measures"], captioner["minus_first"])
        first, second, third = (scaled(one[name], factor) if name in one else None for one in told)
        return first, second, third

    def shares(self) -> list[Estimate]:
        """Per cent of pairs: the teacher's preferred, the captioner's, neither."""
        (pair,) = self.found["preference"]["preferences"]
        return [scaled(pair[name], 100) for name in ("prefer_a", "prefer_b", "comparable")]


def counts_of(said: Sequence[tuple[str, Truth]]) -> Counts:
    """Facts of each caption. A picture without one counts as one of which nothing was stated."""
    each = [summed([tally(text, truth.scene)])["all"] for text, truth in said]
    return np.array([(q.stated, q.right, q.told, q.true) for q in each], dtype=np.float64)


def precision(counts: Counts, weights: Floats) -> float:
    """Per cent of stated facts that are right."""
    stated, right, _, _ = weights @ counts
    return float(100 * right / stated) if stated else float("nan")


def recall(counts: Counts, weights: Floats) -> float:
    """Per cent of the facts of a full description that are stated."""
    _, _, told, true = weights @ counts
    return float(100 * told / true) if true else float("nan")


def f1(counts: Counts, weights: Floats) -> float:
    """Harmonic mean of the two; 0 where nothing that was stated is right."""
    p, r = precision(counts, weights), recall(counts, weights)
    return 2 * p * r / (p + r) if p + r > 0 else 0.0


def mean(values: Floats, weights: Floats) -> float:
    """Weighted."""
    return float(weights @ values / weights.sum())


def scaled(found: Mapping[str, float | None], factor: float) -> Estimate:
    """An estimate as it stands in JSON, times `factor`."""

    def of(name: str) -> float | None:
        number = found[name]
        return None if number is None else factor * number

    value = of("value")
    assert value is not None
    return Estimate(value, of("low"), of("high"))


# The table.


def outcome(experiment: Experiment, benches: Mapping[int, Bench]) -> Outcome:
    """Read every world's comparison; `SharecapError` if one is missing."""
    worlds = [Compared(bench) for bench in benches.values()]
    return Outcome(
        experiment,
        tuple(row_of(who, worlds) for who in experiment.captioners),
        tuple(tried(claim, worlds) for claim in experiment.claims),
        tuple(benches),
        "F1 of stated facts, of 100",
        f"{fmean(one.pictures for one in worlds):g} pictures of each world to both",
        (preferred(worlds), by_source(worlds), lexical(worlds)),
    )


def row_of(who: str, worlds: Sequence[Compared]) -> Row:
    """One captioner's F1, in all and by source."""
    each = [one.quality(who, ALL)[2] for one in worlds]
    kinds = {
        source: fmean(one.quality(who, source)[2].value for one in worlds if one.of(source))
        for source in SOURCES
        if any(one.of(source) for one in worlds)
    }
    return Row(who, over_seeds(each, PER_CENT), tuple(one.value for one in each), kinds)


def tried(claim: Claim, worlds: Sequence[Compared]) -> Tried:
    """The claim's two sides, in each world and over all."""
    each = tuple(one.difference(claim) for one in worlds)
    p = p_of([one.value for one in each]) if len(each) > 1 else None
    return Tried(claim, over_seeds(each, APART), each, p)


def preferred(worlds: Sequence[Compared]) -> Detail:
    """The paper's row, and the same here."""
    here = tuple(over_seeds(each, PER_CENT) for each in zip(*(one.shares() for one in worlds), strict=True))
    lost = sum(sum(one.found["preference"]["failures"].values()) for one in worlds)
    note = (
        "Per cent of pairs. Each pair is judged twice, once in either order, by a judge who sees the picture "
        "and no names; what is not said both times is comparable. "
        + (f"{lost} pairs could not be judged and are in none of the shares. " if lost else "")
        + "The paper's are published, and of people."
    )
    columns = ("Preferred, %", "Teacher's", "Captioner's", "Comparable")
    return Detail("Which one is preferred", columns, (("here", here), ("the paper", PREFERENCE)), note)


def by_source(worlds: Sequence[Compared]) -> Detail:
    """Precision, recall and F1 of both, source by source."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for source in (ALL, *SOURCES):
        there = [one for one in worlds if one.of(source)]
        for who in BOTH if there else ():
            found = zip(*(one.quality(who, source) for one in there), strict=True)
            pictures = sum(len(one.of(source)) for one in there)
            shares = (over_seeds(each, PER_CENT) for each in found)
            rows.append((f"{source}, {who}", (f"{pictures}", *shares)))
    note = (
        "Held against the truth of every picture. Precision: of the stated facts, the right ones; recall: "
        "of what a full description tells. The teacher is asked with a prompt made for the source, the "
        "captioner with the same one for all."
    )
    columns = ("Source", "Pictures of all worlds", "Precision, %", "Recall, %", "F1, %")
    return Detail("Facts, source by source", columns, tuple(rows), note)


def lexical(worlds: Sequence[Compared]) -> Detail:
    """What words the captions are made of."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for name in LEXICAL:
        found = zip(*(one.words(name) for one in worlds), strict=True)
        cells = [over_seeds([e for e in each if e]) if all(each) else None for each in found]
        rows.append((f"{name}, %" if name in SHARES else name, tuple(cells)))
    tagger = worlds[0].found["words"]["tagger"]
    note = (
        f"Parts of speech by {tagger}, per cent of the words. distinct: different words, or pairs of them, "
        "of all in a caption; mtld: how long a text goes on before it repeats itself. The paper's own "
        "figures were not at hand."
    )
    columns = ("Of a caption", "Teacher", "Captioner", "Captioner − teacher")
    return Detail("Words", columns, tuple(rows), note)
