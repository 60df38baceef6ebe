"""A captioner that is a model directory on this machine: the trained captioner (paper, section 3.2).

Requests that wait at the same time are answered in one call, by one worker thread that owns the writers: more
of them than are written at a time, so that a caption that ends makes room for another. A caption that begins
to go round in circles is led out of them, and a captioner that was trained to abstain leaves out what names
it isn't sure of (`names.py`). A picture or words that the model can't be asked about cost that one caption:
they must never stop the others.
torch is imported when the first request comes, never before.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sharecap import artifact
from sharecap.captions.captioner import (
    ANYWHERE,
    Answer,
    FatalError,
    Place,
    RejectedError,
    Request,
    Sampling,
)
from sharecap.captions.names import sure_of
from sharecap.errors import SharecapError, UsageError
from sharecap.images.decode import ImageError, decode_rgb
from sharecap.images.place import place_of, verified

if TYPE_CHECKING:
    from PIL.Image import Image

    from sharecap.captions.teachers.writers import Writers

PIXELS = 1 << 29
"""Decoded pictures that wait for their captions: at three bytes each this is 1.5 GiB."""

READ = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.tiktoken", "merges.txt", "vocab.txt")
"""What loading reads of a model's folder: configurations, weights, tokenizer, chat template."""

Waiting = tuple[Request, "asyncio.Future[Answer]"]


class LocalCaptioner:
    """`directory` is a complete model folder; `batch_size` the captions written at a time."""

    preparation = "1:pixels, upright RGB"

    def __init__(self, directory: Path, *, batch_size: int = 64) -> None:
        if not (directory / "config.json").is_file():
            todo = "give the directory of a model that sharecap trained or saved"
            raise UsageError("not a model directory", where=directory, todo=todo)
        self.directory, self.name = directory, directory.resolve().name
        self.fingerprint = f"{self.name}:{_model_digest(directory)}"
        self._batch_size = batch_size
        self.concurrency = 4 * batch_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="captioner")
        self._writers: Writers | None = None
        self._least: float | None = None  # probability of a name that is given; None: of any
        self._waiting: list[Waiting] = []
        self._batcher: asyncio.Task[None] | None = None

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:
        """Caption one image, in a batch with whatever waits at the same time."""
        async with place:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting.append((request, future))
            if self._batcher is None or self._batcher.done():
                self._batcher = asyncio.create_task(self._work())
            return await future

    async def close(self) -> None:
        """Let go of the model."""
        if self._batcher:
            self._batcher.cancel()
        self._batcher = None
        if self._writers is not None:
            self._writers.close()
            self._writers = None

    async def _work(self) -> None:
        """Answer batches until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await _gathered(self._waiting, self.concurrency)
            sampling = self._waiting[0][0].sampling  # one call, one way of drawing
            batch = [w for w in self._waiting if w[0].sampling == sampling][: self.concurrency]
            self._waiting = [w for w in self._waiting if w not in batch]
            try:
                requests = [request for request, _ in batch]
                outcomes = await loop.run_in_executor(self._thread, self._answers, requests, sampling)
            except SharecapError as error:
                outcomes = [FatalError(error.what, where=error.where, todo=error.todo)] * len(batch)
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                raise
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Answer):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    def _answers(self, requests: Sequence[Request], sampling: Sampling) -> list[Answer | SharecapError]:
        """In the worker thread: as many pictures at a time as memory should hold."""
        outcomes: list[Answer | SharecapError] = []
        pictures: list[Image | ImageError] = []
        held = 0
        for request in requests:
            picture = _picture(request)
            pictures.append(picture)
            held += 0 if isinstance(picture, ImageError) else picture.width * picture.height
            if held >= PIXELS or len(outcomes) + len(pictures) == len(requests):
                asked = requests[len(outcomes) : len(outcomes) + len(pictures)]
                outcomes += self._written(asked, pictures, sampling)
                pictures, held = [], 0
        return outcomes

    def _written(
        self, requests: Sequence[Request], pictures: "Sequence[Image | ImageError]", sampling: Sampling
    ) -> list[Answer | SharecapError]:
        """Answers about pictures, and broken pictures' errors in their places."""
        from sharecap.captions.teachers.writers import Writers
        from sharecap.model.folder import names_at_least
        from sharecap.model.generation import Decoding, Query

        if self._writers is None:
            self._least = names_at_least(self.directory)
            self._writers = Writers(self.directory, self._batch_size)
        queries = [
            Query((picture,), request.prompt)
            for picture, request in zip(pictures, requests, strict=True)
            if not isinstance(picture, ImageError)
        ]
        decoding = Decoding(
            max_new_tokens=sampling.max_tokens,
            temperature=sampling.temperature or 0.0,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            seed=sampling.seed or 0,
            leaves_loops=True,
            chances=self._least is not None,
        )
        replies = iter(self._writers.generate(queries, decoding))
        outcomes: list[Answer | SharecapError] = []
        for picture, request in zip(pictures, requests, strict=True):
            reply = picture if isinstance(picture, ImageError) else next(replies)
            if isinstance(reply, SharecapError):
                outcomes.append(_refused(request, reply))
            else:
                text = reply.text if self._least is None else sure_of(reply.text, reply.chances, self._least)
                outcomes.append(Answer(text, reply.finish_reason, reply.usage))
        return outcomes


async def _gathered(waiting: Sequence[Waiting], enough: int) -> None:
    """Wait while more requests keep coming: the ledger releases them in groups."""
    seen = 0
    while seen < len(waiting) < enough:
        seen = len(waiting)
        await asyncio.sleep(0.01)


def _picture(request: Request) -> "Image | ImageError":
    try:
        return decode_rgb(verified(request.image), place_of(request.image))
    except ImageError as error:
        return error


def _refused(request: Request, why: SharecapError) -> SharecapError:
    """Why this one has no caption, with its picture's name: the model knows it by its place in the batch."""
    where = place_of(request.image)
    if isinstance(why, ImageError):
        return ImageError(why.reason, why.what, where, why.todo)
    return RejectedError(why.what, where=where, todo=why.todo)


def _model_digest(directory: Path) -> str:
    """What tells this model from others: the artifact's digest, or one over all files that loading reads."""
    manifest = directory / artifact.MANIFEST
    if manifest.is_file():
        return artifact.read(directory).digest
    total = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if any(map(p.match, READ))):
        total.update(
            json.dumps([path.relative_to(directory).as_posix(), artifact.file_digest(path)]).encode()
        )
    return total.hexdigest()
