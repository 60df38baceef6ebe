"""Asking a model about one image, with the answer as it comes: an endpoint, or a model directory.

Which models there are is said on the command line; the browser picks by number and never names an address or
a path. Nothing that is asked here is written anywhere.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sharecap.captions.captioner import Request, Sampling
from sharecap.captions.teachers.open import open_teacher
from sharecap.errors import SharecapError, UsageError
from sharecap.images.decode import decode_rgb
from sharecap.images.place import place_of, verified

if TYPE_CHECKING:
    from sharecap.captions.teachers.endpoint import Endpoint
    from sharecap.model.generation import Generator

MAX_QUESTION = 4_000
"""Characters."""


class Asked:
    """A model that can be asked. Opened with the words of the command line, loaded when it is first asked."""

    _endpoint: "Endpoint | None" = None
    _directory: Path | None = None

    def __init__(self, spec: str) -> None:
        self.spec = spec
        if not spec.startswith(("http:", "https:", "openai:", "batch:")):
            self._directory = Path(spec.removeprefix("local:"))
            if not (self._directory / "config.json").is_file():
                todo = "give http(s)://HOST/v1#MODEL, openai:MODEL, or the directory of a model"
                raise UsageError("no model there", where=self._directory, todo=todo)
            self.name = spec  # two runs' models may both lie in a folder called `model`
            return
        from sharecap.captions.teachers.endpoint import Endpoint  # an HTTP client takes a while to load

        captioner = open_teacher(spec)
        if type(captioner) is not Endpoint:
            raise UsageError(
                "only a model that answers at once can be asked", where=spec, todo="leave out batch:"
            )
        self._endpoint, self.name = captioner, captioner.name

    async def stream(self, request: Request) -> AsyncIterator[str]:
        """The answer piece by piece; `SharecapError` if there is none."""
        if not request.prompt.strip() or len(request.prompt) > MAX_QUESTION:
            raise UsageError(f"ask something, in up to {MAX_QUESTION:,} characters")
        if self._endpoint is not None:
            async for piece in self._endpoint.stream(request):
                yield piece
        else:
            async for piece in self._local(request):
                yield piece

    async def close(self) -> None:
        """Close connections."""
        if self._endpoint is not None:
            await self._endpoint.close()

    async def _local(self, request: Request) -> AsyncIterator[str]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        left = threading.Event()
        task = loop.run_in_executor(_MODELS, self._say, request, loop, pieces, left)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await task  # raises what went wrong
        finally:
            left.set()

    def _say(
        self,
        request: Request,
        loop: asyncio.AbstractEventLoop,
        pieces: "asyncio.Queue[str | None]",
        left: threading.Event,
    ) -> None:
        """In the models' thread: generate, and hand over the text as it grows until the reader has `left`."""
        said = ""

        def put(text: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # nobody reads any more, and the loop is gone
                loop.call_soon_threadsafe(pieces.put_nowait, text)

        try:
            from sharecap.model.generation import Decoding, Query

            generator = self._generator()
            picture = decode_rgb(verified(request.image), place_of(request.image))

            def heard(tokens: list[list[int]]) -> None:
                nonlocal said
                if left.is_set():
                    raise _LeftError
                ending = len(generator.cutter.ending)
                words = tokens[0][: -ending or None]  # the last ones may be the beginning of the end
                text = generator.llava.tokenizer.decode(
                    words, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                assert isinstance(text, str)
                text = text.lstrip()
                if text.startswith(said) and not text.endswith("\ufffd"):  # half a character
                    put(text[len(said) :])
                    said = text

            generator.heard = heard
            limit = request.sampling.max_tokens
            try:
                decoding = Decoding(max_new_tokens=limit, leaves_loops=True)
                (reply,) = generator.generate([Query((picture,), request.prompt)], decoding)
            finally:
                generator.heard = None
            put(reply.text[len(said) :] if reply.text.startswith(said) else "")
        except _LeftError:
            return
        finally:
            put(None)

    def _generator(self) -> "Generator":
        from sharecap.model.generation import Generator

        assert self._directory is not None
        if self._directory not in _LOADED:
            _LOADED[self._directory] = Generator.load(self._directory, batch_size=1)
        return _LOADED[self._directory]


class _LeftError(Exception):
    """Nobody reads the answer any more: the next question, or the end, need not wait for it."""


_MODELS = ThreadPoolExecutor(1, thread_name_prefix="models")
"""One thread owns all models of this process: two at a time would only halve each other's speed."""

_LOADED: "dict[Path, Generator]" = {}


async def answer(asked: Asked, request: Request) -> AsyncIterator[str]:
    """`asked.stream`, with what went wrong as the last words, for a reader who has nothing else."""
    try:
        async for piece in asked.stream(request):
            yield piece
    except SharecapError as error:
        yield f"\n[no answer: {error.what}]"


SAMPLING = Sampling(max_tokens=512)
"""For questions on the page."""
