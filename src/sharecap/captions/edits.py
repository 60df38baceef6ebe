"""Edits of single sentences, kept beside the captions that they change: the original layer is never touched.

An edit names its image, the sentence's number and the sentence's own words, so it can't hit another text.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.captions.layer import Missing, derive, open_layer, side_by_side
from sharecap.captions.sentences import pieces
from sharecap.captions.storable import storable
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption

EDITS = "edits.jsonl"
"""File of an edited layer that holds the edits it was made with."""

EDITED = "edited"
"""Flag of a caption that an edit has changed."""

DROPPED = "dropped_by_hand"
"""Failure of an image whose caption a person threw out."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One sentence of one caption, dropped or replaced."""

    image_id: str
    sentence: int  # 1 is the first
    was: str  # the sentence as it stands in the original
    text: str = ""  # what takes its place; "" drops it


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    sentence: int = Field(ge=1)
    was: str
    text: str = ""


def read_edits(path: Path) -> list[Edit]:
    """Edits, a JSON object with the fields of `Edit` a line; `SharecapError` names the first bad one."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # texts may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the edits ({error})", where=path) from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Edit(**_Line.model_validate_json(line).model_dump()))
        except ValidationError as error:
            first = error.errors()[0]
            what = f"bad edit in line {number}, {'.'.join(map(str, first['loc']))}: {first['msg']}"
            todo = 'give {"image_id", "sentence", "was", "text"} a line'
            raise SharecapError(what, where=path, todo=todo) from None
    return found


def edit(
    dataset: Path,
    layer: str,
    edits: Sequence[Edit],
    to: str,
    *,
    flags: Mapping[str, Sequence[str]] = MappingProxyType({}),
    drops: Collection[str] = (),
) -> Artifact:
    """Seal layer `to`: the captions of `layer` with `edits` applied, which are stored in it as well.

    `flags` are added to captions, by image id; captions of the images in `drops` are left out, as
    `dropped_by_hand`. Two edits of one sentence, or one whose `was` is not what stands there, are an error:
    nothing is guessed. A caption that loses all its sentences is counted as `edited_away`.
    """
    by_image: dict[str, dict[int, Edit]] = defaultdict(dict)
    edits = [replace(one, text=storable(one.text)) for one in edits]
    for one in edits:
        if one.sentence in by_image[one.image_id]:
            raise SharecapError(f"two edits of sentence {one.sentence}", where=one.image_id)
        by_image[one.image_id][one.sentence] = one
    ordered = sorted(edits, key=lambda one: (one.image_id, one.sentence))
    notes = "".join(json.dumps(artifact.plain(one), ensure_ascii=False) + "\n" for one in ordered)
    config: dict[str, Any] = {"captioner": _captioner(dataset, layer), "edited": layer, "edits": len(ordered)}
    config["edits_digest"] = artifact.key_of("edits", ordered, {})
    if flags or drops:
        marks = {"flags": {i: sorted(words) for i, words in flags.items()}, "drops": sorted(drops)}
        config |= {
            "flagged": len(flags),
            "dropped": len(drops),
            "marks_digest": artifact.key_of("marks", marks, {}),
        }
    counts: Counter[str] = Counter()

    def rows(catalog: Catalog) -> Iterator[Caption | Missing]:
        left = dict(by_image)
        unmarked = {*flags, *drops}
        for image, (caption,) in side_by_side(catalog, [layer]):
            changes = left.pop(image.id, None)
            unmarked.discard(image.id)
            if caption is None:
                if changes or image.id in flags or image.id in drops:
                    raise SharecapError(f"edit of an image that {layer!r} has no caption for", where=image.id)
                yield Missing(image.id, "no_caption", f"layer {layer} has none")
                continue
            origin = caption.origin or layer
            if image.id in drops:
                counts["dropped"] += 1
                yield Missing(image.id, DROPPED, f"a person dropped it from {layer}")
                continue
            if image.id in flags:
                counts["flagged"] += 1
            flagged = tuple(dict.fromkeys((*caption.flags, *flags.get(image.id, ()))))
            if not changes:
                yield replace(caption, origin=origin, flags=flagged)
                continue
            text = applied(caption.text, changes, image.id)
            counts["edited"] += 1
            counts["sentences_dropped"] += sum(not one.text.strip() for one in changes.values())
            if not text:
                yield Missing(image.id, "edited_away", "every sentence was dropped")
            else:
                words = tuple(dict.fromkeys((*flagged, EDITED)))
                yield replace(caption, text=text, origin=origin, flags=words)
        if left or unmarked:
            raise SharecapError(
                "edit of an image that the catalog lacks", where=next(iter([*left, *unmarked]))
            )

    return derive(dataset, to, config, [layer], rows=rows, metrics=lambda: dict(counts), notes={EDITS: notes})


def applied(text: str, changes: dict[int, Edit], where: str) -> str:
    """`text` with the sentences of `changes` (number -> edit) dropped or replaced; the rest to the letter."""
    cut = pieces(text)
    for number, change in changes.items():
        there = cut[number - 1][0].strip() if number <= len(cut) else None
        if there != change.was.strip():
            what = f"sentence {number} is not the one that the edit names: {there!r}"
            todo = "make the edit from the layer as it is"
            raise SharecapError(what, where=where, todo=todo)
    kept = []
    for number, (sentence, gap) in enumerate(cut, 1):
        if number not in changes:
            kept.append(sentence + gap)
        elif changes[number].text.strip():
            kept.append(changes[number].text.strip() + gap)
    return "".join(kept).strip()


def shorten(dataset: Path, layer: str, to: str) -> Artifact:
    """Seal layer `to`: the first sentence of every caption, as a short caption."""
    config = {"captioner": _captioner(dataset, layer), "first_sentence_of": layer}

    def rows(catalog: Catalog) -> Iterator[Caption | Missing]:
        for image, (caption,) in side_by_side(catalog, [layer]):
            if caption is None:
                yield Missing(image.id, "no_caption", f"layer {layer} has none")
            else:
                text = pieces(caption.text)[0][0].strip()
                yield replace(caption, text=text, origin=caption.origin or layer)

    return derive(dataset, to, config, [layer], rows=rows)


def _captioner(dataset: Path, layer: str) -> str:
    return str(open_layer(dataset, layer).config.get("captioner", "given"))
