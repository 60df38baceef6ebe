"""How fast captions come in through an endpoint, and what a request costs: sharecap beside other clients.

2,000 JPEGs of about 50 KB, 64 requests at a time, a server on loopback in a process of its own. Each is a
whole process from start to exit; medians of the runs. `python benchmarks/client.py --help`
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
AT_ONCE = 64

BARE = """
import asyncio, base64, json, sys
from pathlib import Path
import aiohttp
url, folder, prompt = sys.argv[1:]
paths = iter(sorted(Path(folder).iterdir()))
async def work(session):
    for path in paths:
        image = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
        body = {"model": "fast", "messages": [{"role": "user", "content": content}], "max_tokens": 1024}
        async with session.post(url + "/chat/completions", json=body) as response:
            assert (await response.json())["choices"][0]["message"]["content"]
async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(64)))
asyncio.run(main())
"""
"""What is left when everything that makes a captioning run safe is taken away."""

CURATOR = """
import base64, sys
from pathlib import Path
import os
os.environ.update(CURATOR_DISABLE_RICH_DISPLAY="1", TELEMETRY_ENABLED="0", OPENAI_API_KEY="none")
import tiktoken
class Words:  # its vocabulary would be downloaded; counting words costs it less
    def encode(self, text, **_):
        return text.split()
tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_: Words()
from bespokelabs import curator
from datasets import Dataset
url, folder, prompt = sys.argv[1:]
class Captioner(curator.LLM):
    def prompt(self, row):
        return prompt, curator.types.Image(content=row["image"])
    def parse(self, row, answer):
        return {"path": row["path"], "caption": answer}
def rows():
    for path in sorted(Path(folder).iterdir()):
        yield {"path": str(path), "image": base64.b64encode(path.read_bytes()).decode()}
captioner = Captioner(model_name="gpt-4o-mini", backend="openai", backend_params={"base_url": url,
    "max_requests_per_minute": 1_000_000, "max_tokens_per_minute": 1_000_000_000,
    "max_concurrent_requests": 64, "require_all_responses": False})
answers = captioner(Dataset.from_generator(rows))
assert len(getattr(answers, "dataset", answers)) == len(list(Path(folder).iterdir()))
"""


@dataclass(frozen=True)
class Took:
    """One contestant's run, whole process."""

    seconds: float
    cpu_s: float
    peak_mib: float
    disk_mb: float


def make_pictures(folder: Path, count: int) -> None:
    """`count` JPEGs of about 50 KB; no two have the same bytes, many the same pixels."""
    folder.mkdir(parents=True)
    kinds = []
    for seed in range(min(20, count)):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
        noise = rng.normal(0, 14, (480, 640, 3))
        levels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / "kind.jpg", quality=58)
        kinds.append((folder / "kind.jpg").read_bytes())
    (folder / "kind.jpg").unlink()
    for number in range(count):
        comment = f"number {number:08}".encode()
        jpeg = kinds[number % len(kinds)]
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (folder / f"{number:06}.jpg").write_bytes(jpeg[:2] + marker + jpeg[2:])


@contextmanager
def serving(latency_ms: float) -> Iterator[str]:
    """The server's base URL."""
    line = [sys.executable, str(HERE / "fast_server.py"), str(latency_ms)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdin
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        server.stdin.close()
        server.wait()


def timed(line: list[str], leaves: Path, log: Path, environment: dict[str, str] | None = None) -> Took:
    """Run a process to its end. `leaves`: the folder whose growth is what it leaves on disk."""
    before = size_of(leaves)
    with open(log, "w") as out:
        clock = time.perf_counter()
        process = subprocess.Popen(line, stdout=out, stderr=out, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{line[:6]} failed:\n{log.read_text()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Took(seconds, cpu, usage.ru_maxrss / 1024, (size_of(leaves) - before) / 1e6)


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.exists() else 0


def contestants(place: Path, base: str, run: int, curator: Path | None) -> Iterator[tuple[str, Took]]:
    """Each once, on fresh places."""
    pictures, prompt = place / "pictures", "Describe this image in detail. " * 8
    log = place / "log.txt"
    yield "bare aiohttp", timed([sys.executable, "-c", BARE, base, str(pictures), prompt], place / "x", log)
    dataset = place / f"dataset-{run}"
    shutil.copytree(place / "dataset", dataset)
    words = ["caption", str(dataset), "--teacher", f"{base}#fast", "--layer", "one", "--json"]
    money = ["--price", "2.5,10", "--budget", "1000", "--concurrency", str(AT_ONCE)]
    took = timed([sys.executable, "-m", "sharecap.cli", *words, *money], dataset, log)
    made = json.loads((dataset / "layers" / "one" / "manifest.json").read_text())["metrics"]["captions"]
    assert made == len(list(pictures.iterdir())), made
    shutil.rmtree(dataset)
    yield "sharecap", took
    if curator:
        cache = place / f"curator-{run}"
        homes = {"CURATOR_CACHE_DIR": str(cache), "HF_HOME": str(cache / "hf"), "HOME": str(cache)}
        line = [str(curator), "-c", CURATOR, base, str(pictures), prompt]
        yield "curator", timed(line, cache, log, homes)
        shutil.rmtree(cache)


def main() -> None:
    """Print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[200.0, 0.0])
    parser.add_argument("--curator", type=Path, help="Python of an environment that has bespokelabs-curator")
    asked = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_pictures(place / "pictures", asked.images)
        add = [
            sys.executable,
            "-m",
            "sharecap.cli",
            "add",
            str(place / "pictures"),
            "--to",
            str(place / "dataset"),
        ]
        subprocess.run([*add, "--source", "coco"], check=True, capture_output=True)
        each = size_of(place / "pictures") / asked.images
        print(f"{asked.images:,} JPEGs of {each / 1000:.0f} KB, {AT_ONCE} at a time, {os.cpu_count()} cores")
        for latency in asked.latency_ms:
            runs: dict[str, list[Took]] = {}
            for run in range(asked.runs):
                with serving(latency) as base:
                    for name, took in contestants(place, base, run, asked.curator):
                        runs.setdefault(name, []).append(took)
            found[f"{latency:g} ms"] = show(latency, runs, asked.images)
    print(json.dumps(found))


def show(latency: float, runs: dict[str, list[Took]], images: int) -> dict[str, dict[str, float]]:
    """Print medians and what they are of the bare loop's."""
    ceiling = f" (ceiling {AT_ONCE / latency * 1000:.0f} images/s)" if latency else ""
    print(f"\nserver answers after {latency:g} ms{ceiling}")
    print(f"{'':14}{'images/s':>10}{'of bare':>9}{'ms CPU/image':>14}{'peak MiB':>10}{'MB left':>9}")
    rows: dict[str, dict[str, float]] = {}
    for name, all_took in runs.items():
        middle = {k: statistics.median(asdict(t)[k] for t in all_took) for k in asdict(all_took[0])}
        row = {
            "images_per_s": images / middle["seconds"],
            "cpu_ms": 1000 * middle["cpu_s"] / images,
            "peak_mib": middle["peak_mib"],
            "disk_mb": middle["disk_mb"],
        }
        rows[name] = row
        share = row["images_per_s"] / rows["bare aiohttp"]["images_per_s"]
        print(
            f"{name:14}{row['images_per_s']:>10.0f}{share:>9.0%}{row['cpu_ms']:>14.2f}"
            f"{row['peak_mib']:>10.0f}{row['disk_mb']:>9.1f}"
        )
    return rows


if __name__ == "__main__":
    main()
