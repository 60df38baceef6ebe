"""One layer out of several, by a rule that looks at one image at a time. The layers merged stay as they are.

Every row keeps its captioner and prompt, and names the layer it was taken from: no caption loses its origin.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sharecap.artifact import Artifact
from sharecap.captions.layer import Missing, derive, open_layer, side_by_side
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

RULES: Mapping[str, Callable[[list[Caption]], Caption]] = MappingProxyType(
    {
        "first": lambda given: given[0],
        "unflagged": lambda given: min(given, key=lambda caption: bool(caption.flags)),
        "longest": lambda given: max(given, key=lambda caption: len(caption.text.split())),
        "shortest": lambda given: min(given, key=lambda caption: len(caption.text.split())),
    }
)
"""How one caption is chosen from those that an image has, in the order in which the layers were named.

`first` has the layers' order decide; `unflagged` takes the first without flags, else the first;
`longest` and `shortest` count words. Among equals the layer named first wins.
"""


def merge(
    dataset: Path,
    names: Sequence[str],
    to: str,
    rule: str = "first",
    by_source: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    """Seal layer `to` out of layers `names` by `rule`. `by_source` (source -> layer) goes before the rule,
    where that layer has a caption. An image that no layer has a caption for is counted as `no_caption`.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError("a merge needs at least two different layers", where=", ".join(names))
    if rule not in RULES:
        raise UsageError("no such rule", where=rule, todo=f"choose one of {', '.join(RULES)}")
    for source, layer in by_source.items():
        if layer not in names:
            raise UsageError(f"source {source!r} is to come from a layer that isn't merged", where=layer)
    captioners = dict.fromkeys(str(open_layer(dataset, n).config.get("captioner", "given")) for n in names)
    config = {
        "captioner": " + ".join(captioners),
        "merged": list(names),
        "rule": rule,
        "by_source": dict(sorted(by_source.items())),
    }
    origins: Counter[str] = Counter()
    choose = RULES[rule]

    def rows(catalog: Catalog) -> Iterator[Caption | Missing]:
        strangers = set(by_source)
        for image, row in side_by_side(catalog, names):
            strangers.discard(image.source)
            given = {name: c for name, c in zip(names, row, strict=True) if c is not None}
            if not given:
                yield Missing(image.id, "no_caption", "none of the merged layers has one")
                continue
            wanted = given.get(by_source.get(image.source, ""))
            chosen = wanted or choose(list(given.values()))
            origins[chosen.layer] += 1
            yield replace(chosen, origin=chosen.origin or chosen.layer)
        if strangers:
            todo = "`sharecap check` names the sources"
            raise UsageError("no image is of this source", where=sorted(strangers)[0], todo=todo)

    return derive(
        dataset, to, config, names, rows=rows, metrics=lambda: {"origins": dict(sorted(origins.items()))}
    )


def parse_by_source(words: Sequence[str]) -> dict[str, str]:
    """`SOURCE=LAYER` words as a mapping; `UsageError` for any other word."""
    found = {}
    for word in words:
        source, equals, layer = word.rpartition("=")
        if not (source and equals and layer):
            raise UsageError("not a choice by source", where=word, todo="write SOURCE=LAYER")
        found[source] = layer
    return found


def merged_lines(made: Artifact) -> list[str]:
    """For people, of any layer that was made of others."""
    counts = made.metrics
    lines = [f"layer {made.path.name}: {counts['captions']:,} captions"]
    lines += [f"  from {name}: {n:,}" for name, n in counts.get("origins", {}).items()]
    if counts["failures"]:
        lines.append("without: " + ", ".join(f"{n:,} {kind}" for kind, n in counts["failures"].items()))
    return [*lines, f"in {made.path}"]
