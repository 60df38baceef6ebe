"""What a layer's captions look like: counts per source, lengths, how they begin, failures, tokens, money.

Streams over the layer; holds eight bytes per caption, to find repeated ones, and a bounded list of openings.
"""

import hashlib
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sharecap.captions.layer import open_layer, read_missing, side_by_side
from sharecap.images.catalog import Catalog

OPENING_WORDS = 3
"""Words of a caption's start that are counted as its opening."""

OPENINGS = 200_000
"""Different openings held at most; beyond, those that came once are forgotten, so counts can be too low."""


@dataclass
class Lengths:
    """Sums over captions."""

    captions: int = 0
    characters: int = 0
    words: int = 0
    shortest_words: int | None = None
    longest_words: int | None = None
    failures: dict[str, int] = field(default_factory=dict)  # kind -> images without a caption

    def add(self, text: str) -> None:
        """Count one caption."""
        words = len(text.split())
        self.captions += 1
        self.characters += len(text)
        self.words += words
        self.shortest_words = words if self.shortest_words is None else min(self.shortest_words, words)
        self.longest_words = words if self.longest_words is None else max(self.longest_words, words)

    def as_json(self) -> dict[str, Any]:
        """Counts and means; a mean over nothing is None, not a number."""
        return {
            "captions": self.captions,
            "characters_mean": self.characters / self.captions if self.captions else None,
            "words_mean": self.words / self.captions if self.captions else None,
            "words_min": self.shortest_words,
            "words_max": self.longest_words,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Stats:
    """One layer in numbers."""

    layer: str
    captioner: str
    images: int
    total: Lengths
    sources: dict[str, Lengths]
    openings: list[tuple[str, int]]  # first words of the first sentence, most frequent first
    repeated: int  # captions whose whole text an earlier caption of the layer had
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    doubtful_usd: float | None  # may be on the bill though no answer was seen

    def as_json(self) -> dict[str, Any]:
        """The same as JSON data."""
        return {
            "layer": self.layer,
            "captioner": self.captioner,
            "images": self.images,
            **self.total.as_json(),
            "sources": {name: lengths.as_json() for name, lengths in self.sources.items()},
            "openings": [{"words": words, "captions": n} for words, n in self.openings],
            "repeated": self.repeated,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": self.cost_usd,
            "doubtful_usd": self.doubtful_usd,
        }


def stats(dataset: Path, layer: str, *, top: int = 10) -> Stats:
    """Read the layer once and count; `top` is how many openings are kept."""
    catalog, sealed = Catalog.open(dataset), open_layer(dataset, layer)
    total, sources = Lengths(), dict[str, Lengths]()
    openings: Counter[str] = Counter()
    digests = array("Q")
    prompt_tokens = completion_tokens = 0
    missing = read_missing(dataset, layer)
    failed = next(missing, None)
    for image, (caption,) in side_by_side(catalog, [layer]):
        of_source = sources.setdefault(image.source, Lengths())
        if caption:
            total.add(caption.text)
            of_source.add(caption.text)
            openings[opening(caption.text)] += 1
            if len(openings) > OPENINGS:
                openings = Counter(dict(openings.most_common(OPENINGS // 2)))
            digests.append(int.from_bytes(hashlib.sha256(caption.text.encode()).digest()[:8], "big"))
            prompt_tokens += caption.usage.prompt_tokens
            completion_tokens += caption.usage.completion_tokens
        elif failed and failed.image_id == image.id:  # both are in the catalog's order
            for lengths in (total, of_source):
                lengths.failures[failed.kind] = lengths.failures.get(failed.kind, 0) + 1
            failed = next(missing, None)
    metrics = sealed.metrics
    return Stats(
        layer=layer,
        captioner=str(sealed.config.get("captioner", "given")),
        images=len(catalog),
        total=total,
        sources=dict(sorted(sources.items())),
        openings=openings.most_common(top),
        repeated=len(digests) - len(np.unique(np.frombuffer(digests, np.uint64))) if digests else 0,
        prompt_tokens=metrics.get("prompt_tokens", prompt_tokens),
        completion_tokens=metrics.get("completion_tokens", completion_tokens),
        cost_usd=metrics.get("cost_usd"),
        doubtful_usd=metrics.get("doubtful_usd"),
    )


def opening(text: str) -> str:
    """The first words of a caption, in lower case without punctuation."""
    words = re.finditer(r"[\w'’-]+", text[:300].lower())  # a caption is long, its opening is not
    return " ".join(word[0] for word in islice(words, OPENING_WORDS))


def lines(found: Stats) -> list[str]:
    """For people."""
    head = f"layer {found.layer} by {found.captioner}: {found.total.captions:,} of {found.images:,} images"
    rows = [head, f"{'source':<16}{'captions':>10}{'characters':>12}{'words':>8}{'failed':>8}"]
    for name, lengths in [*found.sources.items(), ("all", found.total)]:
        mean = lengths.as_json()
        characters, words = mean["characters_mean"], mean["words_mean"]
        rows.append(
            f"{name[:15]:<16}{lengths.captions:>10,}"
            + (f"{characters:>12.1f}{words:>8.1f}" if characters is not None else f"{'-':>12}{'-':>8}")
            + f"{sum(lengths.failures.values()):>8,}"
        )
    if found.total.failures:
        rows.append(
            "failures: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(found.total.failures.items()))
        )
    if found.openings:
        rows.append("openings: " + ", ".join(f"{words!r} {n:,}" for words, n in found.openings[:5]))
    if found.repeated:
        rows.append(f"repeated: {found.repeated:,} captions have the same text as another one")
    rows.append(f"tokens: {found.prompt_tokens:,} in, {found.completion_tokens:,} out")
    if found.cost_usd is not None:
        doubt = f" (and perhaps ${found.doubtful_usd:.4f} without an answer)" if found.doubtful_usd else ""
        rows.append(f"cost: ${found.cost_usd:.4f}{doubt}")
    return rows
