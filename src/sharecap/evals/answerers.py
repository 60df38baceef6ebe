"""Something that answers questions about images: a model directory in batches, or an endpoint.

Neither knows of benchmarks, and neither may hand out a text that the model did not give: an item without an
answer is an error, and what was answered before it is kept.
"""

import asyncio
import contextlib
import gc
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from sharecap.records import NO_IMAGE

if TYPE_CHECKING:
    from sharecap.captions.courier import Patience
    from sharecap.model.generation import Generator
    from sharecap.model.pixels import Pixels

Done = Callable[[Sequence[tuple[int, str, float]]], None]
"""Takes index, text and seconds of answers, as soon as they are there; those that came together, together."""


@dataclass(frozen=True)
class Ask:
    """One question. Decoding is greedy."""

    images: tuple[Path, ...]
    text: str
    max_new_tokens: int
    pads: bool = True  # the picture is padded to a square; else its middle square is cut out
    choices: tuple[str, ...] = ()  # where given: the answer is the loss of each, as a JSON list

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


DECODERS = 4
"""Threads that get pictures ready; decoding lets go of the interpreter."""


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

        generator = Generator.load(self.directory, batch_size=self.batch_size, alone=False)  # short replies
        gc.freeze()  # else a collection looks through all of torch, longer than the runner takes
        return generator

    def answer(self, asks: Sequence[Ask], done: Done) -> None:
        """Answer in batches, in the given order; the next batches' pictures are decoded meanwhile."""
        slices = list(_slices(asks, self.slices * self.batch_size))
        with ThreadPoolExecutor(DECODERS, thread_name_prefix="pictures") as pool:
            for batch, after in zip(slices, [*slices[1:], []], strict=True):
                clock = time.monotonic()
                self._generator.frame(pads=asks[batch[0]].pads)
                if after and asks[after[0]].pads == asks[batch[0]].pads:
                    ahead = iter(dict.fromkeys(str(path) for i in after for path in asks[i].images))
                    for _ in range(DECODERS):
                        pool.submit(self._decode, self._generator.pixels, ahead)
                texts = self._texts([asks[i] for i in batch])
                seconds = (time.monotonic() - clock) / len(batch)
                done([(i, text, seconds) for i, text in zip(batch, texts, strict=True)])

    @staticmethod
    def _decode(pixels: "Pixels", paths: Iterator[str]) -> None:
        """Get pictures ready, one after the other; several threads share what is left of them."""
        for path in paths:
            with contextlib.suppress(SharecapError):  # an error when its turn comes
                pixels.resized(path)

    def _texts(self, asks: Sequence[Ask]) -> list[str]:
        """Answers to questions that are put alike."""
        from sharecap.model.generation import Decoding, Query

        queries = [Query(ask.images, ask.text) for ask in asks]
        if asks[0].choices:
            from sharecap.model.ranking import losses

            ranked = losses(self._generator, queries, [ask.choices for ask in asks])
            return [json.dumps(one) for one in ranked]
        decoding = Decoding(max_new_tokens=asks[0].max_new_tokens)
        return [reply.text for reply in self._generator.generate(queries, decoding)]


def _slices(asks: Sequence[Ask], size: int) -> Iterator[list[int]]:
    """Indexes of runs of questions that are put alike, `size` at most."""

    def how(i: int) -> tuple[int, bool, bool]:
        return asks[i].max_new_tokens, asks[i].pads, bool(asks[i].choices)

    for _, group in itertools.groupby(range(len(asks)), key=how):
        run = list(group)
        for first in range(0, len(run), size):
            yield run[first : first + size]


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
        """Keep `concurrency` questions in flight; an endpoint that stays away ends the run at once.

        `UsageError` for what only a model's own numbers can tell: losses, and pictures cut otherwise.
        """
        todo = "give a model directory"
        if any(ask.choices for ask in asks):
            raise UsageError("an endpoint tells no likelihoods", where=self.name, todo=todo)
        if not all(ask.pads for ask in asks):
            raise UsageError("an endpoint prepares pictures by itself", where=self.name, todo=todo)
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
                    done([(i, text, time.monotonic() - clock)])

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
        assert len(ask.images) <= 1, "endpoints are asked about one image, or none"
        sampling = Sampling(max_tokens=ask.max_new_tokens, temperature=0.0)
        image = loose_file(ask.images[0], ask.image_ids[0]) if ask.images else NO_IMAGE
        request = Request(image, ask.text, sampling)
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
        done([(i, self.text, 0.0) for i in range(len(asks))])


class Blind:
    """A model that is asked the same questions and shown no image (MMStar, arXiv 2403.20330, section 3.3)."""

    def __init__(self, model: Answerer) -> None:
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
