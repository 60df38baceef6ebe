"""How fast `sharecap add` takes images in, against the bare cost of reading, hashing and decoding them.

    python benchmarks/ingest.py [--images 2000] [--rounds 3] [--img2dataset VENV/bin/python]

Draws JPEGs of about 50 KB, then runs in turn, each as a whole process: one loop that reads, digests, decodes
at reduced scale and hashes them, `sharecap add` on the folder, and `sharecap add` on a tar of the same files.
With --img2dataset also both over HTTP from this machine; img2dataset decodes, encodes anew and packs a tar.
Prints images per second of processor time (user and system, of all processes, start-up included), since wall
time on shared cores says little, and the ratio of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BARE = """
import hashlib, io, sys
from pathlib import Path
import imagehash
from PIL import Image
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    hashlib.sha256(data).hexdigest()
    image = Image.open(io.BytesIO(data))
    image.draft("L", (128, 128))
    image.load()
    str(imagehash.phash(image))
"""

IMG2DATASET = """
import sys
from img2dataset import download
download(url_list=sys.argv[1], output_folder=sys.argv[2], output_format="webdataset", processes_count=1,
         thread_count=16, resize_mode="no", number_sample_per_shard=2000, compute_hash="sha256",
         disallowed_header_directives=[])
"""


def draw(folder: Path, images: int) -> int:
    """Smooth colours with some grain, 640 x 480; returns their bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    size = 0
    for number in range(images):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        levels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-14, 15, levels.shape[:2], dtype=np.int16)[..., None]
        path = folder / f"{number:06}.jpg"
        Image.fromarray((levels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=72)
        size += path.stat().st_size
    return size


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds of wall time, seconds of processor time of the process and those that it waited for)."""
    clock = time.monotonic()
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}  # or img2dataset looks for the network first
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=quiet)
    assert process.stderr
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]} failed: {said[-500:].decode(errors='replace')}")
    return time.monotonic() - clock, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--img2dataset", help="a Python that has img2dataset; it reads the files over HTTP")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        size = draw(root / "photos", given.images)
        with tarfile.open(root / "photos.tar", "w") as tar:
            tar.add(root / "photos", "photos")
        add = [sys.executable, "-m", "sharecap.cli", "add"]
        draw(root / "one", 1)
        runs: dict[str, list[tuple[float, float]]] = {"bare": [], "folder": [], "tar": []}
        starts: dict[str, list[float]] = {"bare": [], "folder": []}
        if given.img2dataset:
            runs |= {"http": [], "img2dataset": []}
        server = serve(root / "photos") if given.img2dataset else None
        try:
            for number in range(given.rounds):
                runs["bare"].append(measure([sys.executable, "-c", BARE, str(root / "photos")]))
                starts["bare"].append(measure([sys.executable, "-c", BARE, str(root / "one")])[1])
                starts["folder"].append(
                    measure([*add, str(root / "one"), "--to", str(root / f"one{number}")])[1]
                )
                for name, source in (("folder", "photos"), ("tar", "photos.tar")):
                    runs[name].append(
                        measure([*add, str(root / source), "--to", str(root / f"{name}{number}")])
                    )
                    assert catalogued(root / f"{name}{number}") == given.images
                if server:
                    urls = root / "urls.txt"
                    base = f"http://127.0.0.1:{server[1]}"
                    urls.write_text("".join(f"{base}/{n:06}.jpg\n" for n in range(given.images)))
                    runs["http"].append(measure([*add, str(urls), "--to", str(root / f"http{number}")]))
                    assert catalogued(root / f"http{number}") == given.images
                    words = [given.img2dataset, "-c", IMG2DATASET, str(urls), str(root / f"img{number}")]
                    runs["img2dataset"].append(measure(words))
                    told = [json.loads(p.read_text()) for p in (root / f"img{number}").glob("*_stats.json")]
                    assert sum(shard["successes"] for shard in told) == given.images, told
        finally:
            if server:
                server[0].kill()
    rates = {name: given.images / statistics.median(cpu for _, cpu in found) for name, found in runs.items()}
    start = {name: statistics.median(found) for name, found in starts.items()}
    after = {name: statistics.median(cpu for _, cpu in runs[name]) - start[name] for name in start}
    result = {
        "images": given.images,
        "mean_bytes": size // given.images,
        "cores": len(os.sched_getaffinity(0)),
        "images_per_cpu_second": {name: round(rate, 1) for name, rate in rates.items()},
        "of_bare": {name: round(rate / rates["bare"], 3) for name, rate in rates.items()},
        "start_cpu_seconds": {name: round(seconds, 2) for name, seconds in start.items()},
        "folder_of_bare_after_start": round(after["bare"] / after["folder"], 3),
        "wall_seconds": {name: [round(wall, 2) for wall, _ in found] for name, found in runs.items()},
        "cpu_seconds": {name: [round(cpu, 2) for _, cpu in found] for name, found in runs.items()},
    }
    print(json.dumps(result, indent=1))


def catalogued(dataset: Path) -> int:
    """How many images it has."""
    return int(json.loads((dataset / "dataset.json").read_text())["images"])


def serve(folder: Path) -> "tuple[subprocess.Popen[bytes], int]":
    """The files over HTTP on this machine, from a process of its own."""
    script = (
        "import sys; from aiohttp import web; app = web.Application()\n"
        "app.router.add_static('/', sys.argv[1])\n"
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "web.run_app(app, sock=s, print=None)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    return process, int(process.stdout.readline())


if __name__ == "__main__":
    main()
