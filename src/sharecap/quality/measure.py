"""What captions are worth, without a judge: any layers of a dataset side by side, each caption scored.

One walk over catalog and layers; memory grows with neither. Layers are compared over the images that both
have captions of.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sharecap.captions.layer import open_layer, side_by_side
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors, held
from sharecap.images.progress import Progress
from sharecap.images.words import Words
from sharecap.quality.chair import CHAIR, Chair
from sharecap.quality.interval import Sums
from sharecap.quality.lexical import Pair, Together, lexical, together, values
from sharecap.quality.ocr import OCR, ocr_recall
from sharecap.quality.scores import Scores
from sharecap.quality.tagging import PARTS, Tagger, Textblob, Word, agreement, tagged
from sharecap.records import Caption, Image
from sharecap.statistics import Estimate

SAMPLE = 1_000
"""Captions of a layer that are compared with one another, equally many of every layer."""

PIECE = 200
"""Images whose read words are looked up at a time."""

MOST_SOURCES = 20
"""Sources that are measured apart, the largest: each takes 2 MB a layer."""

LEXICAL = ("words", "characters", "sentences", *PARTS, "distinct_1", "distinct_2", "mtld")
SCORE = "distinct_2"
"""What the page shows where nothing is known of the images: captions that loop come first."""


@dataclass(frozen=True)
class Column:
    """One layer in the table."""

    layer: str
    captioner: str
    captions: int
    missing: int  # images without a caption
    measures: dict[str, Estimate]
    together: Together
    minus_first: dict[str, Estimate] = field(default_factory=dict)  # paired, over the images of both
    in_both: int = 0  # images with a caption in this layer and in the first


@dataclass(frozen=True)
class Part:
    """One source's images."""

    source: str
    images: int
    measures: list[dict[str, Estimate]]  # of each layer; empty where it has no caption of these


@dataclass(frozen=True)
class Quality:
    """Layers side by side."""

    dataset: str
    tagger: str
    images: int
    score: str  # the measure that became each caption's score
    columns: list[Column]
    agreement: tuple[int, int] | None  # words, and those on which the tagger and textblob agree
    labelled: int | None  # images that CHAIR has objects of; None where it was not asked for
    reader: str | None  # that read the words in the images; None where it was not asked for
    sources: list[Part] = field(default_factory=list)  # where they were asked for, the largest first


@dataclass
class _Layer:
    name: str
    captions: int = 0
    in_both: int = 0
    heap: list[tuple[int, str, str, list[Word]]] = field(default_factory=list)

    def sample(self, draw: int, caption: Caption, words: list[Word]) -> None:
        """Keep the captions of the images with the smallest draws: for every layer the same images."""
        self.captions += 1
        if len(self.heap) < SAMPLE:
            heapq.heappush(self.heap, (-draw, caption.image_id, caption.text, words))
        elif -draw > self.heap[0][0]:
            heapq.heapreplace(self.heap, (-draw, caption.image_id, caption.text, words))


