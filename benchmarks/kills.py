"""`kill -9` at random moments: nothing lost, nothing paid twice but what was in flight, no budget crossed.

A run under faults (429, 500, dropped connections, refusals) is killed again and again and begun anew until it
is through; the server's own log is held against the ledger. `python benchmarks/kills.py --kills 200`
"""

import argparse
import asyncio
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from client import make_pictures
from fast_server import HALVES, Connection, caption, frame, half
from PIL import Image

from sharecap.captions.captioner import Sampling
from sharecap.captions.courier import Patience
from sharecap.captions.layer import read_layer
from sharecap.captions.price import Price
from sharecap.captions.run import run
from sharecap.errors import SharecapError, Stopped
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Usage
from sharecap.scenes.chat_completions import look
from sharecap.scenes.simulator import Settings, serving

PRICE = Price(2.5, 10)
AT_ONCE = 16
FAULTS = {"429": 0.03, "500": 0.03, "drop": 0.02, "refusal": 0.02}
STOPPED, FAILED = 3, 1
STEP_USD = 2.0
"""By so much the budget is raised when a run stops at it."""


def make_world(place: Path, count: int) -> dict[str, str]:
    """Small pictures, a dataset of them and the teacher's answers; image id -> digest of pixels."""
    pictures = place / "pictures" / "coco"
    pictures.mkdir(parents=True)
    with open(place / "answers.jsonl", "w", encoding="utf-8") as answers:
        for number in range(count):
            levels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(levels).save(file, "PNG")
            (pictures / f"{number:05}.png").write_bytes(file.getvalue())
            row = {"file": f"{number}", "pixels": look(file.getvalue())[2], "answer": caption(number * 7919)}
            answers.write(json.dumps(row) + "\n")
    add([place / "pictures"], place / "dataset")
    return {i.id: look(Path(i.path).read_bytes())[2] for i in Catalog.open(place / "dataset")}


@dataclass
class Bill:
    """What the server worked on, by its own log."""

    log: Path
    arrived: int = 0
    usd: float = 0.0
    paid: Counter[tuple[str, str]] = field(default_factory=Counter)  # (pixels, request) -> answers
    faults: Counter[str] = field(default_factory=Counter)
    _read: int = 0

    def look(self) -> float:
        """Read what is new; the whole bill in USD."""
        with open(self.log, encoding="utf-8") as lines:
            lines.seek(self._read)
            while (line := lines.readline()).endswith("\n"):
                self._read = lines.tell()
                said = json.loads(line)
                self.arrived += 1
                self.faults[said["fault"] or str(said["status"])] += 1
                if said["status"] == 200:
                    used = said["usage"]
                    self.usd += PRICE.of(Usage(used["prompt_tokens"], used["completion_tokens"]))
                    self.paid[said["pixels"], said["request"]] += 1
        return self.usd

    def twice(self) -> Counter[str]:
        """Answers beyond the first to one and the same request, by pixels."""
        extra: Counter[str] = Counter()
        for (pixels, _), answers in self.paid.items():
            extra[pixels] += answers - 1
        return extra


def caption_all(dataset: Path, url: str, budget_usd: float, seed: int) -> int:
    """One run in this process; its exit code."""
    try:
        run(
            dataset,
            f"{url}#recorded",
            "sharegpt4v",
            "one",
            concurrency=AT_ONCE,
            price=PRICE,
            budget_usd=budget_usd,
            image_tokens=300,
            sampling=Sampling(max_tokens=400),
            patience=Patience(base_s=0.02, cap_s=0.2),
            rng=random.Random(seed),
        )
    except SharecapError as error:
        if not isinstance(error, Stopped) or "budget" not in str(error):
            print(f"  {error}", flush=True)
            return FAILED
        return STOPPED
    return 0


