"""Captions joined with the alt-text that the image came with, by a language model (CapsFusion's idea).

The model sees no picture: each pair of texts takes an image's place in a dataset below DATASET/fusions/, so
that keys, ledger, budget, gates and resume are those of every run. An image without alt-text keeps its
caption, and is not asked about. It must never send a picture, nor let alt-text become an instruction.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sharecap.artifact import Artifact, plain
from sharecap.captions.captioner import ANYWHERE, DEFAULT_SAMPLING, Answer, Place, Request, Sampling
from sharecap.captions.gates import CANARY
from sharecap.captions.layer import Missing, derive, open_layer, read_layer, read_missing, side_by_side
from sharecap.captions.price import Price
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import run
from sharecap.captions.run_report import RunReport
from sharecap.captions.teachers.endpoint import Endpoint
from sharecap.captions.teachers.open import open_endpoint
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog, publish, written
from sharecap.images.dataset import FUSIONS, disk_errors, layer_path
from sharecap.images.progress import Progress
from sharecap.records import NO_IMAGE, Caption, Image

PACK = "fuse"
FUSED = "fused"
"""Flag of a caption that holds words of the alt-text."""


class Fuser:
    """A captioner whose endpoint is sent the two texts of a pair instead of a picture."""

    preparation = "1:alt-text and caption as JSON, no image"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.name, self.fingerprint = endpoint.name, endpoint.fingerprint
        self.concurrency = endpoint.concurrency

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:
        """One pair, one caption."""
        said = json.loads(request.image.alt_text)
        texts = json.dumps({k: said[k] for k in ("alt_text", "caption")}, ensure_ascii=False)
        words = replace(request, image=NO_IMAGE, prompt=f"{request.prompt}\n\n{texts}")
        return await self._endpoint.answer(words, place)

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()


def fuse(
    dataset: Path,
    teacher: str,
    layer: str,
    to: str,
    *,
    budget_usd: float | None = None,
    price: Price | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
    concurrency: int | None = None,
    progress: Progress | None = None,
) -> tuple[Artifact, RunReport]:
    """Seal layer `to`: the captions of `layer`, joined with the alt-texts by the model behind `teacher`.

    Stopped or killed, the same call goes on and pays nothing twice. Raises what `run` raises.
    """
    endpoint = open_endpoint(teacher, "fuse texts")
    layer_path(dataset, to)
    if to == layer:
        raise UsageError("a layer cannot be made of itself", where=to, todo="choose another name with --to")
    fuser, pack = Fuser(endpoint), load_pack(PACK)
    pairs, most = _pairs(dataset, layer, to)
    report = run(
        pairs.dataset,
        fuser,
        pack,
        to,
        concurrency=concurrency,
        budget_usd=budget_usd,
        price=price,
        sampling=sampling,
        image_tokens=most,
        accept=(CANARY,),  # there is no picture to look at
        progress=progress,
    )
    config = {
        "captioner": fuser.name,
        "fused": layer,
        "pack": f"{pack.name}@{pack.version}",
        "pack_digest": pack.digest,
        "sampling": plain(sampling),
    }
    metrics = {k: v for k, v in vars(report).items() if k.endswith(("_usd", "_tokens"))}
    made = derive(
        dataset, to, config, [layer], rows=lambda _: _rows(dataset, pairs, layer, to), metrics=lambda: metrics
    )
    return made, report


def _pairs(dataset: Path, layer: str, to: str) -> tuple[Catalog, int]:
    """The pairs as a dataset of their own, and the most tokens that one of them can take."""
    open_layer(dataset, layer)
    place, most = dataset / FUSIONS / to, 1

    def pairs() -> Iterator[Image]:
        nonlocal most
        for image, (caption,) in side_by_side(Catalog.open(dataset), [layer]):
            if caption and image.alt_text.strip():
                pair = _pair(image, caption)
                most = max(most, len(pair.alt_text.encode()))  # a token is a byte at least
                yield pair

    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        return publish(written(place, pairs())), most


def _pair(image: Image, caption: Caption) -> Image:
    """The two texts in an image's place: their digest is its id, and the image's id its path."""
    said = {"image_id": image.id, "alt_text": image.alt_text, "caption": caption.text}
    text = json.dumps(said, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Image(digest, image.source, image.id, 1, 1, "TEXT", len(text), "0" * 16, alt_text=text)


def _rows(dataset: Path, pairs: Catalog, layer: str, to: str) -> Iterator[Caption | Missing]:
    """The fused captions in the catalog's order; where there was nothing to fuse, the caption as it is."""
    answers, failures = read_layer(pairs.dataset, to), read_missing(pairs.dataset, to)
    answer, failure = next(answers, None), next(failures, None)
    for image, (caption,) in side_by_side(Catalog.open(dataset), [layer]):
        if caption is None:
            yield Missing(image.id, "no_caption", f"layer {layer} has none")
            continue
        pair = _pair(image, caption).id if image.alt_text.strip() else ""
        if answer and answer.image_id == pair:
            yield replace(answer, image_id=image.id, flags=(*answer.flags, FUSED))
            answer = next(answers, None)
        elif failure and failure.image_id == pair:
            yield Missing(image.id, failure.kind, failure.error)
            failure = next(failures, None)
        else:
            assert not pair, "pairs are in the catalog's order"
            yield replace(caption, origin=caption.origin or layer)


def fused_lines(made: Artifact, report: RunReport) -> list[str]:
    """For people."""
    kept = made.metrics["captions"] - report.captions
    told = f"{report.captions:,} captions fused with alt-text, {kept:,} as they were"
    lines = [f"layer {made.path.name}: {told}"]
    if made.metrics["failures"]:
        lines.append("without: " + ", ".join(f"{n:,} {kind}" for kind, n in made.metrics["failures"].items()))
    if report.cost_usd is not None:
        lines.append(f"cost: ${report.cost_usd:.4f}")
    return [*lines, f"in {made.path}"]
