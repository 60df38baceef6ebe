"""A chat-completions server in a thread that says its answer piece by piece, as the model's name asks."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

WORDS = ["A ", "red ", "boat", " – ", "<b>so</b>."]


@dataclass
class Speaker:
    """`asked` holds the bodies that came in; `go` lets the words after the second one out."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if body["model"] == "plain":  # a server that knows no streams
            said = {"choices": [{"message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]}
            return web.json_response(said)
        if body["model"] == "refusing":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for number, word in enumerate(WORDS):
            if number == 2:
                await asyncio.get_running_loop().run_in_executor(None, self.go.wait, 30)
            chunk: Any = (
                {"choices": [{"delta": {"content": word}}]} if body["model"] != "broken" else ["what"]
            )
            if body["model"] == "failing" and number == 3:
                chunk = {"error": {"message": "out of memory", "code": 500}}
            await answer.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await answer.write(b'data: {"choices": []}\n\ndata: [DONE]\n\n')
        return answer


@contextlib.contextmanager
def speaking() -> Iterator[Speaker]:
    """The server, until the end of the block."""
    speaker, loop, ready = Speaker(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", speaker.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        speaker.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield speaker
    finally:
        speaker.go.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
