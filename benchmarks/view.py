"""How the page holds a million rows: times, the server's memory, and what it serves to many at once.

    python benchmarks/view_data.py FOLDER            (once: 1.2 million rows, 12,000 pictures)
    python benchmarks/view.py FOLDER/dataset [--clients 50] [--rate 500] [--seconds 60] [--thumbs 10000]

Starts `sharecap view` as a process of its own and waits until its index is whole. Then, over HTTP on
loopback: the median of `--rounds` first pages, filters and searches; thumbnails of the first `--thumbs`
images, scrolled page by page twice, with the server's memory before and after; and `--clients` connections
that ask for thumbnails and pages of rows, nine to one, at `--rate` requests per second together.
Prints one JSON object. Memory is the resident memory of the server's process, without the process that makes
the index.
"""

import argparse
import asyncio
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import aiohttp

QUESTIONS = {
    "first page": "/?layer=teacher",
    "page 1,000 of the longest": "",
    "filter: source": "/page?layer=teacher&source=sam",
    "filter: failure, counted": "/found?layer=teacher&failure=loop",
    "filter: length, counted": "/found?layer=teacher&least=100&most=110&source=coco",
    "filter: flag, sorted by length": "/page?layer=teacher&flag=refusal%3Arephrased&order=longest",
    "search: rare word": "/page?layer=teacher&q=zeppelin",
    "search: rare word, counted": "/found?layer=teacher&q=zeppelin",
    "search: common word": "",
    "search: common word, counted": "",
    "search: common word, sorted by length": "",
    "search: two words and a filter, counted": "",
}


class Server:
    """`sharecap view` on a free port."""

    def __init__(self, dataset: Path) -> None:
        command = [sys.executable, "-m", "sharecap.cli", "view", str(dataset), "--port", "0"]
        self.clock = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found, "the server did not start"
        self.port = int(found[1])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def get(self, path: str) -> bytes:
        """The body of an answer, which must be one."""
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body[:200])
        return body

    def memory(self, what: str = "VmRSS") -> float:
        """MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def timed(server: Server, path: str, rounds: int) -> dict[str, float]:
    """Seconds of the first time, and of all."""
    spent = []
    for _ in range(rounds):
        clock = time.monotonic()
        server.get(path)
        spent.append(time.monotonic() - clock)
    return {"first_s": round(spent[0], 3), "median_s": round(statistics.median(spent), 3)}


def scrolled(server: Server, thumbs: int) -> int:
    """Ask for the thumbnails of so many images, page by page; how many there were."""
    path, seen = "/page?layer=teacher", 0
    while seen < thumbs:
        text = server.get(path).decode()
        for name in re.findall(r'src="/thumb/(\w+)"', text):
            server.get(f"/thumb/{name}")
            seen += 1
        path = re.search(r'hx-get="(/page\?[^"]+)"', text)[1].replace("&amp;", "&")  # type: ignore[index]
    return seen


async def load(
    server: Server, clients: int, rate: float, seconds: float, thumbs: list[str]
) -> dict[str, object]:
    """Requests at a fixed rate over `clients` connections; a time runs from when its request was due."""
    spent: dict[str, list[float]] = {"thumbnail": [], "rows": []}
    errors, start = 0, time.monotonic() + 0.5
    url = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:

        async def client(number: int) -> None:
            nonlocal errors
            rng = random.Random(number)
            due = start + number / rate
            while due < start + seconds:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                rows = rng.random() < 0.1
                path = f"/page?layer=teacher&inner=1&after={rng.randrange(1_000_000)}"
                try:
                    async with session.get(
                        url + (path if rows else f"/thumb/{rng.choice(thumbs)}")
                    ) as answer:
                        body = await answer.read()
                        errors += answer.status != 200 or not body
                except (aiohttp.ClientError, TimeoutError):
                    errors += 1
                spent["rows" if rows else "thumbnail"].append(time.monotonic() - due)
                due += clients / rate

        await asyncio.gather(*(client(n) for n in range(clients)))
    took = time.monotonic() - start
    all_spent = sorted(spent["thumbnail"] + spent["rows"])

    def at(times: list[float], share: float) -> float:
        return round(1000 * sorted(times)[int(share * (len(times) - 1))], 1)

    return {
        "requests": len(all_spent),
        "per_s": round(len(all_spent) / took, 1),
        "errors": errors,
        "p50_ms": at(all_spent, 0.5),
        "p99_ms": at(all_spent, 0.99),
        "rows_p99_ms": at(spent["rows"], 0.99) if spent["rows"] else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--thumbs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    server = Server(given.dataset)
    try:
        found: dict[str, object] = {"cores": os.cpu_count(), "python": platform.python_version()}
        server.get("/?layer=")
        found["first page after the command was given, s"] = round(time.monotonic() - server.clock, 2)
        while "index is being made" in server.get("/found?").decode():
            time.sleep(2)  # the server ends a connection that was idle for five
        found["index whole after, s"] = round(time.monotonic() - server.clock, 1)
        found["memory at rest, MiB"] = round(server.memory(), 1)
        words = re.findall(r'alt="([a-z]+) ', server.get("/?layer=teacher").decode(), re.IGNORECASE)
        texts = (
            " ".join(re.findall(r'dir="auto">([^<]+)', server.get("/?layer=teacher").decode()))
            .lower()
            .split()
        )
        common = max(set(texts), key=texts.count)
        assert words
        asked = dict(QUESTIONS)
        page = server.get("/page?layer=teacher&order=longest").decode()
        asked["page 1,000 of the longest"] = re.search(r'hx-get="(/page\?[^"]+)"', page)[1].replace(
            "&amp;", "&"
        )  # type: ignore[index]
        asked["search: common word"] = f"/page?layer=teacher&q={quote(common)}"
        asked["search: common word, counted"] = f"/found?layer=teacher&q={quote(common)}&most=5000"
        asked["search: common word, sorted by length"] = (
            f"/page?layer=teacher&q={quote(common)}&order=longest"
        )
        asked["search: two words and a filter, counted"] = (
            f"/found?layer=teacher&q={quote(common)}+{quote(texts[5])}&source=coco"
        )
        found["times"] = {name: timed(server, path, given.rounds) for name, path in asked.items()}
        found["memory after these, MiB"] = round(server.memory(), 1)
        if given.thumbs:
            clock = time.monotonic()
            seen = scrolled(server, given.thumbs)
            made, between = time.monotonic() - clock, server.memory()
            scrolled(server, given.thumbs)
            found["thumbnails"] = {
                "scrolled": seen,
                "made_s": round(made, 1),
                "memory after once, MiB": round(between, 1),
                "memory after twice, MiB": round(server.memory(), 1),
            }
        names = re.findall(r'src="/thumb/(\w+)"', server.get("/page?layer=teacher").decode())
        if given.seconds:
            found["load"] = asyncio.run(load(server, given.clients, given.rate, given.seconds, names))
        found["most memory, MiB"] = round(server.memory("VmHWM"), 1)
        print(json.dumps(found, indent=1))
    finally:
        server.process.terminate()
        server.process.wait()


if __name__ == "__main__":
    main()
