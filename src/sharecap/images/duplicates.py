"""Near-duplicates: images of a catalog whose perceptual hashes differ in a few bits at most.

They are clustered, and in every cluster some are kept so that each other one is within the bound of a kept
one: a long chain of small steps never makes an image the copy of something that it doesn't resemble.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from sharecap import artifact
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors, held
from sharecap.images.hamming import Places, Words, components, distance, words_of

KIND, FOLDER, TABLE = "duplicates", "duplicates", "clusters.parquet"
BITS = 4
"""Default bound: of the 64 bits, rescaling and new compression change 0 to 4."""

MAX_BITS = 10
"""Above it, pictures that merely have the same layout are taken for copies."""

EXAMPLES = 5

SCHEMA = pa.schema(
    [("image_id", pa.string()), ("cluster", pa.int64()), ("kept", pa.string()), ("distance", pa.int64())]
)


@dataclass(frozen=True)
class Duplicates:
    """What the search found; the clusters themselves are in `table`."""

    dataset: str
    table: str  # Parquet: image_id, cluster, kept (the image that stays for it), distance in bits
    bits: int
    images: int
    clusters: int
    duplicates: int  # images that another one stands for
    largest: int  # images of the largest cluster
    examples: list[tuple[str, str]]  # where a duplicate lies, and where the image that is kept


@dataclass(frozen=True)
class Clusters:
    """Images in clusters of two or more, by their place in the catalog."""

    members: Places  # ordered by cluster, then by place
    cluster: Places  # numbered from 0 in the order of their first images
    kept: Places  # the image that stays for it; itself where it stays
    distance: NDArray[np.uint8]  # bits between the two


def find_duplicates(dataset: Path, bits: int = BITS) -> Duplicates:
    """Cluster the catalog's images by hash and store the clusters beside it; what is stored already is read.

    Of a cluster the image with the most pixels stays, then with the most bytes, then the first.
    """
    check_bits(bits)
    catalog = Catalog.open(dataset)

    def work(place: Path) -> Mapping[str, Any]:
        words, rank, ids = read_hashes(catalog)
        found = cluster(words, rank, bits)
        columns = [
            ids.take(pa.array(found.members)).cast(pa.string()),
            pa.array(found.cluster),
            ids.take(pa.array(found.kept)).cast(pa.string()),
            pa.array(found.distance.astype(np.int64)),
        ]
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), place / TABLE, compression="zstd")
        sizes = np.bincount(found.cluster)
        return {
            "images": len(words),
            "clusters": len(sizes),
            "duplicates": int((found.members != found.kept).sum()),
            "largest": int(sizes.max(initial=0)),
        }

    config, inputs = {"bits": bits, "hash": "phash64"}, {"catalog": catalog.digest}
    with disk_errors(dataset), held(dataset):
        done = artifact.stage(dataset / FOLDER, KIND, config, inputs, work, content=[TABLE])
    return _report(catalog, done)


def check_bits(bits: int) -> None:
    """`UsageError` for a bound that makes no sense."""
    if not 0 <= bits <= MAX_BITS:
        raise UsageError(f"the bound must be 0 to {MAX_BITS} bits", where=bits)


def stored_duplicates(catalog: Catalog) -> Duplicates | None:
    """What an earlier search found, if it was over just this catalog."""
    if not (catalog.dataset / FOLDER / artifact.MANIFEST).exists():
        return None
    done = artifact.read(catalog.dataset / FOLDER)
    return _report(catalog, done) if done.inputs.get("catalog") == catalog.digest else None


def copies(dataset: Path) -> dict[str, str]:
    """For every image that another one stands for: that other one."""
    table = pq.read_table(dataset / FOLDER / TABLE, columns=["image_id", "kept"])
    table = table.filter(pc.not_equal(table["image_id"], table["kept"]))
    return dict(zip(table["image_id"].to_pylist(), table["kept"].to_pylist(), strict=True))


def cluster(words: Words, rank: Places, bits: int) -> Clusters:
    """Clusters of hashes linked by at most `bits`; of those alike, the one of lowest `rank` is kept."""
    different, which = np.unique(words, return_inverse=True)
    by_rank = np.lexsort((rank, which))
    best = by_rank[np.searchsorted(which[by_rank], np.arange(len(different)))]  # per different hash
    linked = components(different, bits)
    stands_for = _kept(different, linked, rank[best], bits)
    label = linked[which]
    members = np.flatnonzero(np.bincount(label, minlength=len(different))[label] > 1)
    _, first, number = np.unique(label[members], return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[number]
    order = np.argsort(number, kind="stable")
    members, number = members[order], number[order]
    kept = best[stands_for[which[members]]]
    return Clusters(members, number, kept, distance(words[members], words[kept]))


def _kept(different: Words, linked: Places, rank: Places, bits: int) -> Places:
    """For each hash, the hash that stays for it: within `bits`, the best one first."""
    stands_for = np.arange(len(different))
    order = np.lexsort((rank, linked))
    labels = linked[order]
    starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])) if len(labels) else labels
    lengths = np.diff(np.append(starts, len(labels)))
    for run in np.flatnonzero(lengths > 1):
        left = order[starts[run] : starts[run] + lengths[run]]
        while len(left):
            near = distance(different[left], different[left[0]]) <= bits
            stands_for[left[near]] = left[0]
            left = left[~near]
    return stands_for


def read_hashes(catalog: Catalog) -> tuple[Words, Places, pa.Array]:
    """Hashes, ranks (0 is the best image) and ids, in the catalog's order."""
    words, sizes, ids = [np.zeros(0, np.uint64)], [np.zeros((0, 2), np.int64)], []
    try:
        with pq.ParquetFile(catalog.table) as table:
            for batch in table.iter_batches(65_536, columns=["id", "phash", "width", "height", "bytes"]):
                words.append(words_of(batch.column("phash").to_pylist()))
                pixels = batch.column("width").to_numpy() * batch.column("height").to_numpy()
                sizes.append(np.stack([pixels, batch.column("bytes").to_numpy()], axis=1))
                ids.append(batch.column("id"))
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise SharecapError(f"damaged catalog ({error})", where=catalog.table) from None
    size = np.concatenate(sizes)
    rank = np.empty(len(size), np.int64)
    rank[np.lexsort((-size[:, 1], -size[:, 0]))] = np.arange(len(size))
    # One array: a large offset type, since ids of 30 million images pass 2 GiB.
    joined = pa.chunked_array(ids, pa.string()).cast(pa.large_string()).combine_chunks()
    return np.concatenate(words), rank, joined


