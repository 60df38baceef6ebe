"""A real web server on loopback that serves images, with a fault by the address that is asked."""

import asyncio
import gzip
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from .test_duplicates import scene
from .test_overlap import encoded

Handler = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


@dataclass
class Site:
    """A web server on loopback that counts what it was asked."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    robots: "bytes | Handler | None" = None  # its robots.txt, or who answers for it; None: it has none
    asked_robots: int = 0
    out: int = 0
    most_out: int = 0

    def __call__(self, path: str) -> str:
        return f"{self.url}/{path}"


def png(seed: int) -> bytes:
    return encoded(scene(seed, 64))


async def answer(request: web.Request, nth: int) -> web.StreamResponse:  # noqa: PLR0911, PLR0912
    """What the site does with /FAULT/ARGUMENT."""
    fault, _, argument = request.path[1:].partition("/")
    match fault:
        case "image":
            return web.Response(body=png(int(argument)), content_type="image/png")
        case "untyped":
            return web.Response(body=png(int(argument)), content_type="application/octet-stream")
        case "slow":
            await asyncio.sleep(30)
        case "status":
            return web.Response(status=int(argument))
        case "once":  # fails once with that status
            return web.Response(status=int(argument)) if nth == 1 else web.Response(body=png(int(argument)))
        case "busy":
            late = {"Retry-After": argument}
            return web.Response(status=429, headers=late) if nth == 1 else web.Response(body=png(7))
        case "drop":
            assert request.transport is not None
            request.transport.abort()
        case "short":  # promises more than it sends
            response = web.StreamResponse(headers={"Content-Length": "100000", "Content-Type": "image/png"})
            await response.prepare(request)
            await response.write(png(1)[:500])
            assert request.transport is not None
            request.transport.close()
            return response
        case "endless":
            response = web.StreamResponse(headers={"Content-Type": "image/png"})
            await response.prepare(request)
            while True:
                await response.write(b"\x89PNG" * 10_000)
        case "promised":
            return web.Response(body=b"x" * 300_000, content_type="image/png")
        case "bomb":
            packed = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip.compress(bytes(50_000_000), 9), headers=packed)
        case "gzip":
            packed = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip.compress(png(int(argument))), headers=packed)
        case "cutgzip":
            packed = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip.compress(png(1))[:-20], headers=packed)
        case "brotli":
            return web.Response(body=b"?", headers={"Content-Encoding": "br", "Content-Type": "image/png"})
        case "html":
            return web.Response(text="<html>no longer here", content_type="text/html")
        case "liar":
            return web.Response(text="<html>no longer here", content_type="image/jpeg")
        case "svg":
            return web.Response(
                body=b"<svg xmlns='http://www.w3.org/2000/svg'/>", content_type="image/svg+xml"
            )
        case "empty":
            return web.Response(body=b"", content_type="image/png")
        case "robots":
            return web.Response(body=png(1), headers={"X-Robots-Tag": argument, "Content-Type": "image/png"})
        case "to":
            return web.Response(status=302, headers={"Location": request.query["at"]})
        case "round":
            return web.Response(status=302, headers={"Location": f"/round/{int(argument) + 1}"})
    return web.Response(status=404)


@contextmanager
def serving(handler: Handler = answer) -> Iterator[Site]:
    site, ready = Site(), threading.Event()
    loop, enough = asyncio.new_event_loop(), asyncio.Event()

    async def counted(request: web.Request) -> web.StreamResponse:
        if request.path == "/robots.txt":
            site.asked_robots += 1
            if callable(site.robots):
                return await site.robots(request, site.asked_robots)
            return web.Response(status=404) if site.robots is None else web.Response(body=site.robots)
        site.asked[request.path[1:]] += 1
        site.out += 1
        site.most_out = max(site.most_out, site.out)
        try:
            return await handler(request, site.asked[request.path[1:]])
        finally:
            site.out -= 1

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{rest:.*}", counted)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await enough.wait()
        await runner.cleanup()
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield site
    finally:
        loop.call_soon_threadsafe(enough.set)
        thread.join()
        loop.close()
