"""What all pages of one server share, and how they are rendered: every text escaped, whatever it holds."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
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

from sharecap.errors import UsageError
from sharecap.images.dataset import disk_errors
from sharecap.web.ask import Asked
from sharecap.web.index import Index
from sharecap.web.query import Finder, Query
from sharecap.web.review import Review
from sharecap.web.runs import Trainings
from sharecap.web.thumbs import Thumbs

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML or UTF-8 cannot hold, and those that would turn round what stands after them."""

Made = TypeVar("Made")


AGAIN_S = 10.0
"""Seconds after which a builder that failed is tried again, if somebody looks: the disk may have room."""


class Builder:
    """Has the index made by a process of its own: it takes minutes of a core, and must not hold up a page."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._log, self._started = threading.Lock(), Path(), 0.0

    def __call__(self, dataset: Path, folder: Path) -> None:
        """Start it, unless it is at work or has just failed; it writes its log to `folder`."""
        with self._lock:
            ended = None if self._process is None else self._process.poll()
            failed_now = ended not in (None, 0) and time.monotonic() - self._started < AGAIN_S
            if self._process is None or (ended is not None and not failed_now):
                self._log, self._started = folder / "index.log", time.monotonic()
                command = [sys.executable, "-m", "sharecap.web.building", str(dataset)]
                with disk_errors(folder), open(self._log, "wb") as log:
                    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log}
                    own = {**os.environ, "OMP_NUM_THREADS": "1"}
                    self._process = subprocess.Popen(command, env=own, **quiet)  # type: ignore[call-overload]

    def trouble(self) -> str:
        """Why the index could not be made; "" where nothing went wrong."""
        if self._process is None or self._process.poll() in (None, 0):
            return ""
        lines = []
        with contextlib.suppress(OSError):  # the log was removed with the rest of the cache
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
    counts: dict[tuple[int, Query], int] = field(default_factory=dict)  # by the index's content

    @classmethod
    def open(cls, dataset: Path, runs: Sequence[Path] = (), models: Sequence[str] = ()) -> "Room":
        """The room of a dataset; has its index made if need be."""
        dataset, builder = dataset.resolve(), Builder()
        asked = [Asked(spec) for spec in models]
        index = Index(dataset, builder)
        thumbs, review = Thumbs(index.path.with_name("thumbs.sqlite")), Review(dataset)
        room = cls(dataset, index, Finder(index), thumbs, review, Trainings(runs), asked, builder)
        room.refresh()
        return room

    def refresh(self) -> None:
        """Have what is new taken in, and what was removed of the cache made again."""
        self.index.refresh()
        self.thumbs.refresh()

    def named(self, text: str) -> str:
        """`text` for who looks at the page: files of the dataset by their places in it."""
        return text.replace(f"{self.dataset}/", "")

    def marked(self, layer: str) -> list[int]:
        """Places of the images whose caption a person has edited, flagged or dropped."""
        return self.index.places(self.review.images(layer))

    async def close(self) -> None:
        """End what was started."""
        self.builder.stop()
        self.thumbs.close()
        self.review.close()
        for model in self.models:
            await model.close()


def room_of(request: Request) -> Room:
    """The room of the server that got the request."""
    found = request.app.state.room
    assert isinstance(found, Room)
    return found


async def form(request: Request) -> dict[str, str]:
    """The fields that a page sent."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise UsageError("too many fields") from None


def whole(text: str) -> int:
    """A number that a page sent; `UsageError` for what no page writes."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError("not a whole number", where=repr(text[:40]))
    return int(text)


def printable(text: str) -> str:
    """`text` as a page shows it."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


async def away(work: Callable[..., Made], *given: Any) -> Made:
    """Do it in a thread, off the event loop."""
    return await run_in_threadpool(work, *given)


@cache
def environment() -> Environment:
    """The template engine."""

    def safe(value: Any) -> Any:
        return printable(value) if type(value) is str else value

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
