"""One image over HTTP: a bounded body from an allowed address, or a failure with a name.

It never asks a private address that the list didn't name, never follows more than a few redirects, never
inflates or stores more than the bound, asks for nothing that the host's robots.txt forbids, and takes no
image whose server forbids it (X-Robots-Tag).
"""

import asyncio
import hashlib
import socket
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from sharecap import __version__
from sharecap.images.robots import AGENT, MOST_BYTES, Robots, addressed
from sharecap.images.url_list import BadAddressError, checked, is_public, literal, wrapped

FORBIDDEN = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Words of `X-Robots-Tag` that keep an image out."""

AGAIN = frozenset({"timeout", "unreachable", "dropped", "server_error", "rate_limited", "robots_unreachable"})
"""Failures of the way, not of the image: tried again, in this run and in the next."""

_OF_THE_HOST = frozenset({"timeout", "unreachable", "no_such_host", "private_address", "rate_limited"})
"""Failures to get a robots.txt that the image would have met too."""

ROBOTS_S, ROBOTS_REDIRECTS = 30.0, 5
"""Longest wait for a robots.txt, which is at most half of what an image may take, and its redirects."""

_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_NO_IMAGES = ("text/html", "text/css", "application/json", "application/pdf", "application/xhtml", "video/")
_PIECE = 65_536


@dataclass(frozen=True)
class Limits:
    """Bounds of a download."""

    max_bytes: int = 32 * 2**20  # of one image, inflated
    timeout_s: float = 60.0  # of one attempt, from the first byte sent to the last received
    connect_s: float = 10.0
    redirects: int = 5
    concurrency: int = 64  # requests out at a time
    per_host: int = 4  # of them to one host
    attempts: int = 3  # per address and run
    pause_s: float = 1.0  # before the second attempt; doubled for each more
    longest_wait_s: float = 60.0  # a server that asks for more is left to the next run


class FetchError(Exception):
    """Why there is no image. `kind` is one word, for counting:

    bad_address, private_address, no_such_host, unreachable, timeout, dropped, malformed, redirects,
    not_found, forbidden, rate_limited, server_error, robots, robots_unreachable, no_ai, too_large,
    not_an_image, empty.
    """

    def __init__(self, kind: str, what: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.kind, self.what, self.retry_after_s = kind, what[:300], retry_after_s
        self.elsewhere = False  # it happened at a host that a redirect led to


@dataclass(frozen=True, slots=True)
class Fetched:
    """A body on disk."""

    sha256: str
    bytes: int


class _PrivateError(OSError):
    """A public name that stands for a private address."""


class _Resolver(AbstractResolver):
    """Names become addresses that may be asked; what is connected to is just what was checked here."""

    def __init__(self, allowed: AbstractSet[str]) -> None:
        self._names, self._allowed = aiohttp.ThreadedResolver(), allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        fit = [one for one in found if may_ask(one["host"], named=host in self._allowed)]
        if not fit:
            raise _PrivateError(f"{host} is in a private network")
        return fit

    async def close(self) -> None:
        await self._names.close()


def may_ask(address: str, *, named: bool) -> bool:
    """The IP address is public, or private and `named` by the list; never one where machines keep keys."""
    ip = literal(address)
    assert ip is not None, address
    if wrapped(ip).is_link_local:  # cloud providers' metadata, with credentials in it
        return False
    return named or is_public(ip)


class Fetcher:
    """Fetches images, as a context manager. `allowed` are the private hosts that the list itself names."""

    def __init__(self, limits: Limits, allowed: AbstractSet[str]) -> None:
        self._limits, self._allowed = limits, allowed
        self._session: aiohttp.ClientSession | None = None
        self._robots = Robots(self._robots_txt, limits.attempts)

    async def __aenter__(self) -> "Fetcher":
        limits = self._limits
        self._session = aiohttp.ClientSession(
            headers={
                "User-Agent": f"{AGENT}/{__version__}",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            connector=aiohttp.TCPConnector(
                limit=0,
                resolver=_Resolver(self._allowed),
                ttl_dns_cache=300,
                keepalive_timeout=1.0,  # a list has thousands of hosts: idle connections use up the sockets
            ),
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s, sock_connect=limits.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # it is bounded here
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._robots.close()
        if self._session:
            await self._session.close()

    async def fetch(self, url: str, to: Path) -> Fetched:
        """Write the body behind `url` to the file `to`; `FetchError` if there is none to be had."""
        way: list[yarl.URL] = []
        try:
            return await self._attempt(url, to, way)
        except FetchError as error:
            error.elsewhere = len(way) > 1
            raise

    async def _attempt(self, url: str, to: Path, way: list[yarl.URL]) -> Fetched:
        with _named_failures():
            async with asyncio.timeout(self._limits.timeout_s):  # over all redirects
                async with self._answer(checked(url), way) as response:
                    _refuse(response)
                    return await self._body(response, to)

    @asynccontextmanager
    async def _answer(self, address: yarl.URL, way: list[yarl.URL]) -> AsyncIterator[aiohttp.ClientResponse]:
        """What stands at the end of the redirects; each host on the `way` must allow it."""
        while len(way) <= self._limits.redirects:
            way.append(address)
            self._refuse_private(address)
            if not await self._robots.allows(address):
                raise FetchError("robots", f"robots.txt of {address.host} forbids it")
            async with self._get(address) as response:
                if (place := _led_to(response)) is None:
                    yield response
                    return
                address = _next(address, place)
        raise FetchError("redirects", f"more than {self._limits.redirects} redirects")

    def _get(self, address: yarl.URL, **headers: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._session is not None, "use as a context manager"
        return self._session.get(address, allow_redirects=False, headers=headers)

    async def _robots_txt(self, origin: yarl.URL) -> str:
        """What the host's robots.txt says to us, "" if there is none; `FetchError` if that isn't known."""
        way: list[yarl.URL] = []
        try:
            with _named_failures():
                async with asyncio.timeout(min(ROBOTS_S, self._limits.timeout_s / 2)):
                    return addressed(await self._robots_body(origin / "robots.txt", way))
        except FetchError as error:
            # The host itself can't be reached, or the file can't, after which nothing may be asked.
            same = error.kind in _OF_THE_HOST and len(way) == 1
            kind = error.kind if same else "robots_unreachable"
            what = f"robots.txt: {error.what}"
            raise FetchError(kind, what, retry_after_s=error.retry_after_s) from None

    async def _robots_body(self, address: yarl.URL, way: list[yarl.URL]) -> bytes:
        for _ in range(ROBOTS_REDIRECTS + 1):
            way.append(address)
            self._refuse_private(address)
            async with self._get(address, Accept="text/plain, */*;q=0.5") as response:
                place = _led_to(response)
                if place is not None:
                    address = _next(address, place)
                    continue
                if response.status == 429 or response.status >= 500:
                    _refuse(response)
                if not 200 <= response.status < 300:
                    return b""
                body = bytearray()
                async for piece in _inflated(response):
                    body += piece
                    if len(body) >= MOST_BYTES:
                        break
                return bytes(body)
        return b""  # as if there were none, says the RFC

    def _refuse_private(self, address: yarl.URL) -> None:
        host = address.host or ""
        if literal(host) is not None and not may_ask(host, named=host in self._allowed):
            raise FetchError("private_address", f"{host} is in a private network and not on the list")

    async def _body(self, response: aiohttp.ClientResponse, to: Path) -> Fetched:
        bound = self._limits.max_bytes
        if (response.content_length or 0) > bound:
            raise FetchError("too_large", f"{response.content_length:,} bytes, bound {bound:,}")
        digest, size = hashlib.sha256(), 0
        with open(to, "wb") as file:
            async for piece in _inflated(response):
                size += len(piece)
                if size > bound:
                    raise FetchError("too_large", f"more than {bound:,} bytes")
                digest.update(piece)
                file.write(piece)
        if not size:
            raise FetchError("empty", "an answer of zero bytes")
        return Fetched(digest.hexdigest(), size)


@contextmanager
def _named_failures() -> Iterator[None]:
    """What goes wrong with a request, as `FetchError`."""
    try:
        yield
    except BadAddressError as error:
        raise FetchError("bad_address", str(error)) from None
    except TimeoutError:
        raise FetchError("timeout", "no answer in time") from None
    except aiohttp.ClientConnectorDNSError as error:
        raise _unresolved(error.os_error) from None
    except aiohttp.ClientConnectorError as error:
        raise FetchError("unreachable", f"cannot connect ({error.os_error})") from None
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, ConnectionError) as error:
        raise FetchError("dropped", f"connection lost ({error or type(error).__name__})") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise FetchError("malformed", f"no HTTP answer ({error or type(error).__name__})") from None


def _led_to(response: aiohttp.ClientResponse) -> str | None:
    """Where a redirect leads; None for any other answer."""
    return response.headers.get("Location") if response.status in (301, 302, 303, 307, 308) else None


def _next(address: yarl.URL, place: str) -> yarl.URL:
    try:
        return checked(address.join(yarl.URL(place)))
    except ValueError as error:
        raise FetchError("bad_address", f"redirect: {error}") from None


async def _inflated(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body piece by piece, its encoding undone."""
    inflate = _Inflate(response.headers.get("Content-Encoding", ""))
    async for chunk in response.content.iter_chunked(_PIECE):
        for piece in inflate.pieces(chunk):
            yield piece
    inflate.finish()


