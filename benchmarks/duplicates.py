"""Near-duplicates in a catalog of 1.2 million images: seconds and peak memory of the search.

The hashes are made to be hard: real pictures' hashes lean to some bits, blank pictures share one hash, and a
tenth of the images are near-copies of others. The answer is checked against all pairs of a sample.

    python benchmarks/duplicates.py [--images N] [--bits D]
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharecap.artifact import write_atomically
from sharecap.images.catalog import SCHEMA, Catalog
from sharecap.images.dataset import INDEX
from sharecap.images.duplicates import find_duplicates
from sharecap.images.hamming import components, distance


def hashes(images: int, bits: int) -> np.ndarray:
    """Leaning bits, 1 % blank, 5 % with exactly the hash of another image and 10 % within `bits` of one."""
    draw = np.random.default_rng(0)
    lean = draw.beta(8, 8, 64)  # how often each bit is set
    words = np.zeros(images, np.uint64)
    for bit in range(64):
        words |= (draw.random(images) < lean[bit]).astype(np.uint64) << np.uint64(bit)
    places = draw.permutation(images)
    blank, same, near = np.split(places[: images * 16 // 100], [images // 100, images * 6 // 100])
    originals = places[images * 16 // 100 :]
    words[blank] = np.uint64(0x8000000000000000)
    words[same] = words[draw.choice(originals, len(same))]
    words[near] = words[draw.choice(originals, len(near))]
    for _ in range(bits):
        words[near] ^= np.uint64(1) << draw.integers(0, 64, len(near), dtype=np.uint64)
    return words


def write_catalog(dataset: Path, words: np.ndarray) -> None:
    """A catalog of images that exist in its table only."""
    with pq.ParquetWriter(dataset / "catalog-0.parquet", SCHEMA, compression="zstd") as writer:
        for start in range(0, len(words), 10_000):
            piece = words[start : start + 10_000]
            places = range(start, start + len(piece))
            columns: dict[str, list[object]] = {name: [""] * len(piece) for name in SCHEMA.names}
            columns |= {name: [0] * len(piece) for name in ("width", "height", "bytes", "offset")}
            columns["id"] = [f"{place * 0x9E3779B97F4A7C15 % 2**256:064x}" for place in places]
            columns["path"] = [f"/images/{place // 1000:05}/{place:08}.jpg" for place in places]
            columns["phash"] = [f"{word:016x}" for word in piece.tolist()]
            columns["width"] = [640 + place % 100 for place in places]
            columns["height"] = [480] * len(piece)
            writer.write_table(pa.Table.from_pydict(columns, schema=SCHEMA))
    index = f'{{"catalog": "catalog-0.parquet", "digest": "benchmark", "images": {len(words)}}}'
    write_atomically(dataset / INDEX, index)


def search(dataset: Path, bits: int) -> tuple[float, float, float, dict[str, int]]:
    """Seconds, peak MiB before and after, and what was found; run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clock = time.perf_counter()
    found = find_duplicates(dataset, bits)
    seconds = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = {"clusters": found.clusters, "duplicates": found.duplicates, "largest": found.largest}
    return seconds, before, peak, counts


def brute_force(words: np.ndarray, bits: int) -> np.ndarray:
    """Components by comparing all with all."""
    labels = np.arange(len(words))
    changed = True
    while changed:
        changed = False
        for place in range(len(words)):
            near = distance(words, words[place]) <= bits
            low = labels[near].min()
            if (labels[near] != low).any():
                labels[near], changed = low, True
    return labels


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=1_200_000)
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--sample", type=int, default=5_000, help="hashes compared all with all")
    chosen = options.parse_args()
    words = hashes(chosen.images, chosen.bits)
    with tempfile.TemporaryDirectory() as folder:
        write_catalog(Path(folder), words)
        assert len(Catalog.open(Path(folder))) == chosen.images
        with get_context("spawn").Pool(1) as pool:
            seconds, before, peak, counts = pool.apply(search, (Path(folder), chosen.bits))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{chosen.images:,} images, {chosen.bits} bits: {seconds:.1f} s, peak {peak:,.0f} MiB", end=" ")
    print(f"({before:,.0f} MiB before the search)")
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    # A sample of hashes that are near each other more often than chance has it.
    sample = np.unique(words[np.argsort(words)[: chosen.sample]])
    same = (components(sample, chosen.bits) == brute_force(sample, chosen.bits)).all()
    print(
        f"the first {len(sample):,} different hashes, against all pairs: {'equal' if same else 'DIFFERENT'}"
    )


if __name__ == "__main__":
    main()