def measure(
    dataset: Path,
    names: Sequence[str],
    tagger: Tagger,
    *,
    chair: Chair | None = None,
    words: Words | None = None,
    score: str | None = None,
    by_source: bool = False,
    progress: Progress | None = None,
) -> Quality:
    """Measure the layers, on request also source by source, and write `scores/LAYER.jsonl` for each.

    `chair` and `words` add their measures where they are given. `score` names the measure that the page
    shows; by default CHAIRi with `chair`, else OCR recall with `words`, else distinct_2.
    `UsageError` for layers named twice, a measure that isn't there, and CHAIR labels of no image here.
    """
    if len(set(names)) < len(names):
        raise UsageError("a layer is named twice", where=", ".join(names))
    catalog, sealed = Catalog.open(dataset), [open_layer(dataset, name) for name in names]
    known = (*LEXICAL, *(CHAIR if chair else ()), *((OCR,) if words else ()))
    by = score or (CHAIR[0] if chair else OCR if words else SCORE)
    if by not in known:
        raise UsageError("no such measure here", where=by, todo=f"choose one of {', '.join(known)}")
    progress = progress or Progress("measured", quiet=True)
    progress.total = len(catalog)
    found, labelled = [_Layer(name) for name in names], 0
    sizes = Counter(image.source for image in catalog).most_common(MOST_SOURCES) if by_source else []
    apart = {source: 3 * len(names) - 2 + n * len(names) for n, (source, _) in enumerate(sizes)}
    # One column for each layer, then for each but the first two of its own: first and it, where both are;
    # then for each source one for each layer.
    sums = Sums(len(catalog), 3 * len(names) - 2 + len(apart) * len(names), known)
    with disk_errors(dataset), held(dataset), ExitStack() as stack, progress.shown():
        files = [stack.enter_context(Scores(dataset, n, by, chosen=score is not None)) for n in names]
        for position, (image, row, read) in enumerate(_rows(catalog, names, words)):
            group = sums.group(image.id, position)
            labelled += chair is not None and chair.label(image) is not None
            pairs: list[dict[str, Pair] | None] = []
            for layer, file, caption in zip(found, files, row, strict=True):
                if caption is None:
                    pairs.append(None)
                    continue
                spoken = tagged(caption.text, tagger)
                layer.sample(_draw(image), caption, spoken)
                one = lexical(caption.text, spoken)
                if chair:
                    one |= chair.pairs(image, caption.text)
                if words:
                    one[OCR] = ocr_recall(read, caption.text)
                pairs.append(one)
                file.put(image.id, values(one))
            _add(sums, group, pairs, found)
            if image.source in apart:
                for at, told in enumerate(pairs, apart[image.source]):
                    sums.add(group, at, told or {})
            progress.done += 1
            progress.tick()
        if chair and not labelled:
            todo = "files must have the names of the labels' images, such as 000000391895.jpg"
            raise UsageError("the CHAIR labels are of none of these images", where=dataset, todo=todo)
    others = [len(names) + 2 * number for number in range(len(names) - 1)]
    estimates, differences = sums.told([(at, at + 1) for at in others])
    return Quality(
        dataset=str(dataset),
        tagger=tagger.name,
        images=len(catalog),
        score=by,
        columns=_columns(
            found,
            [str(s.config.get("captioner", "given")) for s in sealed],
            estimates[: len(names)],
            [{}, *differences],
            len(catalog),
        ),
        agreement=_agreement(found, tagger),
        labelled=labelled if chair else None,
        reader=words.reader if words else None,
        sources=[
            Part(source, images, estimates[at : at + len(names)])
            for (source, images), at in zip(sizes, apart.values(), strict=True)
        ],
    )


def _rows(
    catalog: Catalog, names: Sequence[str], words: Words | None
) -> Iterator[tuple[Image, list[Caption | None], str]]:
    """Every image with its captions and the words that were read in it."""
    rows = side_by_side(catalog, names)
    while piece := list(islice(rows, PIECE)):
        read = words.of([image for image, _ in piece]) if words else {}
        for image, row in piece:
            yield image, row, read.get(image.id, "")


def _add(sums: Sums, group: int, pairs: Sequence[Mapping[str, Pair] | None], layers: list[_Layer]) -> None:
    first = pairs[0]
    for number, one in enumerate(pairs):
        if one is None:
            continue
        sums.add(group, number, one)
        if number and first is not None:
            layers[number].in_both += 1
            sums.add(group, len(pairs) + 2 * (number - 1), one)
            sums.add(group, len(pairs) + 2 * (number - 1) + 1, first)


def _columns(
    layers: list[_Layer],
    captioners: list[str],
    estimates: list[dict[str, Estimate]],
    differences: list[dict[str, Estimate]],
    images: int,
) -> list[Column]:
    equal = min(len(layer.heap) for layer in layers)
    return [
        Column(
            layer=layer.name,
            captioner=captioner,
            captions=layer.captions,
            missing=images - layer.captions,
            measures=measures,
            together=together([(t, w) for _, _, t, w in sorted(layer.heap, reverse=True)[:equal]]),
            minus_first=difference,
            in_both=layer.in_both,
        )
        for layer, captioner, measures, difference in zip(
            layers, captioners, estimates, differences, strict=True
        )
    ]


def _agreement(layers: list[_Layer], tagger: Tagger) -> tuple[int, int] | None:
    """Of the sample, where the tagger is another than textblob and that is installed too."""
    if isinstance(tagger, Textblob):
        return None
    try:
        other = Textblob()
    except UsageError:
        return None
    return agreement((text for layer in layers for _, _, text, _ in layer.heap), tagger, other)


def _draw(image: Image) -> int:
    return int.from_bytes(hashlib.sha256(image.id.encode()).digest()[:8], "big")
