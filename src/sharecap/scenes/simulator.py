"""A teacher to try everything with: a real HTTP server that speaks OpenAI's chat completions with images.

It recognises a picture by the digest of its pixels and tells, from the scene's truth, only what the prompt
asks for (as the prompts of the paper's Fig. 3a do), or replays a recorded answer. Asked a judge's question,
it judges captions (`judge.py`) and answers (`reviewer.py`). It must never answer about a picture that it
doesn't know, listen beyond this machine, or keep a key or pixels in its log.
"""

import asyncio
import hmac
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from aiohttp import web
from PIL import Image as Pictures

from sharecap.artifact import plain
from sharecap.errors import SharecapError, UsageError
from sharecap.scenes.batch_files import BatchFiles
from sharecap.scenes.chat_completions import (
    Question,
    RequestError,
    completion,
    digest,
    image_tokens,
    look,
    read_question,
)
from sharecap.scenes.faults import SLOW, UNANSWERED, check_faults, draw_fault, spoil
from sharecap.scenes.judge import judgement
from sharecap.scenes.language import describe
from sharecap.scenes.reviewer import review
from sharecap.scenes.world import Scene, WorldSpec, names_of, pixel_digest

HOST = "127.0.0.1"
ASKED_BY = {"text": "text", "name": "name", "style": "style", "relative": "relations"}
"""Word in a prompt -> topic that it asks for."""
MOST_BODY_BYTES = 64 * 2**20
LISTENING = "listening on "
NO_PICTURE = "There is no picture to look at."
"""What is said to a question without one that is no review form."""
NOTHING = (
    "This is a plain grey surface without any shape, sign or texture, and nothing can be made out on it."
)
"""What is said of an even mid-grey picture, as a run's canary sends it: known to every teacher that sees."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Settings:
    """What the simulated teacher knows and how well it works."""

    truth: tuple[Path, ...] = ()  # truth.jsonl of one or more worlds
    answers: tuple[Path, ...] = ()  # recorded answers, lines {"file", "pixels", "answer"}
    port: int = 0  # 0: any free one
    latency_ms: float = 0.0  # time that every answer takes
    mistakes: float = 0.0  # chance that an attribute is told wrong
    names: int | None = None  # how many of a world's names it knows, the first ones; None: all
    judge_errors: float = 0.0  # chance that a judge's verdict is one of the wrong ones
    seed: int = 0  # another seed, other words and other faults
    faults: Mapping[str, float] = field(default_factory=dict)  # fault -> probability per request
    retry_after_s: float = 1.0  # what a 429 asks its sender to wait
    require_key_env: str | None = None  # environment variable that holds the key to be sent
    log: Path | None = None  # one JSON line per request: digests and status
    batches: Path | None = None  # directory that keeps files and batches; None: no batch API
    batch_faults: Mapping[str, float] = field(default_factory=dict)  # fault -> probability, see batch_files
    batch_line_ms: float = 0.0  # time that every line of a batch takes

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The settings that `plain` made JSON of."""
        paths = {name: tuple(map(Path, fields[name])) for name in ("truth", "answers")}
        maybe = {name: Path(fields[name]) if fields[name] else None for name in ("log", "batches")}
        return cls(**{**fields, **paths, **maybe})


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Run the simulator in a process of its own; yields the base URL that ends in `/v1`.

    The process ends with the block, and also when this process dies in the middle of it. Raises
    `SharecapError` with the simulator's own words if it can't start.
    """
    command = [sys.executable, "-m", "sharecap.scenes.simulator"]
    # A session of its own: Ctrl-C stops this process first, which then has a server to finish with.
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(plain(settings)) + "\n")
        child.stdin.flush()
        line = child.stdout.readline().strip()
        if not line.startswith(LISTENING):
            raise SharecapError(line or "the teacher simulator did not start")
        yield line.removeprefix(LISTENING)
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdin.close()
        child.stdout.close()


def serve(settings: Settings) -> None:
    """Answer requests until SIGINT or SIGTERM; prints `listening on URL` once it does."""
    asyncio.run(_serve(settings))


def topics_of(prompt: str) -> frozenset[str]:
    """What a prompt asks for beyond plain objects: a topic is asked for by its word, in any case."""
    words = {word.lower() for word in re.findall(r"\w+", prompt)}
    return frozenset(topic for word, topic in ASKED_BY.items() if word in words)


class Knowledge:
    """The pictures that the teacher knows: digest of pixels -> recorded answer or scene."""

    def __init__(self, settings: Settings) -> None:
        self.recorded: dict[str, str] = {}
        self.scenes: dict[str, str] = {}  # as JSON: a world of many scenes stays small in memory
        for path in settings.truth:
            for fields in _lines(path, ("pixels", "scene")):
                self.scenes[fields["pixels"]] = json.dumps(fields["scene"])
        for path in settings.answers:
            for fields in _lines(path, ("pixels", "answer")):
                self.recorded[fields["pixels"]] = fields["answer"]
        self.names = None if settings.names is None else set(names_of(WorldSpec(names=settings.names)))
        self.pictures = sorted({*self.scenes, *self.recorded})
        if not self.pictures:
            todo = "Give --truth WORLD/truth.jsonl or --answers FILE.jsonl"
            raise UsageError("the teacher simulator knows no picture", todo=todo)

    def models(self) -> list[str]:
        """Names under which the simulator lists itself."""
        return ["scenes", "judge"] * bool(self.scenes) + ["recorded"] * bool(self.recorded)

    def knows(self, pixels: str) -> bool:
        """Whether there is an answer for this picture."""
        return pixels in self.scenes or pixels in self.recorded

    def another(self, pixels: str, rng: random.Random) -> str:
        """A picture that is not this one, where there are two."""
        others = [p for p in rng.sample(self.pictures, min(2, len(self.pictures))) if p != pixels]
        return others[0] if others else pixels

    def answer(self, pixels: str, topics: frozenset[str], rng: random.Random, mistakes: float) -> str:
        """What the teacher says about a picture; `KeyError` if it doesn't know it."""
        if pixels in self.recorded:
            return self.recorded[pixels]
        scene = self.scene(pixels)
        known = self.names is None or scene.name in self.names
        return describe(scene, topics if known else topics - {"name"}, rng, mistakes)

    def scene(self, pixels: str) -> Scene:
        """The truth of a picture; `KeyError` if it isn't known."""
        return Scene.from_json(json.loads(self.scenes[pixels]))


