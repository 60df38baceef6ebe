"""What one layer says otherwise than another: counts, lengths, and examples word by word.

Streams over both layers side by side; holds a few examples. It must never judge which layer is better.
"""

import difflib
import hashlib
import heapq
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap.captions.layer import open_layer, side_by_side
from sharecap.captions.stats import Lengths
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption, Image

MAX_WORDS = 1500
"""Words of a caption that are compared for an example; comparing takes the square of it."""

Change = tuple[str, str]
"""("same", "out" or "in", words)."""


@dataclass(frozen=True)
class Example:
    """One image whose captions differ."""

    image_id: str
    where: str
    changes: list[Change]


KINDS = ("same", "changed", "only_a", "only_b", "neither")
"""What an image's two captions can be to each other."""


@dataclass
class Diff:
    """Two layers over one catalog; each image counts under one of `KINDS`."""

    a: str
    b: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    longer: int = 0  # of the changed: b has more words than a
    shorter: int = 0
    lengths_a: Lengths = field(default_factory=Lengths)
    lengths_b: Lengths = field(default_factory=Lengths)
    words_out: int = 0  # of the changed: words of a that b has less often (order left aside)
    words_in: int = 0
    sources: dict[str, Counter[str]] = field(default_factory=dict)  # source -> same, changed, only_a, ...
    examples: list[Example] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON data."""
        lengths = {"a": self.lengths_a, "b": self.lengths_b}
        return {
            "a": self.a,
            "b": self.b,
            "images": sum(self.counts.values()),
            **self.counts,
            "longer": self.longer,
            "shorter": self.shorter,
            "words_out": self.words_out,
            "words_in": self.words_in,
            "sources": {name: dict(counts) for name, counts in sorted(self.sources.items())},
            "lengths": {k: _without_failures(v) for k, v in lengths.items()},
            "examples": [
                {"image_id": e.image_id, "where": e.where, "changes": [list(c) for c in e.changes]}
                for e in self.examples
            ],
        }


def diff(dataset: Path, a: str, b: str, *, examples: int = 3) -> Diff:
    """Compare layers `a` and `b`; of the images whose captions differ, `examples` are shown word by word.

    Which ones is a fair draw that depends on the images alone, so the same command shows the same ones.
    """
    if a == b:
        raise UsageError("a layer does not differ from itself", where=a, todo="name two layers")
    for name in (a, b):
        open_layer(dataset, name)
    found = Diff(a, b)
    drawn: list[tuple[int, Image, Caption, Caption]] = []
    for image, (left, right) in side_by_side(Catalog.open(dataset), [a, b]):
        kind = _count(found, left, right)
        found.counts[kind] += 1
        found.sources.setdefault(image.source, Counter())[kind] += 1
        if kind == "changed" and examples and left and right:
            # A heap of the smallest digests: a sample of fixed size from a stream of unknown length.
            draw = -int.from_bytes(hashlib.sha256(image.id.encode()).digest()[:8], "big")
            if len(drawn) < examples or draw > drawn[0][0]:
                heapq.heappush(drawn, (draw, image, left, right))
                if len(drawn) > examples:
                    heapq.heappop(drawn)
    for _, image, left, right in sorted(drawn, key=lambda one: -one[0]):
        found.examples.append(Example(image.id, image.path, word_changes(left.text, right.text)))
    return found


def _count(found: Diff, left: Caption | None, right: Caption | None) -> str:
    for caption, lengths in ((left, found.lengths_a), (right, found.lengths_b)):
        if caption:
            lengths.add(caption.text)
    if left is None or right is None:
        kind = "only_a" if left else "only_b" if right else "neither"
    elif left.text == right.text:
        kind = "same"
    else:
        kind = "changed"
        before, after = Counter(left.text.split()), Counter(right.text.split())
        found.words_out += (before - after).total()
        found.words_in += (after - before).total()
        found.longer += after.total() > before.total()
        found.shorter += after.total() < before.total()
    return kind


def word_changes(a: str, b: str) -> list[Change]:
    """How `a` becomes `b`, word by word: "same", "out" (of a) and "in" (b) runs, in reading order."""
    before, after = re.findall(r"\S+", a)[:MAX_WORDS], re.findall(r"\S+", b)[:MAX_WORDS]
    changes: list[Change] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            changes.append(("same", " ".join(before[i1:i2])))
            continue
        if i2 > i1:
            changes.append(("out", " ".join(before[i1:i2])))
        if j2 > j1:
            changes.append(("in", " ".join(after[j1:j2])))
    return changes


def _without_failures(lengths: Lengths) -> dict[str, Any]:
    return {k: v for k, v in lengths.as_json().items() if k != "failures"}


def diff_lines(found: Diff) -> list[str]:
    """For people; words of `a` that are gone stand in [-...-], new ones in {+...+}."""
    lines = [f"{found.a} and {found.b}, {sum(found.counts.values()):,} images"]
    words = ("same caption", "changed", f"only {found.a}", f"only {found.b}", "neither")
    lines += [f"  {w:<24}{n:>12,}" for w, n in zip(words, found.counts.values(), strict=True)]
    for name, lengths in ((found.a, found.lengths_a), (found.b, found.lengths_b)):
        mean = lengths.as_json()
        if mean["words_mean"] is not None:
            lines.append(f"{name}: {mean['words_mean']:.1f} words, {mean['characters_mean']:.1f} characters")
    if changed := found.counts["changed"]:
        lines.append(
            f"of the changed, {found.longer:,} got longer and {found.shorter:,} shorter; "
            f"{found.words_out / changed:.1f} words went and {found.words_in / changed:.1f} came"
        )
    marks = {"same": ("", ""), "out": ("[-", "-]"), "in": ("{+", "+}")}
    for example in found.examples:
        told = " ".join(marks[kind][0] + words + marks[kind][1] for kind, words in example.changes)
        shown = "".join(c if c.isprintable() else "�" for c in told)
        lines += ["", f"{example.where}", f"  {shown}"]
    return lines
