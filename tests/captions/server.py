"""A real chat-completions server in a thread, with faults by script and a log of what it was asked."""

import asyncio
import base64
import contextlib
import hashlib
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Script = Callable[["Seen"], str]
LOOP = "a red boat on the water and " * 12
USAGE = {"prompt_tokens": 100, "completion_tokens": 50}


@dataclass(frozen=True)
class Seen:
    """One request, as it arrived."""

    image: str  # sha256 of the image's bytes
    media_type: str
    prompt: str
    body: dict[str, Any]  # without the image
    key: str | None
    nth: int  # 1 for the first request about this image
    number: int  # 1 for the first request of all
    raw: bytes = field(default=b"", repr=False)  # the body, byte for byte


@dataclass
class Teacher:
    """What the server does is what `script` says: "ok", a fault's name, or "NAME=ARGUMENT"."""

    script: Script = lambda _: "ok"
    log: list[Seen] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    out: int = 0  # requests being answered now
    most_out: int = 0
    url: str = ""
    on_answer: Callable[["Teacher"], None] = lambda _: None
    ready: Callable[["Teacher"], bool] = lambda _: True  # answers wait until it is

    def counts(self) -> Counter[str]:
        """How often each image was asked about."""
        return Counter(seen.image for seen in self.log)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            return await self._answer(request)
        finally:
            self.out -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        image, text = body["messages"][0]["content"]
        head, _, data = image["image_url"].pop("url").partition(",")
        digest = hashlib.sha256(base64.b64decode(data)).hexdigest()
        key = request.headers.get("Authorization")
        nth = self.counts()[digest] + 1
        seen = Seen(digest, head[5:].partition(";")[0], text["text"], body, key, nth, len(self.log) + 1, raw)
        self.log.append(seen)
        action, _, argument = self.script(seen).partition("=")
        if action == "slow":
            await asyncio.sleep(float(argument))
        elif action == "drop":
            assert request.transport is not None
            request.transport.close()
        elif action == "redirect":
            raise web.HTTPFound(argument)
        elif action == "busy":
            return web.json_response(
                {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": argument}
            )
        elif action.isdigit():
            error = {"message": f"no: {key}", "code": argument or None}
            return web.json_response({"error": error}, status=int(action))
        elif odd := await _odd(request, action, argument):
            return odd
        while not self.ready(self):
            await asyncio.sleep(0.01)
        self.answered[digest] += 1
        self.on_answer(self)
        return web.json_response(completion(action, argument, seen))


async def _odd(request: web.Request, action: str, argument: str) -> web.StreamResponse | None:
    """Responses with status 200 that are no answers; None for another action."""
    packed = {"Content-Encoding": "deflate"}
    if action in BODIES:
        return BODIES[action](argument)
    if action == "half":
        return await _half(request, argument)
    if action == "flood":
        return await _flood(request)
    return web.Response(body=zlib.compress(b" " * 50_000_000), headers=packed) if action == "bomb" else None


BODIES: dict[str, Callable[[str], web.Response]] = {
    "raw": lambda text: web.Response(text=text, content_type="application/json"),
    "html": lambda _: web.Response(text="<html><body>a gateway</body></html>", content_type="text/html"),
    "latin": lambda _: web.Response(body=b'{"choices": "\xe9"}', content_type="application/json"),
    "huge": lambda _: web.Response(body=b"x" * 5_000_000),
}


async def _half(request: web.Request, text: str) -> web.StreamResponse:
    """Promise more bytes than come, then close the connection."""
    response = web.StreamResponse(headers={"Content-Length": "100000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(text.encode() or b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def _flood(request: web.Request) -> web.StreamResponse:
    """Send for as long as anyone listens, up to a gigabyte."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(1_000):
            await response.write(b"x" * 1_000_000)
    return response


def completion(action: str, argument: str, seen: Seen) -> dict[str, Any]:
    words = {
        "refusal": "I'm sorry, but I can't help with that.",
        "empty": " ",
        "loop": LOOP,
        "echo": seen.prompt,
        "say": argument,
    }
    content = words.get(action, f"A picture that begins with {seen.image[:12]} and shows a boat. It is red.")
    finish = {"length": "length", "filter": "content_filter"}.get(action, "stop")
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if action == "refused":
        message = {"role": "assistant", "content": None, "refusal": "not this one"}
    usage = None if action == "nousage" else json.loads(argument) if action == "usage" else USAGE
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


@contextmanager
def serving(script: Script = lambda _: "ok") -> Iterator[Teacher]:
    """A teacher on a free port; `teacher.url` ends in `/v1`."""
    teacher, ready = Teacher(script), threading.Event()
    loop, enough = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", teacher.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        teacher.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await enough.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield teacher
    finally:
        loop.call_soon_threadsafe(enough.set)
        thread.join()
        loop.close()
