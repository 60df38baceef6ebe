"""Lists of addresses: fetched once from a real server with faults, bounded, resumable; nothing slips by."""

import csv
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.candidate import Options
from sharecap.images.catalog import Catalog
from sharecap.images.download import Downloads, candidates_of, download
from sharecap.images.fetch import Limits, forbidden, may_ask, wait_of
from sharecap.images.host_queue import HostQueue
from sharecap.images.url_list import (
    BadAddressError,
    checked,
    is_url_list,
    names_private,
    private_host,
    read_list,
)

from .site import Site, answer, png, serving

LIMITS = Limits(max_bytes=200_000, timeout_s=30.0, pause_s=0.01, longest_wait_s=2.0)


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def site(module_site: Site) -> Site:
    module_site.asked.clear()
    module_site.most_out = 0
    return module_site


def listing(folder: Path, urls: list[str], name: str = "urls.txt") -> Path:
    (folder / name).write_text("\n".join(urls) + "\n", encoding="utf-8")
    return folder / name


def problems(found: Downloads) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(found.table).to_pylist()
    return {row["url"]: (row["problem"], row["what"]) for row in rows if row["problem"]}


def files(dataset: Path) -> list[Path]:
    return sorted(p for p in (dataset / "downloads" / "files").rglob("*") if p.is_file())


