"""A real chat-completions server in a thread, with faults by script and a log of what it was asked."""

import asyncio
import base64
import hashlib
import json
import threading
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
        body = await request.json()
        image, text = body["messages"][0]["content"]
        head, _, data = image["image_url"].pop("url").partition(",")
        digest = hashlib.sha256(base64.b64decode(data)).hexdigest()
        key = request.headers.get("Authorization")
        nth = self.counts()[digest] + 1
        seen = Seen(digest, head[5:].partition(";")[0], text["text"], body, key, nth, len(self.log) + 1)
        self.log.append(seen)
        action, _, argument = self.script(seen).partition("=")
        if action == "slow":
            await asyncio.sleep(float(argument))
        elif action == "drop":
            assert request.transport is not None
            request.transport.close()
        elif action == "redirect":
            raise web.HTTPFound(argument)
        elif action == "raw":
            return web.Response(text=argument, content_type="application/json")
        elif action == "huge":
            return web.Response(body=b"x" * 5_000_000)
        elif action == "busy":
            return web.json_response(
                {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": argument}
            )
        elif action.isdigit():
            error = {"message": f"no: {key}", "code": argument or None}
            return web.json_response({"error": error}, status=int(action))
        self.answered[digest] += 1
        self.on_answer(self)
        return web.json_response(completion(action, argument, seen))


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
