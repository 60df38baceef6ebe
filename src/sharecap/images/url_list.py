"""Lists of image addresses: text with one per line, or CSV, TSV and Parquet with a column of them.

Rows are read one after the other and never held; what stands in a list is hostile until it is checked.
"""

import csv
import functools
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import yarl

from sharecap.errors import SharecapError, UsageError
from sharecap.images.candidate import ALT_TEXT, LICENCE, URL, Options, clean
from sharecap.images.table import IMAGES, PATHS

SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")
MAX_ADDRESS = 8_192
"""Characters; a longer address is a mistake."""

MAX_CELL = 2**20
"""Characters of a cell of text."""

ROWS = 2_000
"""Rows of a Parquet file in memory at a time."""

_PRIVATE_ENDS = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list."""

    url: str
    source: str
    alt_text: str = ""
    licence: str = ""


def is_url_list(path: Path) -> bool:
    """The file lists addresses; a Parquet file does if it has a column of them and none of images."""
    suffix = path.suffix.lower()
    if suffix != ".parquet" or not path.is_file():
        return suffix in SUFFIXES
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    images = _named(schema.names, (*IMAGES, *PATHS)) is not None
    images |= any(pa.types.is_struct(f.type) or pa.types.is_binary(f.type) for f in schema)
    return not images and _named(schema.names, URL) is not None


def read_list(path: Path, options: Options) -> Iterator[Listed]:
    """The rows of a list, in its order; `UsageError` if it has no column of addresses.

    Without `options.source` and `options.source_column` the source is the list's own name.
    """
    try:
        rows = _parquet(path, options) if path.suffix.lower() == ".parquet" else _text(path, options)
        for url, source, alt_text, licence in rows:
            name = options.source or (clean(source) if source else "") or path.stem
            words = clean(alt_text) if alt_text else "", clean(licence)[:1000] if licence else ""
            yield Listed(_SECRET.sub(r"\1***@", clean(url)), name, *words)
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise SharecapError(f"cannot read the list ({error})", where=path) from None


_SECRET = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/?#]*@", re.IGNORECASE)
"""Name and password in an address: it is refused, and what they are is kept nowhere."""

_Cells = tuple[object, object, object, object]


def _text(path: Path, options: Options) -> Iterator[_Cells]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        if path.suffix.lower() == ".txt":
            for line in file:
                if line.strip() and not line.startswith("#"):
                    yield line.strip(), "", "", ""
            return
        csv.field_size_limit(MAX_CELL)  # a quote that is never closed must not swallow the whole list
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header = next(rows, [])
        places = [None if name is None else header.index(name) for name in _columns(header, path, options)]
        for row in rows:
            url, source, alt_text, licence = (
                row[place] if place is not None and place < len(row) else "" for place in places
            )
            if row:
                yield url, source, alt_text, licence


def _parquet(path: Path, options: Options) -> Iterator[_Cells]:
    with pq.ParquetFile(path) as table:
        columns = _columns(table.schema_arrow.names, path, options)
        wanted = [name for name in columns if name is not None]
        for batch in table.iter_batches(ROWS, columns=wanted):
            for row in batch.to_pylist():
                url, source, alt_text, licence = ("" if name is None else row[name] for name in columns)
                yield url, source, alt_text, licence


def _columns(names: Sequence[str], path: Path, options: Options) -> tuple[str | None, ...]:
    """The columns of address, source, caption and licence; None where there is none."""
    url = _named(names, URL)
    if url is None:
        todo = f"it has {', '.join(map(repr, names[:10])) or 'none'}; expected `url`"
        raise UsageError("no column of addresses", where=path, todo=todo)
    chosen = (options.source_column, options.alt_text_column)
    for name in chosen:
        if name is not None and name not in names:
            raise UsageError(f"no column {name!r}", where=path, todo=f"it has {', '.join(names[:10])}")
    return url, chosen[0], chosen[1] or _named(names, ALT_TEXT), _named(names, LICENCE)


def _named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


class BadAddressError(ValueError):
    """An address that is never asked."""


def checked(url: str | yarl.URL) -> yarl.URL:
    """The address, if it is one for HTTP; `BadAddressError` for files, passwords and nonsense."""
    try:
        address = yarl.URL(url) if isinstance(url, str) else url
        host, port = address.host, address.port
    except (ValueError, TypeError) as error:
        raise BadAddressError(f"no address ({str(error)[:100]})") from None
    if address.scheme not in ("http", "https"):
        raise BadAddressError(f"not http or https but {address.scheme[:20] or 'nothing'!r}")
    if not host or port is None or len(str(address)) > MAX_ADDRESS:
        raise BadAddressError("no host, or a very long address")
    if literal(host) is None and (":" in host or host.replace(".", "").isdigit()):
        raise BadAddressError("a number that is no IP address")  # systems read 2130706433 as 127.0.0.1
    if address.user or address.password:
        raise BadAddressError("an address with a password in it")
    return address


def names_private(host: str) -> bool:
    """The host's very name says that it stands in a private network, or is this machine."""
    if (ip := literal(host)) is not None:
        return not is_public(ip)
    host = host.lower().rstrip(".")
    return "." not in host or host.endswith(_PRIVATE_ENDS)


def private_host(url: str) -> str:
    """The address's host if its name says that it is private, else ""; fast, as lists have few hosts."""
    found = _HOST.match(url)
    return _private(found[1]) if found else ""


_HOST = re.compile(r"https?://([^/?#\\\s]+)", re.IGNORECASE)


@functools.lru_cache(65_536)
def _private(host: str) -> str:
    try:
        name = checked(f"http://{host}/").host or ""
    except BadAddressError:
        return ""
    return name if names_private(name) else ""


def literal(host: str) -> "IP | None":
    """The IP address that is written out as `host`."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(ip: IP) -> bool:
    """A machine of the public internet, also where one address is wrapped in another."""
    inner = wrapped(ip)
    return inner.is_global and not inner.is_multicast


def wrapped(ip: IP) -> IP:
    """The IPv4 address inside an IPv6 one, if it is made to hold one."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
