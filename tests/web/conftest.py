"""A real server on this machine, over a small dataset with two layers."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn

from sharecap.captions.layer import write_layer
from sharecap.images.catalog import Catalog
from sharecap.records import Caption, Usage
from sharecap.web.app import listen, make_app
from sharecap.web.building import build
from sharecap.web.room import Room
from sharecap.web.safety import LOOPBACK
from tests.captions.conftest import make_dataset

SCENES = (
    "A man waves. He wears a red hat.",
    "A dog sleeps. The sofa is green.",
    "Two boats float. It rains.",
)


@dataclass
class Server:
    """A running server, and a client that is a page of it."""

    room: Room
    port: int
    key: str
    guard: object

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, fields: dict[str, object] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request; a header's `_` is a `-`. "" leaves one out."""
        sent = {"x_sharecap_key": self.key, **headers} if method == "POST" else headers
        named = {name.replace("_", "-"): value for name, value in sent.items() if value}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = urlencode(fields or {}) if method == "POST" else None
        connection.request(method, path, body, {"Connection": "close", **named})
        answer = connection.getresponse()
        found = (answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def text(self, path: str) -> str:
        """The page at `path`, which must be there."""
        status, _, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return body.decode()


def captioned(folder: Path, images: int = 12) -> Path:
    """A dataset with layers `teacher` and `captioner`; the latter has other words and one hole."""
    dataset = make_dataset(folder, images)
    rows = list(Catalog.open(dataset))
    teacher = [
        Caption(i.id, "", f"{SCENES[n % 3]} Number {n}.", "big", "p@1/all", "stop", Usage(600, 20), 0.002)
        for n, i in enumerate(rows)
    ]
    captioner = [
        Caption(i.id, "", SCENES[n % 3].replace("red", "blue") + " So it is.", "small", "p@1/all", "stop")
        for n, i in enumerate(rows[:-1])
    ]
    write_layer(dataset, "teacher", teacher)
    write_layer(dataset, "captioner", captioner)
    return dataset


@contextlib.contextmanager
def serving(dataset: Path, *, token: str = "", made: bool = True, **room: object) -> Iterator[Server]:
    """The page of a dataset, whose index is whole unless it is not `made` before."""
    if made:
        build(dataset)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    opened = Room.open(dataset, **room)
    guard = make_app(opened, LOOPBACK, token)
    config = uvicorn.Config(guard, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Server(opened, port, guard.key, guard)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return captioned(tmp_path)


@pytest.fixture
def server(dataset: Path) -> Iterator[Server]:
    with serving(dataset) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a file that change nothing."""
    with serving(captioned(tmp_path_factory.mktemp("shared"))) as running:
        yield running
