"""Training a captioner on a layer, and proving it: how a hundred thousand captions become a million.

Implements the paper's section 3.2. The captioner is taught with the very words that it will be asked with,
those of a prompt pack: one instruction for all sources, if it is `unified`. Pictures are held out by clusters
of near-duplicates, never by rows: a copy of a learned picture proves nothing. Which step's model is kept is
decided by the captions that it writes of held-out pictures, not by its loss.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from transformers import AutoConfig

from sharecap import __version__
from sharecap.artifact import Artifact, files_digest, key_of, mark_of, plain, stage, write_atomically
from sharecap.captions.exports.parts import LeftOut, own_file
from sharecap.captions.layer import open_layer, side_by_side
from sharecap.captions.names import sure_of
from sharecap.captions.prompts import Pack
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import held
from sharecap.images.duplicates import BITS, cluster, read_hashes
from sharecap.model.build import Llava, first_line
from sharecap.model.card import CARD, Score, card
from sharecap.model.folder import abstain, load, template_of
from sharecap.model.generation import Decoding, Generator, Query, Reply
from sharecap.model.trainable import Rule
from sharecap.quality.likeness import likeness
from sharecap.recipes.captioner_names import sureness
from sharecap.recipes.recipe import Recipe, Stage
from sharecap.recipes.run import Watch, begun
from sharecap.records import IMAGE_TOKEN, Caption, Conversation, Image, Turn
from sharecap.statistics import Estimate, Mean, intervals
from sharecap.train.config import TrainConfig
from sharecap.train.loop import BEST, MODEL, train

KIND, STAGE, HELD_OUT = "captioner", "captioner", "held_out.jsonl"

BATCH = 64
"""Held-out pictures that are captioned at a time."""

ALL = "all"
"""Stands beside the sources for all of them together."""


@dataclass(frozen=True)
class Asked:
    """What is asked of training a captioner, beside how it trains."""

    dataset: Path
    layer: str  # the teacher's captions
    pack: Pack  # what it is asked, in training and ever after
    each_length: bool = False  # ask for each caption's own length, so that `--words` means something later
    held_out: float = 0.05  # share of the pictures that is never learned
    looked_at: int = 96  # held-out pictures that are captioned at each look; all of them at the end
    share: float = 1.0  # of the captions left that it learns from; a smaller share is part of a larger one
    wrong_names: float | None = None  # share of the names that it may invent (captioner_names.py); None: any
    seed: int = 0  # which pictures are held out


@dataclass(frozen=True)
class Pair:
    """One picture, what is asked about it, and what the teacher said."""

    image: Image
    file: Path
    prompt: str
    caption: Caption

    def row(self) -> Conversation:
        """As training takes it."""
        turns = (Turn("user", f"{IMAGE_TOKEN}\n{self.prompt}"), Turn("assistant", self.caption.text))
        return Conversation(self.image.id, (str(self.file),), turns)


@dataclass(frozen=True)
class Split:
    """The layer's captions, in two parts that share no near-duplicates."""

    learned: list[Pair]
    held_out: list[Pair]
    left_out: Mapping[str, int]  # reason -> captions whose picture can't be learned from
    spent_usd: float | None  # what the learned captions have cost; None: not all prices are known


