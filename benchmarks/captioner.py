"""How near a captioner comes to its teacher in the embedded world, source by source, against the truth.

Draws a world in which the teacher knows the first 12 names of 24, has it caption pictures over HTTP, trains a
captioner on that with `sharecap captioner train`'s own code, and asks both about pictures that neither has
seen, emblems with 12 further names among them: of these there is nothing to know, only something to invent.
Interrupted, the same command goes on. `python benchmarks/captioner.py --help`
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from sharecap.model.trainable import Rule
from sharecap.recipes.captioner import STAGE, Asked, make_captioner, recipe
from sharecap.scenes.facts import stated, summed, tally
from sharecap.scenes.quickstart import QuickstartSpec, Story
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.summary_captions import file_of
from sharecap.scenes.world import SOURCES, Truth, WorldSpec, make_world, names_of, read_truth
from sharecap.statistics import Estimate, interval_of
from sharecap.train.view import watched

KNOWN, SEEN, ALL = 12, 24, 36
"""Names that the teacher knows; that occur in training; that occur among the held-out pictures."""

HELD_OUT = 600_000
"""First scene that is held out here."""


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
    """Per source: F1 of both, and the captioner's share of the teacher's, with its interval over pictures."""
    dataset, rows = root / "asked", []
    words = {layer: said(dataset, layer, truths) for layer in ("teacher", "captioner")}
    for source in SOURCES:
        own = [t for t in truths if t.source == source and t.file in words["teacher"]]
        told = {layer: [tally(found[t.file], t.scene) for t in own] for layer, found in words.items()}
        score = {layer: f1(tallies) for layer, tallies in told.items()}

        def share(weights: Any, score: Mapping[str, Any] = score) -> float:
            return float(score["captioner"](weights) / score["teacher"](weights))

        files = [t.file for t in own]
        found = {layer: interval_of(one, files, resamples=1000) for layer, one in score.items()}
        rows.append({"source": source, "pictures": len(own), **found, "share": interval_of(share, files)})
    return rows


def kinds(root: Path, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
    """Share of stated facts that are wrong, by kind of fact, of both."""
    found: dict[str, dict[str, float]] = {}
    for layer in ("teacher", "captioner"):
        words = said(root / "asked", layer, truths)
        sums = summed(tally(words[t.file], t.scene) for t in truths if t.file in words)
        for kind, one in sums.items():
            if one.stated:
                found.setdefault(kind, {})[layer] = 1 - one.precision
    return found


def named(root: Path, truths: Sequence[Truth]) -> dict[str, dict[str, int]]:
    """Of emblems whose name the teacher knows, kept to itself, and of new ones: how often a name is given."""
    names, found = names_of(WorldSpec(names=ALL)), dict[str, dict[str, int]]()
    words = said(root / "asked", "captioner", truths)
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
    parser.add_argument("--asked", type=int, default=400, help="pictures that both are asked about")
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
    known = set(names_of(WorldSpec(names=KNOWN)))
    answerable = [t for t in truths if not t.scene.name or t.scene.name in known]
    rows, wrong, names = compared(root, answerable), kinds(root, answerable), named(root, truths)
    print(f"{made.metrics['captions']:,} captions, {made.metrics['steps']} steps, "
          f"{time.monotonic() - begun:.0f} s in this call")  # fmt: skip
    print("F1 of facts, per cent, 95 % interval over pictures")
    for row in rows:
        print(f"  {row['source']:10} {row['pictures']:4} pictures   teacher {shown(row['teacher'])}   "
              f"captioner {shown(row['captioner'])}   share {shown(row['share'])}")  # fmt: skip
    print("wrong of what is stated, per cent: teacher, captioner")
    for kind, found in wrong.items():
        print(f"  {kind:10} " + ", ".join(f"{100 * found.get(x, 0.0):.1f}" for x in ("teacher", "captioner")))
    print("names of emblems that the captioner gives")
    for group, counts in names.items():
        print(f"  {group:10} " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    if args.json:
        plain = [{k: vars_of(v) for k, v in row.items()} for row in rows]
        args.json.write_text(json.dumps({"f1": plain, "wrong": wrong, "names": names}, indent=1))


def vars_of(value: Any) -> Any:
    return [value.value, value.low, value.high] if isinstance(value, Estimate) else value


if __name__ == "__main__":
    main()
