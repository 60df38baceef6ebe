"""CPU time and peak memory of what reads whole layers: statistics, diff, merge, exports, card, takedown.

Synthetic: `--rows` images of 1 KB in one tar (shards) or as one file that all rows name (lists), captions of
about 830 characters as in the paper's 1.2M. Each command is a process of its own, as users run it. Memory is
constant if the second column of figures does not grow with the first. `python benchmarks/exports.py --help`
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

from sharecap.records import Caption, Image, Usage

SAID = "a red boat lies on the grey water of a small harbour under low clouds while two people watch"
CLAUSES = [" ".join(random.Random(n).sample(SAID.split(), 17)) for n in range(1000)]
BYTES = 1024


def image(number: int, path: Path, tar: bool) -> Image:
    """The n-th image, a member of the tar at `path` or a file of its own."""
    at = number * (BYTES + tarfile.BLOCKSIZE) + tarfile.BLOCKSIZE
    place = {"member": f"{number}.png", "offset": at} if tar else {}
    digest = hashlib.sha256(pixels(number)).hexdigest()
    source = ("coco", "sam", "llava")[number % 3]
    return Image(digest, source, str(path), 640, 480, "PNG", BYTES, "0" * 16, **place)


def pixels(number: int) -> bytes:
    """Bytes that stand for an image: nothing here decodes them."""
    return number.to_bytes(8, "big") * (BYTES // 8)


def make(root: Path, rows: int) -> None:
    """Two datasets, `listed` (with layers a and b) and `sharded` (with layer a)."""
    from sharecap.captions.layer import seal
    from sharecap.images.catalog import Catalog, publish, written

    with open(root / "images.tar", "wb") as tar:
        for number in range(rows):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = BYTES
            tar.write(info.tobuf(tarfile.USTAR_FORMAT) + pixels(number))
    (root / "one.png").write_bytes(pixels(0))
    for name, path in (("listed", root / "one.png"), ("sharded", root / "images.tar")):
        dataset = root / name
        dataset.mkdir()
        publish(written(dataset, (image(n, path, name == "sharded") for n in range(rows))))
        for layer in ("a", "b") if name == "listed" else ("a",):
            given = {"catalog": Catalog.open(dataset).digest}
            rows_of = captions(Catalog.open(dataset), layer)
            seal(dataset, layer, {"captioner": layer}, given, rows=rows_of)


def captions(images: Iterable[Image], layer: str) -> Iterator[Caption]:
    """About 150 words each; a tenth of them differ between layers."""
    for number, one in enumerate(images):
        rng = random.Random(number if number % 10 else f"{layer}{number}")
        text = " ".join(rng.choices(CLAUSES, k=10)) + "."
        yield Caption(one.id, layer, text, layer, "pack@1/coco", "stop", Usage(800, 200), 0.001)


def commands(root: Path, last: str) -> dict[str, list[object]]:
    """What is measured, in order."""
    listed, sharded = root / "listed", root / "sharded"
    said = ["--name", "x", "--licence", "cc0-1.0", "--terms", "none"]
    return {
        "stats": ["stats", listed, "--layer", "a"],
        "diff": ["diff", listed, "a", "b"],
        "merge": ["merge", listed, "a", "b", "--to", "c", "--rule", "longest"],
        "export llava": ["export", listed, "--layer", "a", "--out", root / "rows.json"],
        "export hf": ["export", sharded, "--format", "hf", "--out", root / "hf"],
        "export webdataset": ["export", sharded, "--format", "webdataset", "--out", root / "wds"],
        "card": ["card", sharded, "--to", root / "hf", *said],
        "drop": ["drop", sharded, last, "--reason", "asked"],
    }


def measured(words: list[object]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one run of Python."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    rows = parser.parse_args().rows
    print(f"{'':<20}" + "".join(f"{n:>12,} rows{'':>7}" for n in rows))
    table: dict[str, list[tuple[float, float]]] = {}
    for number in rows:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            clock = time.monotonic()
            # In a process of its own: a child's peak counts what its parent held when it was made.
            maker = get_context("spawn").Process(target=make, args=(root, number))
            maker.start()
            maker.join()
            assert maker.exitcode == 0
            print(f"made {number:,} rows in {time.monotonic() - clock:.0f} s", file=sys.stderr)
            last = hashlib.sha256(pixels(number - 1)).hexdigest()
            for name, words in commands(root, last).items():
                table.setdefault(name, []).append(measured(["-m", "sharecap.cli", *words]))
    for name, found in table.items():
        print(f"{name:<20}" + "".join(f"{s:>9.1f} s {mib:>8.0f} MiB" for s, mib in found))


if __name__ == "__main__":
    main()