def recipe(start: Path) -> Recipe:
    """How a captioner trains by default: all parts, the tower from its latter half on, as in the paper."""
    todo = "give the directory of a LLaVA or Qwen-VL model"
    if not start.is_dir():  # else the name would be asked for at the hub
        raise UsageError("no such model directory", where=start, todo=todo)
    try:
        config: Any = AutoConfig.from_pretrained(str(start))
        vision = config.vision_config
        blocks = getattr(vision, "num_hidden_layers", None) or vision.depth
    except Exception as error:  # noqa: BLE001 - whatever odd values in a config.json make its classes raise
        what = f"not a vision-language model's directory ({first_line(error)})"
        raise UsageError(what, where=start, todo=todo) from None
    rules = (Rule("vision", 2e-5, from_block=blocks // 2), Rule("projector", 2e-5), Rule("language", 2e-5))
    template = template_of(start, "own" if config.model_type.startswith("qwen") else "vicuna_v1")
    training = TrainConfig(
        template="vicuna_v1" if template == "plain" else template,  # plain has no place for an instruction
        rules=rules,
        batch_rows=128,
        epochs=2,
        precision="bf16",
        too_long="drop",
        eval_every=100,
        patience=4,
        keep_last=1,
    )
    return Recipe("captioner", start, (Stage(STAGE, training, ()),))


def split(asked: Asked) -> Split:
    """Who is learned and who is held out; depends on the pictures and the seed alone."""
    catalog = Catalog.open(asked.dataset)
    leaders = clusters_of(catalog)
    learned: list[Pair] = []
    out: list[Pair] = []
    left = Counter[str]()
    for image, (caption,) in side_by_side(catalog, [asked.layer]):
        if caption is None:
            continue
        leader = leaders.get(image.id, image.id)
        held_out = drawn(f"held out/{asked.seed}/{leader}") < asked.held_out
        if not held_out and drawn(f"learned/{asked.seed}/{leader}") >= asked.share:
            continue
        try:
            file = own_file(image)
        except LeftOut as why:
            left[why.reason] += 1
            continue
        words = max(10, round(len(caption.text.split()), -1)) if asked.each_length else None
        pair = Pair(image, file, asked.pack.with_options(words=words).render(image).text, caption)
        (out if held_out else learned).append(pair)
    if not learned or not out:
        what = f"{len(learned)} captions to learn from and {len(out)} held out: both must be some"
        todo = "give a layer with more captions, or another share to hold out"
        raise UsageError(what, where=f"{asked.dataset}, layer {asked.layer!r}", todo=todo)
    out.sort(key=lambda pair: drawn(f"looked at/{pair.image.id}"))  # the first ones are of all sources
    costs = [pair.caption.cost_usd for pair in learned]
    known = [cost for cost in costs if cost is not None]
    return Split(learned, out, left, sum(known) if len(known) == len(costs) else None)


def clusters_of(catalog: Catalog) -> dict[str, str]:
    """For every image that has near-duplicates: the first image of its cluster."""
    words, rank, ids = read_hashes(catalog)
    found = cluster(words, rank, BITS)
    firsts = found.members[np.searchsorted(found.cluster, np.arange(found.cluster.max(initial=-1) + 1))]
    return {
        ids[int(member)].as_py(): ids[int(firsts[number])].as_py()
        for member, number in zip(found.members, found.cluster, strict=True)
    }


def drawn(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def make_captioner(asked: Asked, how: Recipe, to: Path, watch: Watch) -> Artifact:
    """Train below `to`, look at held-out captions on the way, keep the best; go on where a kill left it.

    The artifact, `to`/SHARE such as `to`/all, holds `model` and `held_out.jsonl` (every held-out picture's
    caption, the teacher's, and how alike they are, 0 to 1). Its metrics hold `quality`: per source and for
    all, the mean likeness with its 95 % interval over pictures; where names that it isn't sure of are left
    out, `names`, a `Sureness`. `UsageError` if a captioner of other captions
    or settings is there.
    """
    found = split(asked)
    training, start = how.stage(STAGE).train, how.parts
    assert isinstance(start, Path)
    own = {key: value for key, value in vars(asked).items() if key not in ("dataset", "layer", "pack")}
    if asked.wrong_names is None:
        del own["wrong_names"]  # as those who were trained before this could be asked
    config = plain({"stage": STAGE, "train": training.decides(), "pack": asked.pack.digest, **own})
    inputs = {
        "start": files_digest(start),
        "catalog": Catalog.open(asked.dataset).digest,
        "captions": open_layer(asked.dataset, asked.layer).digest,
    }
    directory = to / name_of(asked.share)
    mark = mark_of(directory)
    if begun(directory) and mark.get("key", "") not in ("", key_of(KIND, config, inputs)):
        what = "a captioner of other captions, settings or another start"
        raise UsageError(what, where=directory, todo="choose another --to, or remove it yourself")

    def work(place: Path) -> Mapping[str, Any]:
        rows = [pair.row() for pair in found.learned]
        model = load(start)
        decoding = Decoding(max_new_tokens=room(found, model), leaves_loops=True)
        judge = partial(quality_of, found.held_out[: asked.looked_at], decoding)
        with watch(f"captioner, {name_of(asked.share)} captions") as progress:
            made = train(training, model, rows, place, progress, judge=judge)
        if (place / BEST).exists():
            shutil.rmtree(place / MODEL)
            (place / BEST).rename(place / MODEL)
        told_chances = replace(decoding, chances=asked.wrong_names is not None)
        replies = said_of(found.held_out, told_chances, Generator.load(place / MODEL, BATCH))
        sure = None
        if asked.wrong_names is not None:
            words = [pair.caption.text for pair in found.held_out]
            sure = sureness(replies, words, asked.wrong_names)
            abstain(place / MODEL, sure.least)
            replies = [replace(x, text=sure_of(x.text, x.chances, sure.least)) for x in replies]
        write_atomically(place / HELD_OUT, "".join(lines_of(found.held_out, replies)))
        quality = qualities(found.held_out, replies)
        told = {"config": config, "inputs": inputs, "metrics": made, "code_version": __version__}
        write_atomically(place / MODEL / CARD, card("captioner", [told], scores_of(found.held_out, quality)))
        return made | {
            "captions": len(found.learned),
            "held_out": len(found.held_out),
            "left_out": found.left_out,
            "spent_usd": found.spent_usd,
            "cut_off": sum(reply.finish_reason == "length" for reply in replies),
            "quality": plain(quality),
            **({"names": plain(sure)} if sure else {}),
        }

    to.mkdir(parents=True, exist_ok=True)
    with held(to):
        return stage(directory, KIND, config, inputs, work, content=(MODEL, HELD_OUT))


def room(found: Split, model: Llava) -> int:
    """Tokens that a caption may have: a quarter more than the teacher's longest."""
    texts = [pair.caption.text for pair in (*found.learned, *found.held_out)]
    return 8 + max(len(ids) for ids in model.tokenizer(texts).input_ids) * 5 // 4


def name_of(share: float) -> str:
    """The directory of a captioner that learned from this share: "all", "0.5"."""
    return ALL if share == 1 else f"{share:g}"


def said_of(pairs: Sequence[Pair], decoding: Decoding, generator: Generator) -> list[Reply]:
    """What the model says of the pictures when it is asked as in training."""
    return generator.generate([Query((pair.file,), pair.prompt) for pair in pairs], decoding)


def quality_of(pairs: Sequence[Pair], decoding: Decoding, model: Llava) -> float:
    """The mean likeness of the model's captions to the teacher's, where the model is."""
    replies = said_of(pairs, decoding, Generator(model, BATCH))
    return fmean(likeness(reply.text, pair.caption.text) for pair, reply in zip(pairs, replies, strict=True))


def qualities(pairs: Sequence[Pair], replies: Sequence[Reply]) -> dict[str, Estimate]:
    """Mean likeness per source, and for all pictures together under "all"."""
    found: dict[str, list[tuple[str, float]]] = {ALL: []}
    for pair, reply in zip(pairs, replies, strict=True):
        one = (pair.image.id, likeness(reply.text, pair.caption.text))
        found[ALL].append(one)
        found.setdefault(pair.image.source, []).append(one)
    scores = {name: (Mean(1.0, *map(tuple, zip(*ones, strict=True))),) for name, ones in found.items()}
    return intervals(scores)


def scores_of(pairs: Sequence[Pair], quality: Mapping[str, Estimate]) -> list[Score]:
    """As the model's card tells them."""
    sizes = Counter([*(pair.image.source for pair in pairs), *[ALL] * len(pairs)])
    return [
        Score(f"held-out pictures, {name}", "likeness to the teacher", x.value, x.low, x.high, sizes[name])
        for name, x in quality.items()
    ]


def lines_of(pairs: Sequence[Pair], replies: Sequence[Reply]) -> Iterator[str]:
    """The held-out captions as JSON lines, those least like the teacher's first."""
    ranked = sorted(
        (likeness(reply.text, pair.caption.text), pair.image.id, pair, reply)
        for pair, reply in zip(pairs, replies, strict=True)
    )
    for alike, image, pair, reply in ranked:
        line = {
            "image": image,
            "path": str(pair.file),
            "source": pair.image.source,
            "likeness": round(alike, 4),
            "finish_reason": reply.finish_reason,
            "captioner": reply.text,
            "teacher": pair.caption.text,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"