def forked(dataset: Path, url: str, budget_usd: float, kill_after_s: float | None, seed: int) -> int | None:
    """Run in a child that is killed after a time; its exit code, None if it was killed."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            code = caption_all(dataset, url, budget_usd, seed)
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)  # a zombie, if it has ended
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code


def random_kills(place: Path, images: int, kills: int, seed: int) -> dict[str, float]:
    """Kill until there were enough kills, then let it come to its end; assert what must hold."""
    rng = random.Random(seed)
    pixels_of = make_world(place, images)
    sums: Counter[str] = Counter()
    while sums["kills"] < kills:
        sums["rounds"] += 1
        dataset, log = place / f"round-{sums['rounds']}", place / f"log-{sums['rounds']}.jsonl"
        shutil.copytree(place / "dataset", dataset)
        log.touch()
        bill, budget = Bill(log), STEP_USD
        wanted = Settings(
            answers=(place / "answers.jsonl",), faults=FAULTS, latency_ms=10, retry_after_s=0.02, log=log
        )
        with serving(wanted) as url:
            code: int | None = FAILED
            while code != 0:
                last = rng.uniform(0.02, 0.5) if sums["kills"] < kills else None
                code = forked(dataset, url, budget, last, rng.randrange(10**9))
                sums["kills"] += code is None
                sums["stops at the budget"] += code == STOPPED
                assert code != FAILED
                assert bill.look() <= budget, (bill.usd, budget)
                budget += STEP_USD * (code == STOPPED)
        check_round(dataset, bill, pixels_of, sums)
        sums["cents on the server's bill"] += round(100 * bill.usd)
        for fault, count in bill.faults.items():
            sums[f"server said {fault}"] += count
    return dict(sums)


def check_round(dataset: Path, bill: Bill, pixels_of: dict[str, str], sums: Counter[str]) -> None:
    """Nothing lost, nothing paid twice but what was in flight."""
    captions = list(read_layer(dataset, "one"))
    failures = (dataset / "layers" / "one" / "failures.jsonl").read_text().splitlines()
    assert len(captions) + len(failures) == len(pixels_of)
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        doubtful = dict(db.execute("SELECT image_id, sum(doubtful) FROM requests GROUP BY image_id"))
        spent = db.execute("SELECT total(cost_usd) + total(doubtful_usd) FROM requests").fetchone()[0]
    extra = bill.twice()
    lost = [i for i, pixels in pixels_of.items() if extra[pixels] > doubtful.get(i, 0)]
    assert not lost, f"paid twice without being booked as in flight: {lost[:3]}"
    assert bill.usd <= spent + 1e-9, (bill.usd, spent)
    sums["captions"] += len(captions)
    sums["named failures"] += len(failures)
    sums["answers paid twice, all of them in flight at a kill"] += sum(extra.values())
    sums["attempts booked as perhaps billed"] += sum(doubtful.values())


class Logged(Connection):
    """The fast server, which notes what it is asked and answered."""

    asked: list[tuple[int, float]] = []  # noqa: RUF012 - one server a process
    after: int = 0
    victim: int = 0

    def answer(self, number: int) -> None:
        """Kill the client at the `after`-th answer."""
        super().answer(number)
        if Connection.answered == Logged.after:
            os.kill(Logged.victim, signal.SIGKILL)

    def data_received(self, data: bytes) -> None:
        """Note whose body is whole."""
        super().data_received(data)
        if self.missing < 0 and self.seen:
            self.note(zlib_crc(self.seen))
            self.seen = b""

    def note(self, number: int) -> None:
        """One request is in."""
        Logged.asked.append((number, time.perf_counter()))


def zlib_crc(data: bytes) -> int:
    """The number by which the fast server knows a picture."""
    import zlib

    return zlib.crc32(data)


@contextmanager
def logged_server() -> Iterator[str]:
    """In a thread of this process; answers after 50 ms."""
    size = len(half(0)) * 2 - 1
    Connection.latency_s = 0.05
    Connection.firsts = tuple(half(n)[1:].encode() for n in range(HALVES))
    Connection.seconds = tuple(half(HALVES + n).encode() for n in range(HALVES))
    Connection.begin, Connection.end = frame("~" * size).split(b"~" * size)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Logged, "127.0.0.1", 0, backlog=1024))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def killed_at(place: Path, answers: int) -> dict[str, float]:
    """Kill a whole process at so many answers, 64 at a time, and start it again."""
    make_pictures(place / "photos", 2 * answers)
    add([place / "photos"], place / "dataset", "coco")
    with logged_server() as url:
        words = ["caption", str(place / "dataset"), "--teacher", f"{url}#fast", "--layer", "one", "--json"]
        line = [sys.executable, "-m", "sharecap.cli", *words, "--concurrency", "64"]
        Logged.after = answers
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(line, **quiet) as first:  # type: ignore[call-overload]
            Logged.victim = first.pid
        assert first.returncode == -signal.SIGKILL
        time.sleep(0.2)  # what was on its way arrives
        before = Counter(number for number, _ in Logged.asked)
        sent, began = len(Logged.asked), time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        again = Counter(number for number, _ in Logged.asked[sent:])
        assert report["captions"] == 2 * answers
        return {
            "answers when killed": answers,
            "sent again": sum(min(n, again[number]) for number, n in before.items()),
            "booked as in flight": report["in_flight"],
            "restart to first request, s": round(Logged.asked[sent][1] - began, 2),
        }


def main() -> None:
    """Print the counts; an assertion fails where something doesn't hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--images", type=int, default=2_000, help="captions of a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--answers", type=int, default=1_000, help="answers at which a whole process is killed"
    )
    asked = parser.parse_args()
    for what in (
        lambda place: random_kills(place, asked.images, asked.kills, asked.seed),
        lambda place: killed_at(place, asked.answers),
    ):
        with tempfile.TemporaryDirectory() as place:
            for name, count in what(Path(place)).items():
                print(f"{name:56}{count:>12,}")


if __name__ == "__main__":
    main()
