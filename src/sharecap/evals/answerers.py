"""Something that answers questions about images: a model directory in batches, or an endpoint.

Neither knows of benchmarks, and neither may hand out a text that the model did not give: an item without an
answer is an error, and what was answered before it is kept.
"""

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sharecap import artifact
from sharecap.captions.captioner import (
    BusyError,
    Captioner,
    RejectedError,
    Request,
    Sampling,
    UnavailableError,
)
from sharecap.errors import SharecapError, UsageError
from sharecap.images.place import loose_file

if TYPE_CHECKING:
    from sharecap.captions.courier import Patience
    from sharecap.model.generation import Generator

Done = Callable[[int, str, float], None]
"""Takes index, text and seconds of one answer, as soon as it is there."""


@dataclass(frozen=True)
class Ask:
    """One question. Decoding is greedy."""

    images: tuple[Path, ...]
    text: str
    max_new_tokens: int

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """sha256 of each image's bytes."""
        return tuple(artifact.file_digest(path) for path in self.images)


class Answerer(Protocol):
    """Answers every question, in any order."""

    @property
    def name(self) -> str:
        """The model's name, as people know it."""

    @property
    def digest(self) -> str:
        """Equal digests give equal answers."""

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """Call `done` once per question; `SharecapError` if some got no answer."""


class LocalModel:
    """A model directory. Loaded when the first question comes, so a finished evaluation never loads it."""

    slices = 4
    """Batches per call of the generator: it sorts by length within them, and a kill loses at most these."""

    def __init__(self, directory: Path, batch_size: int = 64) -> None:
        if not (directory / "config.json").is_file():
            raise UsageError(
                "not a model directory", where=directory, todo="expected config.json and weights in it"
            )
        self.directory, self.batch_size = directory, batch_size
        self.name = directory.resolve().name

    @cached_property
    def digest(self) -> str:
        """Digest of the model's files."""
        if any((self.directory / name).exists() for name in (artifact.MANIFEST, artifact.STARTED)):
            return artifact.read(self.directory).digest
        return artifact.files_digest(self.directory)

    @cached_property
    def _generator(self) -> "Generator":
        from sharecap.model.generation import Generator

        return Generator.load(self.directory, batch_size=self.batch_size, alone=False)  # short replies

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """Answer in batches, in the given order."""
        from sharecap.model.generation import Decoding, Query

        for tokens, batch in _slices(asks, self.slices * self.batch_size):
            clock = time.monotonic()
            queries = [Query(asks[i].images, asks[i].text) for i in batch]
            replies = self._generator.generate(queries, Decoding(max_new_tokens=tokens))
            seconds = (time.monotonic() - clock) / len(batch)
            for i, reply in zip(batch, replies, strict=True):
                done(i, reply.text, seconds)


def _slices(asks: Sequence[Ask], size: int) -> Iterator[tuple[int, list[int]]]:
    """(max_new_tokens, indexes) of runs of questions that share the length limit, `size` at most."""
    for tokens, group in itertools.groupby(range(len(asks)), key=lambda i: asks[i].max_new_tokens):
        run = list(group)
        for first in range(0, len(run), size):
            yield tokens, run[first : first + size]


class Endpoint:
    """Any captioner, asked the benchmark's questions. Serves one evaluation."""

    def __init__(
        self, captioner: Captioner, concurrency: int = 8, patience: "Patience | None" = None
    ) -> None:
        from sharecap.captions.courier import DEFAULT_PATIENCE

        self.captioner, self.concurrency = captioner, concurrency
        self.patience = patience or DEFAULT_PATIENCE
        self.name = captioner.name
        self.digest = hashlib.sha256(captioner.fingerprint.encode()).hexdigest()

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """Keep `concurrency` questions in flight; an endpoint that stays away ends the run at once."""
        asyncio.run(self._answer(asks, done))

    async def _answer(self, asks: Sequence[Ask], done: Done) -> None:
        ahead = iter(range(len(asks)))
        refused: list[SharecapError] = []

        async def worker() -> None:
            for i in ahead:
                clock = time.monotonic()
                try:
                    text = await self._ask(asks[i])
                except RejectedError as error:
                    refused.append(error)
                else:
                    done(i, text, time.monotonic() - clock)

        workers = [asyncio.create_task(worker()) for _ in range(self.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for one in workers:  # or they would open new connections behind the closed ones
                one.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.captioner.close()
        if refused:
            what = (
                f"{len(refused)} of {len(asks)} questions were refused an answer (first: {refused[0].what})"
            )
            raise SharecapError(
                what, where=self.name, todo="the others are kept; the same command asks again"
            )

    async def _ask(self, ask: Ask) -> str:
        """The answer, after as many attempts as it takes; waits double unless the server says how long."""
        assert len(ask.images) == 1, "endpoints are asked about one image"
        sampling = Sampling(max_tokens=ask.max_new_tokens, temperature=0.0)
        request = Request(loose_file(ask.images[0], ask.image_ids[0]), ask.text, sampling)
        busy = failures = 0  # a server that is busy for long may still fail as often as any other
        while True:
            try:
                answer = await self.captioner.answer(request)
                return answer.text or answer.refusal
            except BusyError as error:
                busy += 1
                if busy >= self.patience.busy_tries:
                    raise
                wait_s = self._backoff(busy) if error.retry_after_s is None else error.retry_after_s
                wait_s = min(wait_s, self.patience.retry_after_cap_s)
            except UnavailableError:
                failures += 1
                if failures >= self.patience.tries:
                    raise
                wait_s = self._backoff(failures)
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))

    def _backoff(self, failures: int) -> float:
        return float(min(self.patience.cap_s, self.patience.base_s * 2.0 ** (failures - 1)))


class Constant:
    """Says the same to every question: what a benchmark's rule gives to no knowledge at all."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = f"constant-{text}"
        self.digest = hashlib.sha256(self.name.encode()).hexdigest()

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """The text, at once."""
        for i in range(len(asks)):
            done(i, self.text, 0.0)


class Blind:
    """A model that is asked the same questions and shown no image (MMStar, arXiv 2403.20330, section 3.3)."""

    def __init__(self, model: Answerer) -> None:
        if isinstance(model, Endpoint):
            todo = "give a model directory"
            raise UsageError("an endpoint cannot be asked without an image yet", where=model.name, todo=todo)
        self.model = model
        self.name = f"{model.name}-blind"

    @cached_property
    def digest(self) -> str:
        """Never that of the model that sees: no answer of the one may stand in for the other's."""
        return hashlib.sha256(f"{self.model.digest} blind".encode()).hexdigest()

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """The model's answers to the words alone."""
        self.model.answer([replace(ask, images=()) for ask in asks], done)


def open_answerer(model: str, *, batch_size: int = 64, concurrency: int = 8) -> Answerer:
    """A model directory (also as `local:DIRECTORY`), what `--teacher` takes, or `constant:TEXT`."""
    if model.startswith("constant:"):
        return Constant(model.removeprefix("constant:"))
    if model.startswith(("http://", "https://", "openai:")):
        from sharecap.captions.teachers import open_teacher

        return Endpoint(open_teacher(model, concurrency=concurrency), concurrency)
    return LocalModel(Path(model.removeprefix("local:")), batch_size)