class _Inflate:
    """Content-Encoding undone piece by piece, so that a bomb is noticed when it has grown past the bound."""

    def __init__(self, encoding: str) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise FetchError("malformed", f"content encoding {encoding[:20]!r}, which was not asked for")
        self._zlib = zlib.decompressobj(47) if encoding not in ("", "identity") else None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._zlib is None:
            yield chunk
            return
        try:
            while chunk and not self._zlib.eof:
                yield self._zlib.decompress(chunk, _PIECE)
                chunk = self._zlib.unconsumed_tail
        except zlib.error as error:
            raise FetchError("malformed", f"bad compression ({error})") from None

    def finish(self) -> None:
        if self._zlib is not None and not self._zlib.eof:
            raise FetchError("dropped", "the compressed body ends too soon")


def _refuse(response: aiohttp.ClientResponse) -> None:
    """Raise unless the answer promises an image that may be taken."""
    status = response.status
    after = wait_of(response.headers.get("Retry-After"))
    if status == 429:
        raise FetchError("rate_limited", "too many requests (429)", retry_after_s=after)
    if status >= 500 or status == 408:
        raise FetchError("server_error", f"status {status}", retry_after_s=after)
    if status in (404, 410):
        raise FetchError("not_found", f"status {status}")
    if status != 200:
        raise FetchError("forbidden", f"status {status}")
    if word := forbidden(response.headers.getall("X-Robots-Tag", [])):
        raise FetchError("no_ai", f"the server forbids it (X-Robots-Tag: {word})")
    kind = response.headers.get("Content-Type", "").lower()
    if kind.startswith(_NO_IMAGES):
        raise FetchError("not_an_image", f"the server sends {kind[:60]!r}")


def forbidden(values: Sequence[str]) -> str:
    """The word in `X-Robots-Tag` headers that keeps the image out; "" if it may be taken.

    A word may be addressed to one robot (`googlebot: noindex`); others' words don't count.
    """
    for value in values:
        agent = ""
        for part in value.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in _WITH_VALUES:
                agent, part = name.strip(), rest  # noqa: PLW2901 - the words after a robot's name are its
            if agent in ("", "*", AGENT) and part.strip() in FORBIDDEN:
                return part.strip()
    return ""


def wait_of(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        seconds = (
            float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time()
        )
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)


def _unresolved(error: OSError) -> FetchError:
    if isinstance(error, _PrivateError):
        return FetchError("private_address", str(error))
    if error.errno == socket.EAI_AGAIN:
        return FetchError("unreachable", "the name cannot be looked up now")
    return FetchError("no_such_host", f"no such host ({error.strerror or error})")