@dataclass(frozen=True)
class Asked:
    """A question whose picture was looked at."""

    question: Question
    width: int
    height: int
    digests: dict[str, Any]  # of prompt, pixels and request, and how often it had come before
    chance: random.Random  # what is drawn for this attempt

    @property
    def blank(self) -> bool:
        """The picture is even mid-grey all over."""
        if not self.question.image:
            return False
        grey = Pictures.new("RGB", (self.width, self.height), (128, 128, 128))
        return bool(self.digests["pixels"] == pixel_digest(grey))


class Simulator:
    """The request handlers, and the count of how often each request has come."""

    def __init__(self, settings: Settings, log: TextIO | None) -> None:
        self.settings, self.log = settings, log
        self.knowledge = Knowledge(settings)
        self.key = _required_key(settings.require_key_env)
        self.attempts: Counter[str] = Counter()

    def application(self) -> web.Application:
        """The routes; every error leaves with an OpenAI error body."""
        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[self.guard])
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.list_models)
        if (place := self.settings.batches) is not None:
            settings = self.settings
            faults, line_ms = settings.batch_faults, settings.batch_line_ms
            BatchFiles(place, self.reply, faults, settings.seed, line_ms).join(app)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the key, and turn what is raised into error bodies."""
        try:
            self.check_key(request)
            return await handler(request)
        except RequestError as error:
            return self.refuse(request, error)
        except web.HTTPException as error:
            message = f"{error.reason}: {request.method} {request.path}"
            return self.refuse(request, RequestError(message, status=error.status, code="invalid_request"))

    def check_key(self, request: web.Request) -> None:
        """Raise a 401 unless the required key was sent."""
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is not None and not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise RequestError("Incorrect API key provided.", status=401, code="invalid_api_key")

    def refuse(self, request: web.Request, error: RequestError, fault: str = "") -> web.Response:
        """The error's body and status."""
        self.note(request, status=error.status, code=error.code, fault=fault)
        return web.json_response(error.body(), status=error.status)

    def note(self, request: web.Request, **fields: Any) -> None:
        """One line in the log, with the digests that the request has got so far."""
        self.write_log({**request.get("digests", {}), **fields})

    def write_log(self, line: Mapping[str, Any]) -> None:
        """Append to the log, where there is one."""
        if self.log is not None:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()

    async def list_models(self, _: web.Request) -> web.Response:
        """GET /v1/models."""
        data = [{"id": m, "object": "model", "owned_by": "sharecap"} for m in self.knowledge.models()]
        return web.json_response({"object": "list", "data": data})

    async def complete(self, request: web.Request) -> web.Response:
        """POST /v1/chat/completions: recognise the picture, draw a fault, answer."""
        asked = self.recognise(await request.read())
        request["digests"] = asked.digests
        self.check_known(asked)
        settings, chance = self.settings, asked.chance
        fault, slow = draw_fault(settings.faults, chance), chance.random() < settings.faults.get(SLOW, 0.0)
        if settings.latency_ms > 0 or slow:
            await asyncio.sleep((settings.latency_ms or 100.0) / 1000 * (10 if slow else 1))
        if fault in UNANSWERED:
            return self.leave_unanswered(request, fault)
        told = self.tell(asked, fault)
        self.note(request, status=200, fault=fault, usage=told["usage"])
        return web.json_response(told)

    def reply(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """A batch's line: (status, body) of the answer, with the same words and faults as over HTTP."""
        digests: dict[str, Any] = {}
        try:
            asked = self.recognise(body)
            digests = asked.digests
            self.check_known(asked)
            fault = draw_fault(self.settings.faults, asked.chance)
            if fault in UNANSWERED:
                raise RequestError("The server had an error.", status=500, code="server_error")
        except RequestError as error:
            self.write_log({**digests, "status": error.status, "code": error.code, "fault": ""})
            return error.status, error.body()
        self.write_log({**digests, "status": 200, "fault": fault})
        return 200, self.tell(asked, fault)

    def recognise(self, body: bytes) -> Asked:
        """The question in a body, and what is drawn for it."""
        question = read_question(body)
        width, height, pixels = look(question.image) if question.image else (0, 0, "")
        digests = {"prompt": digest(question.prompt), "pixels": pixels}
        key = digest(json.dumps([digests, question.model, question.sampling]))
        attempt = self.attempts[key]
        self.attempts[key] += 1
        chance = random.Random(f"fault/{self.settings.seed}/{key}/{attempt}")
        return Asked(question, width, height, {**digests, "request": key, "attempt": attempt}, chance)

    def check_known(self, asked: Asked) -> None:
        """Raise a 400 for a picture that is not known."""
        if asked.question.image and not self.knowledge.knows(asked.digests["pixels"]) and not asked.blank:
            size = f"{asked.width} x {asked.height}"
            message = f"The simulated teacher does not know this picture of {size} pixels."
            raise RequestError(message, code="unknown_picture", param="messages")

    def tell(self, asked: Asked, fault: str) -> dict[str, Any]:
        """The body of an answer to which `fault` has happened."""
        question, pixels = asked.question, asked.digests["pixels"]
        # The words depend on the request alone, so a retry after a fault changes no caption.
        words = random.Random(f"words/{self.settings.seed}/{asked.digests['request']}")
        if not question.image:
            judged = judgement(question.prompt, None, words, self.settings.judge_errors)
            good = judged or review(question.prompt, words, self.settings.mistakes) or NO_PICTURE
            text, finish_reason = spoil(fault, good, question.prompt, asked.chance)
            return completion(question, text, finish_reason, 0)
        seen = self.knowledge.another(pixels, asked.chance) if fault == "blind" else pixels
        scene = self.knowledge.scene(seen) if seen in self.knowledge.scenes else None
        if (judged := judgement(question.prompt, scene, words, self.settings.judge_errors)) is not None:
            good = judged
        elif self.knowledge.knows(seen):
            good = self.knowledge.answer(seen, topics_of(question.prompt), words, self.settings.mistakes)
        else:
            good = NOTHING
        text, finish_reason = spoil(fault, good, question.prompt, asked.chance)
        # A picture that never reached the model isn't billed: the sign by which blindness can be found.
        unseen = fault == "blind" or not question.image
        for_image = 0 if unseen else image_tokens(asked.width, asked.height, question.detail)
        return completion(question, text, finish_reason, for_image)

    def leave_unanswered(self, request: web.Request, fault: str) -> web.Response:
        """A 429, a 500, or a connection that breaks off."""
        if fault == "drop":
            self.note(request, status=0, fault=fault)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault == "429":
            limit = RequestError("Rate limit reached for requests.", status=429, code="rate_limit_exceeded")
            response = self.refuse(request, limit, fault)
            response.headers["Retry-After"] = f"{self.settings.retry_after_s:g}"
            return response
        message = "The server had an error while processing your request."
        return self.refuse(request, RequestError(message, status=500, code="server_error"), fault)


def _lines(path: Path, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; `UsageError` for a file that is missing or has other lines."""
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, start=1):
                fields = json.loads(line)
                if not isinstance(fields, dict) or not all(name in fields for name in needed):
                    raise UsageError(f"a line without {' and '.join(needed)}", where=f"{path}:{number}")
                yield fields
    except OSError as error:
        raise UsageError(f"can't read the file ({error.strerror})", where=path) from None
    except ValueError:
        raise UsageError("not a JSON Lines file", where=path) from None


def _required_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UsageError("the environment variable with the required key is not set", where=variable)
    return os.environ[variable]


def _opened(log: Path | None) -> AbstractContextManager[TextIO | None]:
    try:
        return open(log, "a", encoding="utf-8") if log else nullcontext()
    except OSError as error:
        raise UsageError(f"can't write the log ({error.strerror})", where=log) from None


async def _serve(settings: Settings, until_eof: TextIO | None = None) -> None:
    """Serve until a signal or, where `until_eof` is given, until its other end is closed."""
    check_faults(settings.faults)
    for what, rate in (("mistakes", settings.mistakes), ("a judge's errors", settings.judge_errors)):
        if not 0 <= rate <= 1:
            raise UsageError(f"the rate of {what} must lie between 0 and 1", where=rate)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with _opened(settings.log) as log:
        app = Simulator(settings, log).application()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if until_eof is not None:
            loop.add_reader(until_eof, stop.set)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, settings.port).start()
            print(f"{LISTENING}http://{HOST}:{runner.addresses[0][1]}/v1", flush=True)
            await stop.wait()
        except OSError as error:
            where, todo = f"{HOST}:{settings.port}", "Choose another --port, or 0 for a free one"
            raise UsageError(f"can't listen ({error.strerror})", where=where, todo=todo) from None
        finally:
            await runner.cleanup()


def _child() -> None:
    """The process behind `serving`: settings come as a line on stdin, which stays open while it is wanted."""
    try:
        settings = Settings.from_json(json.loads(sys.stdin.readline()))
        asyncio.run(_serve(settings, until_eof=sys.stdin))
    except SharecapError as error:
        print(error, flush=True)


if __name__ == "__main__":
    _child()
