"""What trimming captions by a judge's claims does to them: hallucination and recall against the whole truth.

python benchmarks/mending.py --images 150 --mistakes 0.1 --judge-errors 0.05

Scenes captioned by the simulated teacher with mistakes, judged by the simulator with errors of its own, over
HTTP. Three ways beside the captions as they are: sentences with a contradicted claim dropped, the same
sentences mended (their supported claims stay), and as many sentences dropped at random. Intervals are 95 %,
resampled over images; differences are paired by image. Also: the share of contradicted claims as the judge
says, and put right by checked claims, against the truth.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sharecap.artifact import plain
from sharecap.captions.edits import Edit, applied, edit, read_edits
from sharecap.captions.layer import read_layer, read_missing
from sharecap.captions.run import run
from sharecap.captions.sentences import sentences
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.quality.cases import Bench
from sharecap.quality.claims import judge_claims
from sharecap.quality.shown import percent, points
from sharecap.quality.verdicts import read_verdicts
from sharecap.scenes.facts import tally
from sharecap.scenes.judge import true_verdict
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import Scene, WorldSpec, make_world
from sharecap.statistics import Mean, Score, compare

Texts = Mapping[str, str]
"""Captions by image id."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--mistakes", type=float, default=0.1)
    parser.add_argument("--judge-errors", type=float, default=0.05)
    parser.add_argument(
        "--checked", type=int, default=300, help="claims that a person is taken to have checked"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.images, args.mistakes, args.judge_errors, args.checked)


def measure(folder: Path, images: int, mistakes: float, errors: float, checks: int) -> None:
    """Print the tables."""
    dataset, world = folder / "dataset", folder / "world"
    truths = make_world(world, WorldSpec(seed=11), range(images))
    add([world / "images"], dataset)
    places = {str((world / one.file).resolve()): one.scene for one in truths}
    scenes = {one.id: places[str(Path(one.path).resolve())] for one in Catalog.open(dataset)}
    truth = (world / "truth.jsonl",)
    with serving(Settings(truth=truth, mistakes=mistakes, judge_errors=errors)) as url:
        run(dataset, f"{url}#scenes", "scenes", "teacher")
        report = judge_claims(Bench(dataset, f"{url}#judge"), "teacher")
        verdicts = read_verdicts(Path(report.path))
        right = [plain(one) | {"verdict": true_verdict(one.claim, scenes[one.image])} for one in verdicts]
        some = random.Random(0).sample(right, min(checks, len(right)))
        (folder / "checked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
        report = judge_claims(Bench(dataset, f"{url}#judge"), "teacher", checked=folder / "checked.jsonl")
    print(f"{images} scenes, mistakes {mistakes:g}, judge's errors {errors:g}, {report.claims:,} claims")
    print(
        f"\nshare of claims {'':14}{'true':>7}  {'as judged':<26}put right by {report.checked} checked claims"
    )
    for name, share in report.shares.items():
        true = sum(one["verdict"] == name for one in right) / len(right)
        print(f"  {name:<24}{100 * true:7.1f} %  {percent(share):<26}{percent(report.corrected[name])}")
    edits = read_edits(Path(report.edits))
    edit(dataset, "teacher", edits, "mended")
    before = {one.image_id: one.text for one in read_layer(dataset, "teacher")}
    mended = {one.image_id: one.text for one in read_layer(dataset, "mended")}
    mended |= {one.image_id: "" for one in read_missing(dataset, "mended")}
    dropped = without(before, [Edit(one.image_id, one.sentence, one.was) for one in edits])
    everywhere = [(i, n, s) for i, text in before.items() for n, s in enumerate(sentences(text), 1)]
    at_random = without(before, [Edit(*one) for one in random.Random(1).sample(everywhere, len(edits))])
    ways = {"dropped": dropped, "mended": mended, "dropped at random": at_random}
    print(f"\n{len(edits):,} of {len(everywhere):,} sentences have a contradicted claim")
    for what, score in (("hallucinated facts", hallucination), ("recall", recall)):
        found = compare({name: (score(texts, scenes), score(before, scenes)) for name, texts in ways.items()})
        print(f"\n{what:<24}{percent(next(iter(found.values())).b)}")
        for name, one in found.items():
            print(f"  {name:<22}{percent(one.a):<28}{points(one.difference)}")


def without(texts: Texts, edits: list[Edit]) -> dict[str, str]:
    """The captions with sentences dropped."""
    changes: dict[str, dict[int, Edit]] = {image: {} for image in texts}
    for one in edits:
        changes[one.image_id][one.sentence] = one
    return {image: applied(text, changes[image], image) for image, text in texts.items()}


def hallucination(texts: Texts, scenes: Mapping[str, Scene]) -> Score:
    """Share of stated facts that are not true."""
    return ratio(texts, scenes, lambda stated, right, _told, _true: (stated - right, stated))


def recall(texts: Texts, scenes: Mapping[str, Scene]) -> Score:
    """Share of the facts that a full description tells that are stated rightly."""
    return ratio(texts, scenes, lambda _stated, _right, told, true: (told, true))


def ratio(texts: Texts, scenes: Mapping[str, Scene], of) -> Score:
    """A ratio of sums over the images of what `of` makes of an image's tally."""
    sums = {
        i: [sum(n) for n in zip(*tally(text, scenes[i]).values(), strict=True)] for i, text in texts.items()
    }
    pairs = [of(*one) for one in sums.values()]
    return (Mean(1.0, tuple(sums), tuple(float(a) for a, _ in pairs), tuple(float(b) for _, b in pairs)),)


if __name__ == "__main__":
    main()
