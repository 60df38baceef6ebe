"""Who may see and change what: the one gate that every request passes, as plain ASGI.

On this machine only, unless a token was set. The `Host` header must name this server, or another site could
reach it under a name of its own (DNS rebinding). What changes something needs the page's own key in a header
or field, and must not come from another site. Answers carry a policy that runs nothing but the page's files.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "sharecap"
MAX_BODY_BYTES = 100_000
LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
_OPEN = ("/static/", "/rate/")
"""Paths that need no token: files of the package, and raters' own links, which are tokens themselves."""


class Guard:
    """Wraps the app. `hosts` are the names under which it may be called; `token` "" asks for none."""

    def __init__(self, app: App, hosts: tuple[str, ...], token: str) -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.key = secrets.token_urlsafe(18)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if refusal := self._refusal(scope, headers):
            await _answer(send, *refusal)
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        scope["sharecap_key"] = self.key
        await self.app(scope, _bounded(receive), sent)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, list[Any]] | None:
        """Status, text and headers of the answer, if the request may not pass."""
        if self.hosts and _name(headers.get(b"host", b"").decode("latin-1")) not in self.hosts:
            return 421, "This server is not called that.", []
        if scope["method"] not in ("GET", "HEAD") and (why := self._foreign(headers)):
            return (*why, [])
        return self._stranger(scope, headers)

    def _foreign(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Why a request may not change anything."""
        site = headers.get(b"sec-fetch-site", b"same-origin")
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = headers.get(b"host", b"").decode("latin-1")
        if site not in (b"same-origin", b"none") or (origin and origin.split("://")[-1] != own):
            return 403, "Not from another site."
        if not _same(headers.get(b"x-sharecap-key", b"").decode("latin-1"), self.key):
            return 403, "Load the page again: it was opened before the server was started."
        if int(_digits(headers.get(b"content-length", b"0"))) > MAX_BODY_BYTES:
            return 413, "Too much."
        return None

    def _stranger(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, list[Any]] | None:
        """Why a request may not see anything, where a token is asked for."""
        path = scope["path"]
        if not self.token or path.startswith(_OPEN):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given:
            if not _same(given, self.token):
                return 401, "Wrong token. Use the link that `sharecap view` printed.", []
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Lax; Path=/"
            return 303, "", [(b"set-cookie", cookie.encode()), (b"location", b"/")]
        if not _same(_cookie(headers.get(b"cookie", b"").decode("latin-1")), self.token):
            return 401, "This page needs a token. Use the link that `sharecap view` printed.", []
        return None


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _name(host: str) -> str:
    """The host's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _digits(text: bytes) -> bytes:
    return text if text.isdigit() and len(text) < 12 else b"999999999"


def _bounded(receive: Receive) -> Receive:
    """A body that was longer than it said ends the request."""
    size = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if size > MAX_BODY_BYTES else message

    return bounded


async def _answer(send: Send, status: int, text: str, headers: list[Any]) -> None:
    body = text.encode()
    fixed = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers, *HEADERS]})
    await send({"type": "http.response.body", "body": body})