def test_images_are_fetched_once_and_named_by_their_digest(site: Site, tmp_path: Path) -> None:
    urls = [site("image/1"), site("untyped/2"), site("image/1"), site("gzip/3"), site("image/1?again")]
    found = download(listing(tmp_path, urls), tmp_path / "d", limits=LIMITS)
    assert (found.rows, found.there, found.fetched, found.repeated, found.failed) == (5, 4, 4, 1, {})
    digests = [hashlib.sha256(png(seed)).hexdigest() for seed in (1, 2, 3)]
    assert [path.name for path in files(tmp_path / "d")] == sorted(f"{digest}.png" for digest in digests)
    for path in files(tmp_path / "d"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    rows = pq.read_table(found.table).to_pylist()
    assert [row["sha256"] for row in rows] == [*digests, digests[0]]
    assert not list((tmp_path / "d" / "downloads").glob("incoming/*"))


def test_a_second_run_asks_only_what_failed_on_the_way_or_is_gone(site: Site, tmp_path: Path) -> None:
    urls = [site("image/1"), site("image/2"), site("status/404"), site("status/500"), site("html/x")]
    listed = listing(tmp_path, urls)
    first = download(listed, tmp_path / "d", limits=LIMITS)
    assert first.failed == {"not_an_image": 1, "not_found": 1, "server_error": 1}
    assert (first.again, site.asked["status/500"]) == (1, LIMITS.attempts)
    site.asked.clear()
    files(tmp_path / "d")[0].unlink()
    files(tmp_path / "d")[0].write_bytes(b"half")
    again = download(listed, tmp_path / "d", limits=LIMITS)
    assert site.asked == {"image/1": 1, "image/2": 1, "status/500": LIMITS.attempts}
    assert (again.there, again.fetched, again.failed) == (2, 2, first.failed)
    site.asked.clear()
    download(listed, tmp_path / "d", Options(retry_failed=True), limits=LIMITS)
    assert site.asked == {"status/404": 1, "status/500": LIMITS.attempts, "html/x": 1}


def test_every_fault_is_a_named_failure(site: Site, tmp_path: Path) -> None:
    """Each address with the failure that it must end in."""
    expected = {
        site("status/404"): "not_found",
        site("status/410"): "not_found",
        site("status/403"): "forbidden",
        site("status/451"): "forbidden",
        site("status/503"): "server_error",
        site("drop/1"): "dropped",
        site("short/1"): "dropped",
        site("cutgzip/1"): "dropped",
        site("endless/1"): "too_large",
        site("promised/1"): "too_large",
        site("bomb/1"): "too_large",
        site("brotli/1"): "malformed",
        site("html/1"): "not_an_image",
        site("liar/1"): "not_an_image",
        site("svg/1"): "not_an_image",
        site("empty/1"): "empty",
        site("robots/noai"): "no_ai",
        site("robots/noindex, nofollow"): "no_ai",
        site("round/1"): "redirects",
        site("to/1?at=file:///etc/passwd"): "bad_address",
        site("to/2?at=ftp://127.0.0.1/x"): "bad_address",
        site("to/3?at=http://169.254.169.254/latest/meta-data"): "private_address",
        site("to/4?at=http://10.0.0.1/image.png"): "private_address",
        site("to/5?at=http://[::ffff:10.0.0.1]/image.png"): "private_address",
        site("to/6?at=http://localhost:9/image.png"): "private_address",
        site("to/7?at=http://2130706433/image.png"): "bad_address",
        site("to/8?at=http://0x7f.1/image.png"): "private_address",
        site("to/9?at=//user:secret@127.0.0.1/"): "bad_address",
        "file:///etc/passwd": "bad_address",
        "http://169.254.169.254/latest/meta-data": "private_address",
        "http://2130706433/": "bad_address",
        "http://user:secret@127.0.0.1/x.png": "bad_address",
        "../../etc/passwd": "bad_address",
        "http://": "bad_address",
        "http://[::1": "bad_address",
        "http://127.0.0.1:99999/": "bad_address",
        "http://127.0.0.1:9/closed.png": "unreachable",
        "data:image/png;base64,AAAA": "bad_address",
        "http://" + "a" * 10_000: "bad_address",
    }
    found = download(listing(tmp_path, list(expected)), tmp_path / "d", limits=LIMITS)
    expected["http://***@127.0.0.1/x.png"] = expected.pop("http://user:secret@127.0.0.1/x.png")
    assert {url: kind for url, (kind, _) in problems(found).items()} == expected
    assert (found.there, sum(found.failed.values())) == (0, len(expected))
    assert all(what for _, what in problems(found).values())
    assert not any("secret" in what for _, what in problems(found).values())
    assert not files(tmp_path / "d")


def test_a_slow_server_is_a_timeout(site: Site, tmp_path: Path) -> None:
    limits = Limits(timeout_s=0.2, attempts=1)
    found = download(listing(tmp_path, [site("slow/1")]), tmp_path / "d", limits=limits)
    assert found.failed == {"timeout": 1}


def test_what_fails_once_is_tried_again_in_the_same_run(site: Site, tmp_path: Path) -> None:
    urls = [site("once/500"), site("once/503"), site("busy/0"), site("image/4")]
    found = download(listing(tmp_path, urls), tmp_path / "d", limits=LIMITS)
    assert (found.there, found.requests) == (4, 7)


def test_a_host_that_asks_for_a_long_pause_is_left_to_the_next_run(site: Site, tmp_path: Path) -> None:
    one_by_one = Limits(per_host=1, pause_s=0.01, longest_wait_s=2.0)
    urls = [site("busy/3600"), *(site(f"image/{n}") for n in range(20))]
    found = download(listing(tmp_path, urls), tmp_path / "d", limits=one_by_one)
    assert site.asked == {"busy/3600": 1}
    assert (found.failed, found.again) == ({"rate_limited": 21}, 21)
    assert download(listing(tmp_path, urls), tmp_path / "d", limits=one_by_one).there == 21


def test_a_host_that_is_down_is_not_asked_for_every_image(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:9/{n}.png" for n in range(500)]
    found = download(listing(tmp_path, urls), tmp_path / "d", limits=LIMITS)
    assert found.failed == {"unreachable": 500}
    assert found.requests < 20


def test_a_host_gets_only_so_many_requests_at_a_time(site: Site, tmp_path: Path) -> None:
    urls = [site(f"image/{n}") for n in range(40)]
    limits = Limits(concurrency=16, per_host=3)
    assert download(listing(tmp_path, urls), tmp_path / "d", limits=limits).there == 40
    assert site.most_out <= 3


def test_a_host_that_rests_holds_up_no_other() -> None:
    queue = HostQueue(iter([*(f"http://slow/{n}" for n in range(100)), "http://fast/1"]), per_host=2)
    taken = [queue.take(0.0) for _ in range(4)]
    assert [job and job[0] for job in taken] == ["slow:80", "fast:80", "slow:80", None]
    queue.back("slow:80")
    queue.rest("slow:80", 5.0)
    assert queue.take(4.9) is None
    assert queue.wait_s(1.0) == 4.0
    assert queue.take(5.0) == ("slow:80", "http://slow/2", 0)


def test_redirects_reach_private_hosts_that_the_list_names(site: Site, tmp_path: Path) -> None:
    url = site(f"to/1?at={site('image/5')}")
    assert download(listing(tmp_path, [url]), tmp_path / "d", limits=LIMITS).there == 1


@pytest.mark.parametrize(
    ("address", "named", "may"),
    [
        ("93.184.215.14", False, True),
        ("2606:4700::1111", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("10.1.2.3", False, False),
        ("100.64.0.1", False, False),
        ("0.0.0.0", False, False),
        ("::1", False, False),
        ("fd00::1", True, True),
        ("::ffff:127.0.0.1", False, False),
        ("64:ff9b::a00:1", False, False),
        ("169.254.169.254", True, False),
        ("::ffff:169.254.169.254", True, False),
        ("fe80::1", True, False),
        ("224.0.0.1", False, False),
    ],
)
def test_private_addresses_are_asked_only_if_named_and_metadata_never(
    address: str, named: bool, may: bool
) -> None:
    assert may_ask(address, named=named) is may


def test_a_public_name_may_not_stand_for_a_private_address() -> None:
    assert [names_private(host) for host in ("localhost", "nas", "a.local", "10.0.0.1", "::1")] == [True] * 5
    assert [names_private(host) for host in ("example.org", "10.example.org", "8.8.8.8")] == [False] * 3
    assert private_host("http://NAS:8080/x.png") == "nas"
    assert [private_host(url) for url in ("http://a.org/nas", "file:///x", "", "http://u:p@nas/x")] == [
        ""
    ] * 4


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (["noai"], "noai"),
        (["nofollow, NOIMAGEAI"], "noimageai"),
        (["all", "noindex"], "noindex"),
        (["none"], "none"),
        (["googlebot: noindex, nofollow"], ""),
        (["sharecap: noai"], "noai"),
        (["googlebot: nofollow, noindex", "*: noimageai"], "noimageai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["max-image-preview: large"], ""),
        ([], ""),
    ],
)
def test_robots_headers_are_read_as_they_are_meant(values: list[str], word: str) -> None:
    assert forbidden(values) == word


def test_waits_are_seconds_or_dates() -> None:
    assert wait_of("7") == 7.0
    assert wait_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (wait_of(None), wait_of("soon"), wait_of("-5"), wait_of("9" * 400)) == (None, None, None, math.inf)


@pytest.mark.parametrize(
    "url", ["http://１２７.0.0.1./", "http://127.1/", "HTTP:///x", "javascript:alert(1)"]
)
def test_odd_spellings_of_addresses_are_refused(url: str) -> None:
    with pytest.raises(BadAddressError):
        checked(url)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_bring_captions_licences_and_sources(site: Site, tmp_path: Path, suffix: str) -> None:
    rows = {
        "URL": [site("image/1"), site("image/2"), site("status/404")],
        "TEXT": ['a "red" boat, at sea', "", "gone"],
        "license": ["CC0", "?", ""],
        "place": ["web", "art", "web"],
    }
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
            writer.writerows([list(rows), *zip(*rows.values(), strict=True)])
    assert is_url_list(path)
    found = download(path, tmp_path / "d", Options(source_column="place"), limits=LIMITS)
    assert (found.there, found.failed) == (2, {"not_found": 1})
    good, second, bad = candidates_of(found)
    assert (good.alt_text, good.licence, good.source, good.url) == (
        rows["TEXT"][0],
        "CC0",
        "web",
        rows["URL"][0],
    )
    assert (second.alt_text, second.source) == ("", "art")
    assert bad.problem == ("not_found", "status 404")
    assert (bad.path, bad.source) == (rows["URL"][2], "web")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"name,words\n1,2\n", "no column of addresses"),
        ("b.csv", b"", "no column of addresses"),
        ("c.csv", b'url\n"' + b"x" * 2_000_000 + b'"\n', "cannot read the list"),
        ("d.parquet", b"PAR1", "cannot read the list"),
    ],
)
def test_a_list_that_is_none_is_one_clear_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SharecapError, match=says):
        download(tmp_path / name, tmp_path / "d")


