"""A dataset of a million rows for `benchmarks/view.py`: catalog and layers as sharecap writes them.

    python benchmarks/view_data.py FOLDER [--rows 1200000] [--pictures 12000]

The first `--pictures` rows have real JPEGs of 640 x 480 in one tar; the other rows name a file that is not
there. Captions have about 90 words each, drawn from a vocabulary in which words are as unequal as in English.
"""

import argparse
import hashlib
import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as Picture

from sharecap.captions.layer import Missing, seal
from sharecap.images.catalog import ROWS, SCHEMA
from sharecap.images.dataset import INDEX
from sharecap.records import Caption, Usage

SOURCES = ("coco", "sam", "llava", "wikiart", "landmarks")
RARE = "zeppelin"
"""A word of one caption in about 40,000."""


def jpegs(count: int) -> Iterator[bytes]:
    """Different files; 200 pictures, each told apart by a comment in the file."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(min(count, 200)):
        coarse = Picture.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        levels = np.asarray(coarse.resize((640, 480), Picture.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-14, 15, levels.shape[:2], dtype=np.int16)[..., None]
        buffer = io.BytesIO()
        Picture.fromarray((levels + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=72)
        drawn.append(buffer.getvalue())
    for number in range(count):
        data, note = drawn[number % len(drawn)], f"{number:09}".encode()
        yield data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]


def pictures(folder: Path, count: int) -> list[tuple[str, int, int]]:
    """Writes the tar; (digest, offset, bytes) of each member."""
    found = []
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for number, data in enumerate(jpegs(count)):
            info = tarfile.TarInfo(f"{number:09}.jpg")
            info.size = len(data)
            offset = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(info, io.BytesIO(data))
            found.append((hashlib.sha256(data).hexdigest(), offset, len(data)))
    return found


def rows(folder: Path, count: int, real: list[tuple[str, int, int]]) -> Iterator[dict[str, object]]:
    """The catalog's rows."""
    for number in range(count):
        there = number < len(real)
        digest, offset, size = real[number] if there else (hashlib.sha256(b"%d" % number).hexdigest(), 0, 1)
        yield {
            "id": digest,
            "source": SOURCES[number * 7 % 11 % len(SOURCES)],
            "path": str(folder / ("pictures.tar" if there else f"away/{number:09}.jpg")),
            "width": 640,
            "height": 480,
            "format": "JPEG",
            "bytes": size,
            "phash": digest[:16],
            "alt_text": f"picture {number}",
            "licence": "",
            "member": f"{number:09}.jpg" if there else "",
            "offset": offset,
            "url": "",
        }


def captions(ids: list[str], seed: int) -> Iterator[Caption | Missing]:
    """One layer; a hundredth of the images have no caption."""
    rng = random.Random(seed)
    letters = "bcdfghklmnprst"
    words = [
        "".join(rng.choice(letters) + rng.choice("aeiou") for _ in range(rng.randint(1, 4)))
        for _ in range(20_000)
    ]
    weights = list(itertools.accumulate(1 / (n + 3) for n in range(len(words))))
    sentences = []
    for _ in range(20_000):
        drawn = rng.choices(words, cum_weights=weights, k=rng.randint(9, 21))
        sentences.append(" ".join(drawn).capitalize() + ".")
    for image in ids:
        if rng.random() < 0.01:
            yield Missing(image, rng.choice(["refusal", "loop", "truncated"]), "not a caption")
            continue
        text = " ".join(rng.choices(sentences, k=rng.randint(3, 9)))
        if rng.random() < 1 / 40_000:
            text += f" A {RARE} floats above."
        flags = ("refusal:rephrased",) if rng.random() < 0.02 else ()
        usage = Usage(600, len(text) // 4)
        yield Caption(image, "", text, "made", "made@1/all", "stop", usage, 0.002, flags)


def make(folder: Path, count: int, real: int) -> Path:
    """The dataset, below `folder`."""
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    there, ids = pictures(folder, min(real, count)), []
    stream = rows(folder, count, there)
    with pq.ParquetWriter(dataset / "catalog-made.parquet", SCHEMA) as writer:
        while piece := list(itertools.islice(stream, ROWS)):
            writer.write_table(pa.Table.from_pylist(piece, schema=SCHEMA))
            ids += [str(row["id"]) for row in piece]
    digest = hashlib.sha256("".join(ids).encode()).hexdigest()
    index = {"catalog": "catalog-made.parquet", "digest": digest, "images": count}
    (dataset / INDEX).write_text(json.dumps(index))
    for seed, name in enumerate(("teacher", "captioner")):
        seal(dataset, name, {"captioner": name}, {"catalog": digest}, rows=captions(ids, seed))
    return dataset


def main() -> None:
    """Make the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--pictures", type=int, default=12_000)
    given = parser.parse_args()
    print(make(given.folder.resolve(), given.rows, given.pictures))


if __name__ == "__main__":
    main()
