"""How near a captioner comes to its teacher in the embedded world, source by source, against the truth.

Draws a world in which the teacher knows the first 12 names of 24, has it caption pictures over HTTP, trains a
captioner on that with `sharecap captioner train`'s own code, and asks both about pictures that neither has
seen, emblems with 12 further names among them: of these there is nothing to know, only something to invent.
Then the same for the captioner once it leaves out the names that it isn't sure of.
Interrupted, the same command goes on. `python benchmarks/captioner.py --help`
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sharecap.artifact import Artifact
from sharecap.captions.captioner import Sampling
from sharecap.captions.gates import GATES
from sharecap.captions.layer import read_layer
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import run
from sharecap.captions.teachers.local import LocalCaptioner
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.progress import Progress
from sharecap.model.folder import abstain
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.model.trainable import Rule
from sharecap.recipes.captioner import STAGE, Asked, make_captioner, recipe
from sharecap.recipes.captioner_names import Sureness, sureness
from sharecap.scenes.facts import stated, summed, tally
from sharecap.scenes.quickstart import QuickstartSpec, Story
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.summary_captions import file_of
from sharecap.scenes.world import SOURCES, Truth, WorldSpec, make_world, names_of, read_truth
from sharecap.statistics import Estimate, interval_of
from sharecap.train.view import watched

KNOWN, SEEN, ALL = 12, 24, 36
"""Names that the teacher knows; that occur in training; that occur among the held-out pictures."""

HELD_OUT, CALIBRATION = 600_000, 400_000
"""First scene that is asked about here; that says how sure the captioner must be of a name."""

LAYERS = ("teacher", "captioner", "abstaining")


def caption(dataset: Path, teacher: Any, pack: str, layer: str) -> None:
    """A layer of captions; what a tiny world does to the gates is known."""
    sampling, progress = Sampling(max_tokens=320), Progress(f"{layer}: captions")
    run(dataset, teacher, pack, layer, concurrency=256, sampling=sampling, accept=GATES, progress=progress)


def by_teacher(world: Path, dataset: Path, seed: int) -> None:
    with serving(Settings(truth=(world / "truth.jsonl",), mistakes=0.02, names=KNOWN, seed=seed)) as url:
        caption(dataset, f"{url}#scenes-teacher", "scenes", "teacher")


def trained(root: Path, pictures: int, steps: int, seed: int) -> Artifact:
    """The captioner, and on the way all that it needs."""
    spec = QuickstartSpec(seed=seed)
    story = Story(root / "parts", spec)
    story.world()
    story.tower()
    start = story.start().path / "model"
    world, dataset = root / "world", root / "dataset"
    if not (world / "truth.jsonl").exists():
        make_world(world, WorldSpec(seed=seed, names=SEEN), range(200_000, 200_000 + pictures))
    add([world / "images"], dataset)
    by_teacher(world, dataset, seed)
    how = recipe(start)
    rates = (Rule("vision", 5e-5, from_block=2), Rule("projector", 5e-5), Rule("language", 4e-3))
    config = replace(
        how.stage(STAGE).train,
        rules=rates,
        batch_rows=16,
        steps=steps,
        epochs=None,
        precision="fp32",
        betas=(0.9, 0.98),
        eval_every=250,
        seed=seed,
    )
    asked = Asked(dataset, "teacher", load_pack("unified"), held_out=0.02, seed=seed)
    how = how.with_stage(replace(how.stage(STAGE), train=config))
    return make_captioner(asked, how, root / "captioner", watched)


def abstaining(root: Path, model: Path, pictures: int, wrong: float, seed: int) -> tuple[Path, Sureness]:
    """The captioner once more, with a note of how sure it must be of a name: as `--wrong-names` does it, on
    pictures of the training's kind that it did not learn from."""
    world, dataset = root / "calibration", root / "calibrated"
    if not (world / "truth.jsonl").exists():
        make_world(world, WorldSpec(seed=seed, names=SEEN), range(CALIBRATION, CALIBRATION + pictures))
    add([world / "images"], dataset)
    by_teacher(world, dataset, seed)
    pack, files = load_pack("unified"), {image.id: image for image in Catalog.open(dataset)}
    teacher = list(read_layer(dataset, "teacher"))
    asked = [files[one.image_id] for one in teacher]
    queries = [Query((image.path,), pack.render(image).text) for image in asked]
    decoding = Decoding(max_new_tokens=320, leaves_loops=True, chances=True)
    replies = Generator.load(model, 64).generate(queries, decoding)
    sure = sureness(replies, [one.text for one in teacher], wrong)
    copy = root / "abstaining"
    shutil.copytree(model, copy, dirs_exist_ok=True)
    abstain(copy, sure.least)
    return copy, sure


def said(dataset: Path, layer: str, truths: Sequence[Truth]) -> dict[str, str]:
    """File -> caption; "" where there is none."""
    texts = {one.image_id: one.text for one in read_layer(dataset, layer)}
    found = {file_of(image.path): texts.get(image.id, "") for image in Catalog.open(dataset)}
    return {truth.file: found[truth.file] for truth in truths if truth.file in found}


def f1(tallies: Sequence[Mapping[str, list[int]]]) -> Any:
    """Weights of pictures -> F1: precision over all stated facts, recall over what a description tells."""
    sums = [summed([one])["all"] for one in tallies]
    counts = np.array([(q.stated, q.right, q.told, q.true) for q in sums], dtype=np.float64).T

    def of(weights: Any) -> float:
        stated_, right, told, true = counts @ weights
        precision, recall = right / stated_ if stated_ else 0.0, told / true
        return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0

    return of