def _report(catalog: Catalog, done: artifact.Artifact) -> Duplicates:
    table = done.path / TABLE
    rows = next(pq.ParquetFile(table).iter_batches(1_000), None)
    pairs = [] if rows is None else [(r["image_id"], r["kept"]) for r in rows.to_pylist()]
    pairs = [pair for pair in pairs if pair[0] != pair[1]][:EXAMPLES]
    places = places_of(catalog, {image for pair in pairs for image in pair})
    return Duplicates(
        dataset=str(catalog.dataset),
        table=str(table),
        bits=done.config["bits"],
        examples=[(places[a], places[b]) for a, b in pairs],
        **done.metrics,
    )


def places_of(catalog: Catalog, ids: set[str]) -> dict[str, str]:
    """Where these images lie, for people."""
    wanted, found = pa.array(sorted(ids), pa.string()), {}
    if not ids:
        return {}
    with pq.ParquetFile(catalog.table) as table:
        for batch in table.iter_batches(65_536, columns=["id", "path", "member"]):
            for row in batch.filter(pc.is_in(batch.column("id"), wanted)).to_pylist():
                member = row.get("member", "")  # older catalogs have no such column
                found[row["id"]] = f"{row['path']}::{member}" if member else row["path"]
    return found


def duplicates_lines(found: Duplicates) -> list[str]:
    """For people."""
    if not found.duplicates:
        return [f"near-duplicates: none within {found.bits} bits"]
    lines = [
        f"near-duplicates: {found.duplicates:,} images within {found.bits} bits of one that would be kept, "
        f"in {found.clusters:,} clusters (largest: {found.largest:,} images)"
    ]
    lines += [f"  {copy} is like {kept}" for copy, kept in found.examples]
    return [*lines, f"  all of them: {found.table}"]
