"""How often a 95 % interval holds the truth, for each kind of metric: a table for docs/compare-models.md.

A population of images is made up, with a model's and a rival's answers to each image's questions: hard images
are hard for both, and an image's questions go right or wrong together. The truth is the metric over the whole
population. A thousand samples of images are drawn from it, as many as the benchmark has or fewer; each is
measured by the benchmark's own code and given its intervals. `python benchmarks/coverage.py --help`
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharecap.evals.benchmarks import chair, llava_bench, mm_vet, mmbench, mme, pope, scienceqa
from sharecap.evals.soft_accuracy import soft_accuracy
from sharecap.evals.task import Measure, Measures, Record, item_mean
from sharecap.evals.ten_answers import measure as ten_answers
from sharecap.statistics import Estimate, Score, compare, value

POPULATION, DRAWS = 3_000, 1_000
Fields = dict[str, Any]
"""One answer: a record's fields, but for its image, which each sample names anew."""

Pair = tuple[list[Fields], list[Fields]]
"""The answers of the two models to the questions about one image."""


@dataclass(frozen=True)
class World:
    """A benchmark whose images are drawn; `strata` are drawn from one by one, as MME's subtasks are."""

    measure: Measure
    metrics: tuple[str, ...]
    strata: Sequence[
        tuple[Callable[[random.Random, int], Pair], int]
    ]  # what makes an image, images in a sample


@dataclass(frozen=True)
class Coverage:
    """Shares of the draws' intervals that hold the truth."""

    benchmark: str
    metric: str
    images: int
    score: float
    difference: float


def record(image: int, number: int, score: float, **more: Any) -> Fields:
    """One answer; `more` is what the benchmark's measure reads."""
    told = {
        "id": f"{image}.{number}",
        "score": score,
        "parsed": "x",
        "reference": "",
        "kind": "",
        "labels": {},
    }
    return {"task": "", "prompt": "", "raw": "", "seconds": 0.0, "group": str(number)} | told | more


def answers(rng: random.Random, questions: int, level: float = 0.7) -> list[tuple[float, float]]:
    """How likely each model is to be right, question by question: the image's part and the question's own."""
    image = rng.gauss(0, 0.18)
    hard = [level + image + rng.gauss(0, 0.12) for _ in range(questions)]
    return [(min(0.98, max(0.02, x)), min(0.98, max(0.02, x - 0.03 + rng.gauss(0, 0.1)))) for x in hard]


def both(
    image: int,
    chances: Sequence[tuple[float, float]],
    make: Callable[[int, int, float], Fields],
) -> Pair:
    """`make(image, question, chance of being right)` for both models."""
    return (
        [make(image, n, a) for n, (a, _) in enumerate(chances)],
        [make(image, n, b) for n, (_, b) in enumerate(chances)],
    )


def right(rng: random.Random, chance: float) -> float:
    return float(rng.random() < chance)


def yes_no_pair(subtask: str, level: float) -> Callable[[random.Random, int], Pair]:
    """MME: two questions an image."""

    def image(rng: random.Random, place: int) -> Pair:
        def make(place: int, n: int, chance: float) -> Fields:
            return record(place, n, right(rng, chance), group="pair", labels={"subtask": subtask})

        return both(place, answers(rng, 2, level), make)

    return image


def plain(rng: random.Random, place: int) -> Pair:
    """ScienceQA and all other plain accuracies: one to three questions an image."""

    def make(place: int, n: int, chance: float) -> Fields:
        return record(place, n, right(rng, chance))

    return both(place, answers(rng, rng.randint(1, 3)), make)


def circular(rng: random.Random, place: int) -> Pair:
    """MMBench: two to four passes over one question."""

    def make(place: int, n: int, chance: float) -> Fields:
        return record(place, n, right(rng, chance**0.3), group="question")

    return both(place, answers(rng, 1) * rng.choice((2, 3, 4, 4)), make)


