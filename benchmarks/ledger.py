"""A million captions in the ledger: how fast they get in, how soon a restart sends, what reading them takes.

Each measured step is a whole `sharecap` process: seconds, and the most memory it held. The images are one
small file that a million catalog rows point to. `python benchmarks/ledger.py --requests 1200000`
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fast_server import HALVES, caption, frame, half
from PIL import Image as Picture

from sharecap.captions.captioner import DEFAULT_SAMPLING
from sharecap.captions.ledger import Ledger, connect
from sharecap.captions.plan import Job, Plan
from sharecap.captions.run import plan
from sharecap.images.catalog import SCHEMA, Catalog
from sharecap.images.dataset import INDEX, LEDGER
from sharecap.records import Image, Usage

PACK, MODEL = "sharegpt4v", "model"
USAGE = Usage(1100, 220)


def text_of(number: int) -> str:
    """A caption that no other request has; gates find nothing that neighbours share."""
    return half(number % HALVES)[1:] + half(HALVES + (7 * number + number // HALVES) % HALVES)


def make_dataset(dataset: Path, count: int) -> None:
    """A catalog of `count` images; only the last one's id is that of the file's bytes."""
    dataset.mkdir()
    file = dataset.parent / "picture.jpg"
    Picture.effect_noise((64, 64), 60).convert("RGB").save(file)
    size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    table = dataset / "catalog-benchmark.parquet"
    with pq.ParquetWriter(table, SCHEMA, compression="zstd") as writer:
        for start in range(0, count, 10_000):
            ids = [
                hashlib.sha256(f"image {n}".encode()).hexdigest()
                for n in range(start, min(count, start + 10_000))
            ]
            if start + 10_000 >= count:
                ids[-1] = digest
            rows = [asdict(Image(i, "coco", str(file), 64, 64, "JPEG", size, i[:16])) for i in ids]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    index = {"kind": "dataset", "version": 1, "catalog": table.name, "digest": "0" * 64, "images": count}
    (dataset / INDEX).write_text(json.dumps(index))


def jobs_of(wanted: Plan) -> Iterator[Job]:
    """All but the last."""
    every = (job for jobs in wanted.jobs() for job in jobs)
    return islice(every, len(wanted.catalog) - 1)


async def book(ledger: Ledger, jobs: Iterator[Job], workers: int) -> int:
    """Book requests as a run does, sent and then done; how many."""
    booked = 0

    async def work() -> None:
        nonlocal booked
        for job in jobs:
            await ledger.sent(job.key, job.image.id, MODEL, job.prompt.id, 0.02)
            booked += 1
            await ledger.done(job.key, text_of(booked), "stop", USAGE, 0.005)

    await asyncio.gather(*(work() for _ in range(workers)))
    return booked


def fill(path: Path, jobs: Iterator[Job]) -> None:
    """The rest, in bulk: what is measured is reading it."""
    db = connect(path)
    db.execute("PRAGMA synchronous = OFF")
    number = db.execute("SELECT count(*) FROM requests").fetchone()[0]
    while piece := list(islice(jobs, 20_000)):
        rows, texts = [], []
        for job in piece:
            number += 1
            rows.append((number, job.key, job.image.id, MODEL, job.prompt.id, 0.005, 1100, 220, time.time()))
            texts.append((number, text_of(number)))
        with db:
            db.executemany(
                "INSERT INTO requests (id, key, image_id, model, prompt_id, state, attempts, cost_usd, "
                "prompt_tokens, completion_tokens, finish_reason, changed_at) "
                "VALUES (?, ?, ?, ?, ?, 'done', 1, ?, ?, ?, 'stop', ?)",
                rows,
            )
            db.executemany("INSERT INTO texts VALUES (?, ?)", texts)
    db.close()


def forget_last(dataset: Path) -> None:
    """Let the one request that a run in this folder had answered be open again."""
    catalog = Catalog.open(dataset)
    last = next(catalog.chosen(bytes(len(catalog) - 1) + b"\1"))
    with contextlib.closing(sqlite3.connect(dataset / LEDGER)) as db, db:
        of_last = "SELECT id FROM requests WHERE image_id = ?"
        db.execute(f"DELETE FROM texts WHERE id IN ({of_last})", (last.id,))
        db.execute("DELETE FROM requests WHERE image_id = ?", (last.id,))


class First(BaseHTTPRequestHandler):
    """Notes when the first request comes, and how much memory and processor time its sender took by then."""

    at, peak_mib, cpu_s, sender = 0.0, 0.0, 0.0, 0

    def do_POST(self) -> None:
        First.at = time.perf_counter()
        status = Path(f"/proc/{First.sender}/status").read_text()
        First.peak_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
        user, system = Path(f"/proc/{First.sender}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        First.cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(frame(caption(0)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measured(name: str, words: list[str]) -> tuple[float, float, float]:
    """Run `sharecap` with these words: when it began, its seconds, its peak in MiB.

    The peak is a bound from above: Linux counts this process too, as it stood when the other was started.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "sharecap.cli", *words], stdout=subprocess.DEVNULL)
    First.sender = process.pid
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} failed")
    return began, time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print what each step took; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_200_000)
    parser.add_argument("--booked", type=int, default=50_000, help="of them, booked as a run does it")
    parser.add_argument("--place", type=Path, help="folder to work in; kept")
    asked = parser.parse_args()
    place = asked.place or Path(tempfile.mkdtemp())
    place.mkdir(exist_ok=True)
    dataset = place / "dataset"
    found: dict[str, float] = {}

    def tell(name: str, value: float, unit: str) -> None:
        found[f"{name}, {unit}"] = round(value, 1)
        print(f"{name:52}{value:>12,.1f} {unit}", flush=True)

    server = ThreadingHTTPServer(("127.0.0.1", 0), First)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    teacher = f"http://127.0.0.1:{server.server_port}/v1#{MODEL}"
    if not dataset.exists():
        make_dataset(dataset, asked.requests)
        wanted = plan(dataset, teacher, PACK, sampling=DEFAULT_SAMPLING)
        jobs = jobs_of(wanted)
        with Ledger(dataset / LEDGER) as ledger:
            clock = time.perf_counter()
            booked = asyncio.run(book(ledger, islice(jobs, asked.booked), 500))
        tell("requests booked, sent and then done", booked / (time.perf_counter() - clock), "per s")
        fill(dataset / LEDGER, jobs)
    forget_last(dataset)
    tell("finished requests", len(Catalog.open(dataset)) - 1, "")
    tell("ledger", (dataset / LEDGER).stat().st_size / 1e6, "MB")

    shutil.rmtree(dataset / "layers", ignore_errors=True)
    words = ["caption", str(dataset), "--teacher", teacher, "--layer", "one", "--price", "2.5,10"]
    began, seconds, peak = measured("caption", [*words, "--budget", "1000000"])
    tell("restart to first request", First.at - began, "s")
    tell("of that on the processor", First.cpu_s, "s")
    tell("memory held by then", First.peak_mib, "MiB")
    tell("first request to sealed layer", began + seconds - First.at, "s")
    tell("most memory of restart and seal", peak, "MiB")
    for name, words in (
        ("stats", ["stats", str(dataset)]),
        ("export llava", ["export", str(dataset), "--format", "llava", "--out", str(place / "out.json")]),
    ):
        _, seconds, peak = measured(name, words)
        tell(name, seconds, "s")
        tell(f"{name}, most memory", peak, "MiB")
    if not asked.place:
        shutil.rmtree(place)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
