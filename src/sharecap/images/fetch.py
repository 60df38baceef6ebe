"""One image over HTTP: a bounded body from an allowed address, or a failure with a name.

It never asks a private address that the list didn't name, never follows more than a few redirects, never
inflates or stores more than the bound, and takes no image whose server forbids it (X-Robots-Tag).
"""

import asyncio
import hashlib
import socket
import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from sharecap import __version__
from sharecap.images.url_list import BadAddressError, checked, is_public, literal, wrapped

AGENT = "sharecap"
FORBIDDEN = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Words of `X-Robots-Tag` that keep an image out."""

AGAIN = frozenset({"timeout", "unreachable", "dropped", "server_error", "rate_limited"})
"""Failures of the way, not of the image: tried again, in this run and in the next."""

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
    not_found, forbidden, rate_limited, server_error, no_ai, too_large, not_an_image, empty.
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
        try:
            async with asyncio.timeout(self._limits.timeout_s):  # over all redirects
                return await self._follow(checked(url), to, way)
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

    async def _follow(self, address: yarl.URL, to: Path, way: list[yarl.URL]) -> Fetched:
        assert self._session is not None, "use as a context manager"
        while len(way) <= self._limits.redirects:
            way.append(address)
            self._refuse_private(address)
            async with self._session.get(address, allow_redirects=False) as response:
                place = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or place is None:
                    _refuse(response)
                    return await self._body(response, to)
                try:
                    address = checked(address.join(yarl.URL(place)))
                except ValueError as error:
                    raise FetchError("bad_address", f"redirect: {error}") from None
        raise FetchError("redirects", f"more than {self._limits.redirects} redirects")

    def _refuse_private(self, address: yarl.URL) -> None:
        host = address.host or ""
        if literal(host) is not None and not may_ask(host, named=host in self._allowed):
            raise FetchError("private_address", f"{host} is in a private network and not on the list")

    async def _body(self, response: aiohttp.ClientResponse, to: Path) -> Fetched:
        bound = self._limits.max_bytes
        if (response.content_length or 0) > bound:
            raise FetchError("too_large", f"{response.content_length:,} bytes, bound {bound:,}")
        inflate = _Inflate(response.headers.get("Content-Encoding", ""))
        digest, size = hashlib.sha256(), 0
        with open(to, "wb") as file:
            async for chunk in response.content.iter_chunked(_PIECE):
                for piece in inflate.pieces(chunk):
                    size += len(piece)
                    if size > bound:
                        raise FetchError("too_large", f"more than {bound:,} bytes")
                    digest.update(piece)
                    file.write(piece)
        inflate.finish()
        if not size:
            raise FetchError("empty", "an answer of zero bytes")
        return Fetched(digest.hexdigest(), size)


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