def test_lists_are_told_from_tables_of_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "url": ["http://a.org"]}), tmp_path / "images.parquet")
    assert not is_url_list(tmp_path / "images.parquet")
    assert not is_url_list(tmp_path / "photo.png")
    with pytest.raises(UsageError, match="no such list"):
        download(tmp_path / "gone.txt", tmp_path / "d")


def test_comments_blank_lines_and_foreign_bytes_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbf# mine\n\nhttp://a.org/1\n \nhttp://a.org/\xff\x00\n")
    rows = list(read_list(tmp_path / "l.txt", Options()))
    assert [(row.url, row.source) for row in rows] == [("http://a.org/1", "l"), ("http://a.org/\ufffd", "l")]


KILLED = """
import sys
from pathlib import Path
from sharecap.images.download import download
from sharecap.images.fetch import Limits
download(Path(sys.argv[1]), Path(sys.argv[2]), limits=Limits(concurrency=8, per_host=8))
"""


def test_a_kill_loses_at_most_what_was_in_flight(tmp_path: Path) -> None:
    killed, alive = threading.Event(), list[subprocess.Popen[bytes]]()

    async def handler(request: web.Request, nth: int) -> web.StreamResponse:
        if sum(site.asked.values()) >= 60 and not killed.is_set():
            killed.set()
            os.kill(alive[0].pid, signal.SIGKILL)
        return await answer(request, nth)

    with serving(handler) as site:
        listed = listing(tmp_path, [site(f"image/{n}") for n in range(200)])
        command = [sys.executable, "-c", KILLED, str(listed), str(tmp_path / "d")]
        # It starts before the handler needs it: importing takes far longer than this line.
        alive.append(subprocess.Popen(command))
        assert alive[0].wait() == -signal.SIGKILL
        before = {path: path.read_bytes() for path in files(tmp_path / "d")}
        assert all(hashlib.sha256(data).hexdigest() == path.stem for path, data in before.items())
        found = download(listed, tmp_path / "d", limits=LIMITS)
        assert (found.there, found.failed) == (200, {})
        twice = sum(site.asked.values()) - 200
        assert 0 <= twice <= 8


def test_downloads_become_images_with_their_address(site: Site, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        f"url,caption,license\n{site('image/1')},a boat,CC0\n{site('status/404')},gone,\n", encoding="utf-8"
    )
    report = add([tmp_path / "list.csv"], tmp_path / "d")
    assert (report.added, report.failed) == (1, {"not_found": 1})
    (image,) = Catalog.open(tmp_path / "d")
    assert (image.url, image.alt_text, image.licence, image.source) == (
        site("image/1"),
        "a boat",
        "CC0",
        "list",
    )
    assert Path(image.path).is_relative_to((tmp_path / "d" / "downloads").resolve())