def soft(rng: random.Random, place: int) -> Pair:
    """VQAv2: how many of ten people say what the model says."""

    def make(place: int, n: int, chance: float) -> Fields:
        agree = [rng.random() < chance for _ in range(10)] if rng.random() < 0.8 else [False]
        return record(place, n, soft_accuracy(agree), labels={"rule": "m4c"})

    return both(place, answers(rng, rng.randint(1, 5)), make)


def objects_there(rng: random.Random, place: int) -> Pair:
    """POPE: six questions an image in each of three splits, half of them about what is there."""

    def image(split: str) -> Pair:
        def make(place: int, n: int, chance: float) -> Fields:
            truth = "yes" if n % 2 else "no"
            good = right(rng, min(0.98, chance + 0.1))
            said = truth if good else "no" if n % 2 else "yes"
            labels = {"split": split}
            return record(place, n, good, parsed=said, reference=truth, labels=labels, group=f"{split}{n}")

        return both(place, answers(rng, 6), make)

    splits = [image(split) for split in pope.SPLITS]
    return [r for ours, _ in splits for r in ours], [r for _, theirs in splits for r in theirs]


def caption(rng: random.Random, place: int) -> Pair:
    """CHAIR: one to nine objects named, some of them wrong."""

    def make(place: int, n: int, chance: float) -> Fields:
        there = [f"object{i}" for i in range(rng.randint(2, 9))]
        named = [o for o in there if rng.random() < chance]
        named += [f"wrong{i}" for i in range(4) if rng.random() < 0.4 * (1 - chance)]
        return record(place, n, 0.0, parsed=json.dumps(named), reference=there)

    return both(place, answers(rng, 1), make)


def reviewed(rng: random.Random, place: int) -> Pair:
    """LLaVA-Bench: one to four questions an image; a judge's 1 to 10 for the reference and for the model."""

    def make(place: int, n: int, chance: float) -> Fields:
        reference = rng.randint(7, 10)
        model = max(1, min(10, round(10 * chance + rng.gauss(0, 1.5))))
        return record(
            place, n, 0.0, parsed=json.dumps([reference, model]), labels={"run": "1", "category": "conv"}
        )

    return both(place, answers(rng, rng.randint(1, 4)), make)


def graded(rng: random.Random, place: int) -> Pair:
    """MM-Vet: grades in tenths, often 0 or 1, of questions that need some capabilities."""
    shares = {"rec": 0.69, "ocr": 0.44, "know": 0.39, "gen": 0.37, "spat": 0.34, "math": 0.12}

    def make(place: int, n: int, chance: float) -> Fields:
        grade = (
            rng.choice((0.0, 0.0, 1.0, round(chance, 1))) if rng.random() < 0.7 else right(rng, chance / 2)
        )
        return record(place, n, grade, labels=dict.fromkeys(needs, "needed"))

    needs = [name for name, share in shares.items() if rng.random() < share] or ["rec"]
    return both(place, answers(rng, 1), make)


def heavy(rng: random.Random, place: int) -> Pair:
    """A mean of figures with a long tail, as CIDEr's of single captions."""

    def make(place: int, n: int, chance: float) -> Fields:
        return record(place, n, rng.gammavariate(1.2, chance))

    return both(place, answers(rng, 1), make)


MME = {"existence": (30, 0.93), "count": (30, 0.75), "position": (30, 0.6), "color": (30, 0.8)}
MME |= {"posters": (147, 0.8), "celebrity": (170, 0.75), "scene": (200, 0.85), "landmark": (200, 0.8)}
MME |= {"artwork": (200, 0.7), "OCR": (20, 0.6), "commonsense_reasoning": (70, 0.65)}
MME |= {"numerical_calculation": (20, 0.45), "text_translation": (20, 0.55), "code_reasoning": (20, 0.5)}
"""Images of each subtask, and how easy its questions are."""