def shown(estimate: Estimate, factor: float = 100) -> str:
    low, high = estimate.low, estimate.high
    inner = "" if low is None or high is None else f" ({factor * low:.1f} to {factor * high:.1f})"
    return f"{factor * estimate.value:.1f}{inner}"


def compared(root: Path, truths: Sequence[Truth]) -> list[dict[str, Any]]:
    """Per source: F1 of all, and both captioners' shares of the teacher's, with intervals over pictures."""
    dataset, rows = root / "asked", []
    words = {layer: said(dataset, layer, truths) for layer in LAYERS}
    for source in SOURCES:
        own = [t for t in truths if t.source == source and t.file in words["teacher"]]
        told = {layer: [tally(found[t.file], t.scene) for t in own] for layer, found in words.items()}
        score = {layer: f1(tallies) for layer, tallies in told.items()}

        def share(weights: Any, score: Mapping[str, Any] = score, layer: str = "captioner") -> float:
            return float(score[layer](weights) / score["teacher"](weights))

        files = [t.file for t in own]
        found = {layer: interval_of(one, files, resamples=1000) for layer, one in score.items()}
        shares = {f"{layer}'s share": interval_of(partial(share, layer=layer), files) for layer in LAYERS[1:]}
        rows.append({"source": source, "pictures": len(own), **found, **shares})
    return rows


def kinds(root: Path, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
    """Share of stated facts that are wrong, by kind of fact, of both."""
    found: dict[str, dict[str, float]] = {}
    for layer in LAYERS:
        words = said(root / "asked", layer, truths)
        sums = summed(tally(words[t.file], t.scene) for t in truths if t.file in words)
        for kind, one in sums.items():
            if one.stated:
                found.setdefault(kind, {})[layer] = 1 - one.precision
    return found


def named(root: Path, truths: Sequence[Truth], layer: str) -> dict[str, dict[str, int]]:
    """Of emblems whose name the teacher knows, kept to itself, and of new ones: how often a name is given."""
    names, found = names_of(WorldSpec(names=ALL)), dict[str, dict[str, int]]()
    words = said(root / "asked", layer, truths)
    for truth in truths:
        if not truth.scene.name or truth.file not in words:
            continue
        number = names.index(truth.scene.name)
        group = "known" if number < KNOWN else "never told" if number < SEEN else "new"
        given = [s.fact[1] for s in stated(words[truth.file]) if s.fact[0] == "name"]
        counts = found.setdefault(group, {"pictures": 0, "right": 0, "invented": 0, "abstained": 0})
        counts["pictures"] += 1
        counts["abstained" if not given else "right" if given == [truth.scene.name] else "invented"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("captioner-benchmark"))
    parser.add_argument("--pictures", type=int, default=6000, help="captioned by the teacher")
    parser.add_argument("--steps", type=int, default=2500, help="of the captioner, 16 rows each")
    parser.add_argument("--asked", type=int, default=1200, help="pictures that all are asked about")
    parser.add_argument("--calibration", type=int, default=1000, help="pictures that the names are tried on")
    parser.add_argument("--wrong-names", type=float, default=0.1, help="share of names that may be invented")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    begun = time.monotonic()
    root = args.to
    root.mkdir(parents=True, exist_ok=True)
    made = trained(root, args.pictures, args.steps, args.seed)
    world = root / "heldout"
    if not (world / "truth.jsonl").exists():
        make_world(world, WorldSpec(seed=args.seed, names=ALL), range(HELD_OUT, HELD_OUT + args.asked))
    truths = list(read_truth(world))
    add([world / "images"], root / "asked")
    by_teacher(world, root / "asked", args.seed)
    caption(root / "asked", LocalCaptioner(made.path / "model", batch_size=64), "unified", "captioner")
    model, sure = abstaining(root, made.path / "model", args.calibration, args.wrong_names, args.seed)
    caption(root / "asked", LocalCaptioner(model, batch_size=64), "unified", "abstaining")
    known = set(names_of(WorldSpec(names=KNOWN)))
    answerable = [t for t in truths if not t.scene.name or t.scene.name in known]
    rows, wrong = compared(root, answerable), kinds(root, answerable)
    names = {layer: named(root, truths, layer) for layer in LAYERS[1:]}
    print(f"{made.metrics['captions']:,} captions, {made.metrics['steps']} steps, "
          f"{time.monotonic() - begun:.0f} s in this call")  # fmt: skip
    print("F1 of facts, per cent, 95 % interval over pictures")
    for row in rows:
        told = (f"{name} {shown(x)}" for name, x in row.items() if isinstance(x, Estimate))
        print(f"  {row['source']:10} {row['pictures']:4} pictures   {'   '.join(told)}")
    print(f"wrong of what is stated, per cent: {', '.join(LAYERS)}")
    for kind, found in wrong.items():
        print(f"  {kind:10} " + ", ".join(f"{100 * found.get(x, 0.0):.1f}" for x in LAYERS))
    print(f"names from probability {sure.least:.4f} on, by {args.calibration:,} other pictures: there "
          f"{sure.given} given, {sure.invented} invented; {sure.kept} and {sure.kept_invented} of the "
          "kept ones")  # fmt: skip
    for layer, groups in names.items():
        print(f"names of emblems: {layer}")
        for group, counts in groups.items():
            print(f"  {group:10} " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    if args.json:
        plain = [{k: vars_of(v) for k, v in row.items()} for row in rows]
        args.json.write_text(
            json.dumps({"f1": plain, "wrong": wrong, "names": names, "sure": asdict(sure)}, indent=1)
        )


def vars_of(value: Any) -> Any:
    return [value.value, value.low, value.high] if isinstance(value, Estimate) else value


if __name__ == "__main__":
    main()
