"""What all pages of one server share, and how they are rendered: every text escaped, whatever it holds."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from sharecap.captions.page_files import VIEW
from sharecap.web.ask import Asked
from sharecap.web.index import Index
from sharecap.web.query import Finder
from sharecap.web.review import Review
from sharecap.web.runs import Trainings
from sharecap.web.thumbs import Thumbs

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML or UTF-8 cannot hold, and those that would turn round what stands after them."""

Made = TypeVar("Made")


class Builder:
    """Has the index made by a process of its own: it takes minutes of a core, and must not hold up a page."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._log = threading.Lock(), Path()

    def __call__(self, dataset: Path) -> None:
        with self._lock:
            if self._process is None or self._process.poll() == 0:  # one that failed would fail again
                self._log = dataset / VIEW / "index.log"
                command = [sys.executable, "-m", "sharecap.web.index", str(dataset)]
                with open(self._log, "wb") as log:
                    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log}
                    own = {**os.environ, "OMP_NUM_THREADS": "1"}
                    self._process = subprocess.Popen(command, env=own, **quiet)  # type: ignore[call-overload]

    def trouble(self) -> str:
        """Why the index could not be made; "" where nothing went wrong."""
        if self._process is None or self._process.poll() in (None, 0):
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else f"its process ended with {self._process.returncode}"

    def stop(self) -> None:
        """End it; what it committed stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


@dataclass
class Room:
    """Everything that a page may use."""

    dataset: Path
    index: Index
    finder: Finder
    thumbs: Thumbs
    review: Review
    trainings: Trainings
    models: list[Asked]
    builder: Builder
    places: dict[str, int | None] = field(default_factory=dict)  # of images that were marked
    counts: dict[Any, int] = field(default_factory=dict)  # of queries, while the index is whole

    @classmethod
    def open(cls, dataset: Path, runs: Sequence[Path] = (), models: Sequence[str] = ()) -> "Room":
        """The room of a dataset; has its index made if need be."""
        dataset, builder = dataset.resolve(), Builder()
        asked = [Asked(spec) for spec in models]
        index = Index(dataset, builder)
        thumbs, review = Thumbs(dataset / VIEW / "thumbs.sqlite"), Review(dataset)
        room = cls(dataset, index, Finder(index), thumbs, review, Trainings(runs), asked, builder)
        index.refresh()
        return room

    def marked(self, layer: str) -> list[int]:
        """Places of the images whose caption a person has edited, flagged or dropped."""
        found = []
        for image in self.review.images(layer):
            if self.places.get(image) is None:  # it may be in by now
                self.places[image] = self.index.at_of(image)
            at = self.places[image]
            if at is not None:
                found.append(at)
        return found

    async def close(self) -> None:
        """End what was started."""
        self.builder.stop()
        self.thumbs.close()
        for model in self.models:
            await model.close()


def room_of(request: Request) -> Room:
    """The room of the server that got the request."""
    found = request.app.state.room
    assert isinstance(found, Room)
    return found


async def form(request: Request) -> dict[str, str]:
    """The fields that a page sent."""
    return dict(
        parse_qsl(
            (await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50
        )
    )


async def away(work: Callable[..., Made], *given: Any) -> Made:
    """Do it in a thread, off the event loop."""
    return await run_in_threadpool(work, *given)


@cache
def environment() -> Environment:
    """The template engine."""

    def safe(value: Any) -> Any:
        return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value

    made = Environment(
        loader=PackageLoader("sharecap.web"),
        autoescape=True,
        auto_reload=False,  # templates are files of the package
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=safe,
    )
    made.filters.update(
        thousands=lambda n: f"{n:,}", usd=lambda x: f"${x:,.4f}", quoted=lambda t: quote(t, safe="")
    )
    made.filters.update(span=_span)
    return made


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template."""
    key = request.scope.get("sharecap_key", "")
    text = environment().get_template(template).render(key=key, path=request.url.path, **values)
    return HTMLResponse(text, status, headers={"cache-control": "no-store"})


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
