"""The server of one dataset: pages, their files, and the gate in front of them."""

import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from importlib.resources import files

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sharecap.errors import SharecapError, UsageError
from sharecap.web import gallery, judging, watching
from sharecap.web.room import Room, page, printable
from sharecap.web.safety import App, Guard

_STATIC = {
    "report.css": ("sharecap.report", "templates/style.css", "text/css"),
    "view.css": ("sharecap.web", "static/view.css", "text/css"),
    "view.js": ("sharecap.web", "static/view.js", "text/javascript"),
    "htmx.js": ("sharecap.web", "static/htmx.min.js", "text/javascript"),
    "icon.svg": ("sharecap.web", "static/icon.svg", "image/svg+xml"),
}
"""Files that the browser may have, by name: a path is never looked up. The report's style is the page's."""


def make_app(room: Room, hosts: tuple[str, ...] = (), token: str = "") -> App:
    """The pages of `room` behind their gate; `hosts` () lets any name pass (the token guards then)."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await room.close()

    app = FastAPI(title="sharecap", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.room = room
    for part in (gallery, judging, watching):
        app.include_router(part.router)
    texts = {name: (files(p).joinpath(f).read_bytes(), kind) for name, (p, f, kind) in _STATIC.items()}

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in texts:
            return PlainTextResponse("No such file.", 404)
        data, kind = texts[name]
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

    @app.exception_handler(SharecapError)
    async def told(request: Request, error: SharecapError) -> Response:
        """What went wrong, in words. Where, is no business of a rater's: it may name a layer."""
        status = 400 if isinstance(error, UsageError) else 500
        if status == 500:
            print(f"sharecap: {printable(str(error))}", file=sys.stderr)
        rated = request.url.path.startswith("/rate/")
        return said(request, SharecapError(error.what, todo=error.todo) if rated else error, status)

    @app.exception_handler(RequestValidationError)
    async def senseless(request: Request, _: RequestValidationError) -> Response:
        return said(request, UsageError("that address makes no sense here"), 400)

    @app.exception_handler(HTTPException)
    async def nowhere(request: Request, error: HTTPException) -> Response:
        return said(request, SharecapError(error.detail), error.status_code)

    def said(request: Request, error: SharecapError, status: int) -> Response:
        """A page for who went to an address, the words alone for who asked from within a page."""
        text = room.named(str(error))
        if "hx-request" in request.headers or "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(printable(text), status)
        rated = request.url.path.startswith("/rate/")
        return page(request, "error.html.j2", status, text=text, rated=rated)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        """The gate cut a body that was too long, or its sender left."""
        return PlainTextResponse("Too much.", 413)

    return Guard(app, hosts, token)


def serve(app: App, listening: socket.socket) -> None:
    """Serve until interrupted."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket on which the server may listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio turns off the delay of small packets for TCP alone.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(1024)  # who comes before the server is up waits a moment
    except OSError as error:
        opened.close()
        todo = "choose another with --port, or --port 0 for a free one"
        raise UsageError(
            f"cannot listen there ({error.strerror})", where=f"{host}:{port}", todo=todo
        ) from None
    return opened