def worlds(scale: float = 1.0) -> dict[str, World]:
    """The benchmarks; `scale` makes samples smaller, down to 24 images (60 for rare or long-tailed ones)."""

    def n(images: int) -> int:
        return max(min(images, 24), round(images * scale))

    pairs = [(yes_no_pair(name, level), n(size)) for name, (size, level) in MME.items()]
    return {
        "mme": World(mme.measure, ("total", "perception", "cognition", "position"), pairs),
        "mmbench": World(mmbench.measure, ("circular_accuracy", "accuracy"), [(circular, n(600))]),
        "scienceqa": World(scienceqa.measure, ("accuracy",), [(plain, n(200))]),
        "vqav2": World(ten_answers, ("accuracy",), [(soft, n(200))]),
        "pope": World(
            pope.measure,
            ("f1", "random: f1", "random: precision", "random: recall"),
            [(objects_there, n(60))],
        ),
        "chair": World(chair.measure, ("CHAIRi", "CHAIRs", "Recall"), [(caption, n(200))]),
        "llava-bench": World(llava_bench.measure, ("all",), [(reviewed, n(24))]),
        "mm-vet": World(mm_vet.measure, ("total", "rec", "ocr", "math"), [(graded, max(60, n(200)))]),
        "coco-caption": World(_mean, ("CIDEr",), [(heavy, max(60, n(80)))]),
    }


def _mean(records: Sequence[Record]) -> Measures:
    return Measures("CIDEr", 10.0, {"CIDEr": item_mean(records)})


def coverages(
    name: str, world: World, *, draws: int = DRAWS, population: int = POPULATION, seed: int = 0
) -> list[Coverage]:
    """Draw samples and see how many of their intervals hold the population's value."""
    rng = random.Random(f"{name}{seed}")
    pools = [([make(rng, i) for i in range(population)], size) for make, size in world.strata]
    truth = scores_of(
        world, [(pair, f"{s}.{i}") for s, (pool, _) in enumerate(pools) for i, pair in enumerate(pool)]
    )
    found: dict[tuple[str, int], tuple[Score, Score]] = {}
    for draw in range(draws):
        sample = [
            (pair, f"{s}.{i}")
            for s, (pool, size) in enumerate(pools)
            for i, pair in enumerate(rng.choices(pool, k=size))
        ]
        for metric, scores in scores_of(world, sample).items():
            found[metric, draw] = scores
    compared = compare(found)  # the samples' images have equal names, so all of them share the resamples

    images = sum(size for _, size in pools)
    shares = []
    for metric, (a, b) in truth.items():
        each = [compared[metric, draw] for draw in range(draws)]
        score = held([one.a for one in each], value(a))
        difference = held([one.difference for one in each], value(a) - value(b))
        shares.append(Coverage(name, metric, images, score, difference))
    return shares


def held(found: Sequence[Estimate], wanted: float) -> float:
    """Share of the intervals that hold it; a sample of too few images has none."""
    intervals = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    return sum(low <= wanted <= high for low, high in intervals) / len(intervals)


def scores_of(world: World, sample: Sequence[tuple[Pair, str]]) -> Mapping[str, tuple[Score, Score]]:
    """Both models' scores of a sample, of the metrics that the world is about."""
    sides = []
    for side in (0, 1):
        records = [
            Record(**{**fields, "images": (name,), "group": f"{name}/{fields['group']}"})
            for pair, name in sample
            for fields in pair[side]
        ]
        sides.append(world.measure(records).scores)
    return {metric: (sides[0][metric], sides[1][metric]) for metric in world.metrics}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="samples of each (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the images (default: all)")
    parser.add_argument("--only", help="one benchmark")
    given = parser.parse_args()
    print("| benchmark | metric | images | score | difference |\n|---|---|---|---|---|")
    for name, world in worlds(given.scale).items():
        if given.only in (None, name):
            for one in coverages(name, world, draws=given.draws):
                shares = f"{one.score:.1%} | {one.difference:.1%}"
                print(f"| {one.benchmark} | {one.metric} | {one.images:,} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
