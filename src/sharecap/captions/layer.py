"""Caption layers: one captioner's captions over a catalog, sealed as Parquet. Images stay; layers are added.

A sealed layer is never written to again, and holds no caption of an image that the catalog doesn't have.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.captions.in_order import InOrder
from sharecap.captions.storable import storable
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.columns import integers, reals, text_lists, texts
from sharecap.images.dataset import LAYERS, disk_errors, held, layer_path
from sharecap.records import Caption, Image, Usage

KIND, TABLE, FAILURES = "layer", "captions.parquet", "failures.jsonl"
ROWS = 10_000
"""Captions per row group: what a writer holds in memory."""

LETTERS = 100_000_000
"""Characters of captions after which a row group ends sooner."""

AT_A_TIME = 1_000
"""Captions that a reader holds."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("text", pa.string()),
        ("captioner", pa.string()),
        ("prompt_id", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("flags", pa.list_(pa.string())),
        ("origin", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Missing:
    """An image of the catalog that the layer has no caption for, and why."""

    image_id: str
    kind: str
    error: str


def seal(
    dataset: Path,
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    rows: Iterable[Caption | Missing],
    metrics: Callable[[], Mapping[str, Any]] = dict,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    """Write `rows` as the finished layer `name`; `metrics` is asked when they have all been read.

    `notes` are files (name and text) that are kept beside the captions and count as part of the layer.
    Streams: memory does not grow with the layer. A layer that can't be written whole is not there.
    """
    directory = layer_path(dataset, name)

    def work(place: Path) -> Mapping[str, Any]:
        captions, failures = 0, Counter[str]()
        for note, text in notes.items():
            artifact.write_atomically(place / note, text)
        pending: list[Caption] = []
        letters = 0  # of the captions that are pending
        with (
            pq.ParquetWriter(place / TABLE, SCHEMA, compression="zstd") as writer,
            open(place / FAILURES, "w", encoding="utf-8") as missing,
        ):
            for row in rows:
                if isinstance(row, Missing):
                    failures[row.kind] += 1
                    what = {"image_id": row.image_id, "kind": row.kind, "error": storable(row.error)}
                    missing.write(json.dumps(what, ensure_ascii=False) + "\n")
                else:
                    captions += 1
                    pending.append(row)
                    letters += len(row.text)
                    if len(pending) >= ROWS or letters >= LETTERS:
                        writer.write_table(_table(pending))
                        pending, letters = [], 0
            if pending:
                writer.write_table(_table(pending))
        return {"captions": captions, "failures": dict(sorted(failures.items())), **metrics()}

    try:
        with disk_errors(dataset):
            return artifact.stage(directory, KIND, dict(config), inputs, work)
    except BaseException:
        # It can be made again from the ledger. What sharecap didn't start is not ours to remove.
        if (directory / artifact.STARTED).exists() and not (directory / artifact.MANIFEST).exists():
            shutil.rmtree(directory, ignore_errors=True)
        raise


def open_layer(dataset: Path, name: str) -> Artifact:
    """The sealed layer `name`; `UsageError` naming the layers that exist if there is none."""
    directory = layer_path(dataset, name)
    if not (directory / artifact.MANIFEST).exists():
        names = layers(dataset)
        todo = f"it has {', '.join(names)}" if names else "make one: sharecap caption DATASET --teacher ..."
        raise UsageError(f"no finished layer {name!r}", where=dataset, todo=todo)
    found = artifact.read(directory)
    if found.kind != KIND:
        raise SharecapError(f"not a caption layer but a {found.kind}", where=directory)
    return found


def layers(dataset: Path) -> list[str]:
    """Names of the sealed layers."""
    folder = dataset / LAYERS
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p / artifact.MANIFEST).is_file())


def only_layer(dataset: Path) -> str:
    """The name of the dataset's layer, if it has just one; `UsageError` otherwise."""
    names = layers(dataset)
    if not names:
        Catalog.open(dataset)  # says so if there is no dataset at all
    if len(names) != 1:
        todo = f"choose with --layer: {', '.join(names)}" if names else "caption the images first"
        raise UsageError(
            "the dataset has no layer" if not names else "more than one layer", where=dataset, todo=todo
        )
    return names[0]


def read_layer(dataset: Path, name: str) -> Iterator[Caption]:
    """The layer's captions, in the catalog's order."""
    table = open_layer(dataset, name).path / TABLE
    return _read(table, name)


def _read(table: Path, name: str) -> Iterator[Caption]:
    try:
        # Buffered ahead, all that was read would stay in memory to the end.
        with pq.ParquetFile(table, pre_buffer=False) as file:
            for batch in file.iter_batches(AT_A_TIME):
                for row in batch.to_pylist():
                    yield Caption(
                        image_id=row["image_id"],
                        layer=name,
                        text=row["text"],
                        captioner=row["captioner"],
                        prompt_id=row["prompt_id"],
                        finish_reason=row["finish_reason"],
                        usage=Usage(row["prompt_tokens"], row["completion_tokens"]),
                        cost_usd=row["cost_usd"],
                        flags=tuple(row["flags"] or ()),
                        origin=row.get("origin") or "",  # layers of older versions have no such column
                    )
    except (OSError, KeyError, pa.ArrowException) as error:
        raise SharecapError(f"damaged layer ({error})", where=table) from None


def side_by_side(catalog: Catalog, names: Sequence[str]) -> Iterator[tuple[Image, list[Caption | None]]]:
    """Every image of the catalog with its caption in each of the layers. Holds one piece of each at a time.

    Needs no join: catalogs grow at their end only, so every layer has the catalog's order, some images left
    out. `SharecapError` for a layer that has another order, or captions of images that the catalog lacks.
    """
    readers = [read_layer(catalog.dataset, name) for name in names]
    heads = [next(reader, None) for reader in readers]
    for image in catalog:
        row: list[Caption | None] = []
        for number, head in enumerate(heads):
            if head is not None and head.image_id == image.id:
                row.append(head)
                heads[number] = next(readers[number], None)
            else:
                row.append(None)
        yield image, row
    for name, head in zip(names, heads, strict=True):
        if head is not None:
            what = f"layer {name!r} does not go with the catalog, from image {head.image_id} on"
            todo = "restore the catalog or the layer from a copy, or caption into a new layer"
            raise SharecapError(what, where=layer_path(catalog.dataset, name), todo=todo)


def read_missing(dataset: Path, name: str) -> Iterator[Missing]:
    """The images that the layer has no caption for, in the catalog's order."""
    path = open_layer(dataset, name).path / FAILURES
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                yield Missing(**json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise SharecapError(f"damaged layer ({error})", where=path) from None


def derive(
    dataset: Path,
    name: str,
    config: Mapping[str, Any],
    parents: Sequence[str],
    *,
    rows: Callable[[Catalog], Iterator[Caption | Missing]],
    metrics: Callable[[], Mapping[str, Any]] = dict,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    """Seal a layer made of other layers, which stay as they are; its manifest names them by digest."""
    if name in parents:
        raise UsageError("a layer cannot be made of itself", where=name, todo="choose another name with --to")
    catalog = Catalog.open(dataset)
    inputs = {"catalog": catalog.digest, **{f"layer:{p}": open_layer(dataset, p).digest for p in parents}}
    refuse_other_layer(dataset, name, config, "--to")
    with held(dataset):
        return seal(dataset, name, config, inputs, rows=rows(catalog), metrics=metrics, notes=notes)


def write_layer(dataset: Path, name: str, captions: Iterable[Caption]) -> Artifact:
    """Seal captions that come from elsewhere (people, alt-text, another tool) as layer `name`.

    They are put in the catalog's order, on disk. An image without a caption is counted as `not_given`; a
    caption of an image that the catalog lacks, an empty one, or a second one of the same image is an error.
    So is a layer of that name.
    """
    with InOrder(Catalog.open(dataset)) as given:
        for caption in captions:
            if not given.put(replace(caption, text=storable(caption.text))):
                raise SharecapError("two captions of one image", where=caption.image_id)
        return seal_given(dataset, name, given)


def seal_given(dataset: Path, name: str, given: InOrder, *, grow: bool = False) -> Artifact:
    """The same, of captions that are in order; a layer of that name may `grow` to one that keeps it all."""
    config = {"given": given.digest()}
    if not (grow and name in layers(dataset) and _keeps(read_layer(dataset, name), given)):
        refuse_other_layer(dataset, name, config)
    rows = (caption or Missing(image.id, "not_given", "no caption was given") for image, caption in given)
    with held(dataset):
        return seal(dataset, name, config, {"catalog": given.catalog.digest}, rows=rows)


def _keeps(before: Iterable[Caption], given: InOrder) -> bool:
    """Every caption of `before` is given again, word for word."""
    return all(given.text_of(caption.image_id) == caption.text for caption in before)


def refuse_other_layer(dataset: Path, name: str, config: Mapping[str, Any], option: str = "--layer") -> None:
    """`UsageError` if a layer of that name was made otherwise: finished captions aren't overwritten.

    So is a directory of that name that holds something else.
    """
    artifact.mark_of(layer_path(dataset, name))
    if name in layers(dataset):
        found = open_layer(dataset, name)
        if found.config != artifact.plain(dict(config)):
            differing = sorted(k for k in {**found.config, **config} if found.config.get(k) != config.get(k))
            what = f"layer {name!r} was made with another {', '.join(differing)}"
            raise UsageError(what, where=found.path, todo=f"choose another name with {option}")


def _table(captions: Sequence[Caption]) -> pa.Table:
    usages = [caption.usage for caption in captions]
    columns = [
        texts([caption.image_id for caption in captions]),
        texts([storable(caption.text) for caption in captions]),
        texts([storable(caption.captioner) for caption in captions]),
        texts([caption.prompt_id for caption in captions]),
        texts([storable(caption.finish_reason) for caption in captions]),
        integers([usage.prompt_tokens for usage in usages]),
        integers([usage.completion_tokens for usage in usages]),
        reals([caption.cost_usd for caption in captions]),
        text_lists([caption.flags for caption in captions]),
        texts([caption.origin for caption in captions]),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
