"""CPU time and peak memory of making a layer of a LLaVA list's captions, the images being in the dataset.

Synthetic: `--rows` rows with captions of about 830 characters as in the paper's 1.2M, shuffled; the images
are empty files, since none of them is read. This is what follows upon `add`, which ingest.py measures. Memory
is constant if it does not grow with the rows. `python benchmarks/given.py --help`
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from exports import captions, image, measured

from sharecap.records import Image

PROGRAM = """
import sys
from pathlib import Path
from sharecap.captions.given import keep_given
from sharecap.images.candidate import Options
dataset, listed, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
assert keep_given(dataset, listed, "given", Options()).captions == rows
"""


def make(root: Path, rows: int) -> None:
    """A dataset of so many images, and a list of them with their captions."""
    from sharecap.images.catalog import Catalog, publish, written

    for number in range(rows):
        file = path_of(root, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    dataset = root / "dataset"
    dataset.mkdir()
    publish(written(dataset, images(root, rows)))
    order = list(range(rows))
    random.Random(0).shuffle(order)
    lines = [b""] * rows
    for number, caption in enumerate(captions(Catalog.open(dataset), "a")):
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": caption.text}]
        name = str(path_of(root, number).relative_to(root))
        lines[order[number]] = json.dumps({"id": name, "image": name, "conversations": turns}).encode()
    with open(root / "rows.json", "wb") as file:
        file.write(b"[" + b",\n".join(lines) + b"]")


def path_of(root: Path, number: int) -> Path:
    return root / f"{number // 1000:06}" / f"{number}.png"


def images(root: Path, rows: int) -> Iterator[Image]:
    for number in range(rows):
        file = path_of(root.resolve(), number)
        yield replace(image(number, file, tar=False), path=str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            # In a process of its own: a child's peak counts what its parent held when it was made.
            maker = get_context("spawn").Process(target=make, args=(root, rows))
            maker.start()
            maker.join()
            assert maker.exitcode == 0
            seconds, mib = measured(["-c", PROGRAM, root / "dataset", root / "rows.json", rows])
            print(f"{rows:>12,} rows {seconds:>9.1f} s {mib:>8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
