"""robots.txt: read once per host, obeyed as RFC 9309 has it, bounded, and no host waits for another's."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yarl
from aiohttp import web
from protego import Protego

from sharecap.images import robots
from sharecap.images.candidate import Options
from sharecap.images.download import Downloads, download
from sharecap.images.fetch import Limits
from sharecap.images.robots import AGENT, MOST_BYTES, Robots, addressed

from .site import Handler, Site, answer, serving
from .test_download import LIMITS, listing, problems


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Site]:
    with serving() as running:
        yield running


def fetched(folder: Path, *urls: str, limits: Limits = LIMITS, again: bool = False) -> Downloads:
    return download(listing(folder, list(urls)), folder / "d", Options(retry_failed=again), limits=limits)


def kinds(found: Downloads) -> dict[str, str]:
    return {yarl.URL(url).path[1:]: kind for url, (kind, _) in problems(found).items()}


def test_what_is_forbidden_is_never_asked_and_the_file_is_read_once(site: Site, tmp_path: Path) -> None:
    site.robots = b"User-agent: *\nDisallow: /image/1\nAllow: /image/12\n"
    urls = [site(f"image/{n}") for n in (1, 2, 10, 12, 3)]
    found = fetched(tmp_path, *urls)
    assert (found.there, found.failed, found.again) == (3, {"robots": 2}, 0)
    assert kinds(found) == {"image/1": "robots", "image/10": "robots"}
    assert dict(problems(found).values()) == {"robots": "robots.txt of 127.0.0.1 forbids it"}
    assert (set(site.asked), site.asked_robots) == ({"image/2", "image/12", "image/3"}, 1)
    site.robots = b""
    assert fetched(tmp_path, *urls).failed == {"robots": 2}  # settled
    assert fetched(tmp_path, *urls, again=True).failed == {}


@pytest.mark.parametrize(
    ("text", "asked", "may"),
    [
        ("User-agent: *\nDisallow: /", "/a.png", False),
        ("", "/a.png", True),
        ("User-agent: *\nDisallow:", "/a.png", True),
        ("User-agent: other\nDisallow: /", "/a.png", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: ShareCap\nAllow: /", "/a.png", True),
        ("User-agent: sharecap/2.0 # us\nDisallow: /", "/a.png", False),
        ("User-agent: share\nDisallow: /", "/a.png", True),
        ("User-agent: sharecap-news\nDisallow: /", "/a.png", True),
        ("User-agent: other\nUser-agent: sharecap\nDisallow: /", "/a.png", False),
        ("User-agent: sharecap\nUser-agent: other\nDisallow: /", "/a.png", False),
        ("User-agent: sharecap\nCrawl-delay: 1\n\nUser-agent: *\nDisallow: /", "/a.png", True),
        ("User-agent: sharecap\nAllow: /a\nUser-agent: other\nDisallow: /", "/b.png", True),
        ("User-agent: *\nSitemap: http://x/s\nUser-agent: other\nDisallow: /", "/a.png", False),
        ("User-agent: *\nDisallow: /a\n\nUser-agent: *\nDisallow: /b", "/b.png", False),
        ("user-agent:*\r\ndisallow:/*.gif$", "/x/y.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?big", True),
        ("User-agent: *\nDisallow: /a*c\nAllow: /abc/d", "/abc/d.png", True),
        ("User-agent: *\nDisallow: /%C3%A4/", "/ä/1.png", False),
        ("\ufeffUser-agent: *\nDisallow: /", "/a.png", False),
        ("<html><body>Disallow: / nothing here</body></html>", "/a.png", True),
        ("Disallow: /\nUser-agent: other\nDisallow: /", "/a.png", True),
        ("# User-agent: *\nDisallow: /", "/a.png", True),
        ("User-agent: *\nDisallow: /private # not for robots", "/private/a.png", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
    ],
)
def test_rules_are_read_as_they_are_meant(text: str, asked: str, may: bool) -> None:
    ours = Protego.parse(addressed(text.encode()))
    assert ours.can_fetch(f"http://a.org{asked}", AGENT) is may


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_where_there_is_no_file_all_may_be_asked(site: Site, tmp_path: Path, status: int) -> None:
    site.robots = said(status)
    assert fetched(tmp_path, site("image/1")).there == 1


def said(status: int, **headers: str) -> Handler:
    async def handler(_: web.Request, __: int) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return handler


def test_a_server_that_fails_to_say_is_asked_for_nothing_until_the_next_run(
    site: Site, tmp_path: Path
) -> None:
    site.robots = said(503)
    urls = [site(f"image/{n}") for n in range(30)]
    found = fetched(tmp_path, *urls)
    assert (found.failed, found.again, dict(site.asked)) == ({"robots_unreachable": 30}, 30, {})
    assert 1 <= site.asked_robots <= LIMITS.attempts
    assert all("robots.txt: status 503" in what for _, what in problems(found).values())
    site.robots = None
    assert fetched(tmp_path, *urls).there == 30


def test_a_server_that_fails_once_is_asked_again_in_the_same_run(site: Site, tmp_path: Path) -> None:
    async def handler(_: web.Request, nth: int) -> web.StreamResponse:
        return (
            web.Response(status=500) if nth == 1 else web.Response(text="User-agent: *\nDisallow: /image/2")
        )

    site.robots = handler
    found = fetched(tmp_path, site("image/1"), site("image/2"), site("image/3"))
    assert (found.there, kinds(found), site.asked_robots) == (2, {"image/2": "robots"}, 2)


def test_a_server_that_wants_to_be_left_alone_is(site: Site, tmp_path: Path) -> None:
    site.robots = said(429, **{"Retry-After": "3600"})
    found = fetched(tmp_path, site("image/1"), site("image/2"))
    assert (found.failed, dict(site.asked)) == ({"rate_limited": 2}, {})


def test_a_connection_that_breaks_is_as_good_as_no_answer(site: Site, tmp_path: Path) -> None:
    async def handler(request: web.Request, _: int) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    site.robots = handler
    assert fetched(tmp_path, site("image/1")).failed == {"robots_unreachable": 1}
    assert not site.asked


def test_a_host_whose_file_hangs_holds_up_no_other(site: Site, tmp_path: Path) -> None:
    others_done = threading.Event()

    async def hanging(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.to_thread(others_done.wait, 25)  # it hangs until all others were served
        return web.Response(text="" if others_done.is_set() else "User-agent: *\nDisallow: /")

    async def counting(request: web.Request, nth: int) -> web.StreamResponse:
        if len(other.asked) == len(urls):
            others_done.set()
        return await answer(request, nth)

    site.robots = hanging
    with serving(counting) as other:
        urls = [other(f"image/{n}") for n in range(40)]
        found = fetched(
            tmp_path, *(site(f"image/{n}") for n in range(20)), *urls, limits=Limits(concurrency=8)
        )
    assert (found.there, found.failed) == (60, {})


def test_a_file_that_never_comes_is_a_timeout(site: Site, tmp_path: Path) -> None:
    async def never(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    site.robots = never
    found = fetched(tmp_path, site("image/1"), limits=Limits(timeout_s=0.4, attempts=1))
    assert problems(found)[site("image/1")] == ("timeout", "robots.txt: no answer in time")
    assert not site.asked


def test_redirects_are_followed_to_another_host_five_times_at_most(
    site: Site, other: Site, tmp_path: Path
) -> None:
    other.robots = b"User-agent: *\nDisallow: /image/1"
    site.robots = said(301, Location=other("robots.txt"))
    assert kinds(fetched(tmp_path, site("image/1"), site("image/2"), other("untyped/3"))) == {
        "image/1": "robots"
    }
    site.robots = said(302, Location="/robots.txt")  # round and round: as if there were none
    site.asked_robots = 0
    assert fetched(tmp_path, site("image/1"), again=True).there == 1
    assert site.asked_robots == 6


@pytest.mark.parametrize(
    "place",
    ["http://10.0.0.1/robots.txt", "http://169.254.169.254/x", "file:///etc/passwd", "http://localhost:9/"],
)
def test_a_redirect_into_a_private_network_is_not_followed(site: Site, tmp_path: Path, place: str) -> None:
    site.robots = said(302, Location=place)
    found = fetched(tmp_path, site("image/1"))
    assert (found.failed, dict(site.asked)) == ({"robots_unreachable": 1}, {})


def test_an_image_that_lies_on_another_host_needs_its_leave_too(
    site: Site, other: Site, tmp_path: Path
) -> None:
    other.robots = b"User-agent: sharecap\nDisallow: /image/5"
    urls = [site(f"to/{n}?at={other(f'image/{n}')}") for n in (5, 6)]
    found = fetched(tmp_path, *urls, other("untyped/1"))  # the list names the other host
    assert (kinds(found), dict(other.asked)) == ({"to/5": "robots"}, {"image/6": 1, "untyped/1": 1})


def test_no_more_than_the_bound_is_read(site: Site, tmp_path: Path) -> None:
    rules = b"User-agent: *\nDisallow: /image/1\n"
    site.robots = rules + b"# filler\n" * (MOST_BYTES // 9) + b"Disallow: /image/2\n"
    assert kinds(fetched(tmp_path, site("image/1"), site("image/2"))) == {"image/1": "robots"}
    line = b"Disallow: /image/3"
    cut = rules + b"#" * (MOST_BYTES - len(rules) - 12) + b"\n" + line  # of which "Disallow: /" is read
    assert addressed(cut) == rules.decode().strip()


def test_a_bomb_does_no_harm(site: Site, tmp_path: Path) -> None:
    async def bomb(_: web.Request, __: int) -> web.StreamResponse:
        body = gzip.compress(b"User-agent: *\nDisallow: /image/1\n" + bytes(200_000_000), 9)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    site.robots = bomb
    assert kinds(fetched(tmp_path, site("image/1"), site("image/2"))) == {"image/1": "robots"}


def test_a_thousand_names_before_a_thousand_rules_stay_a_thousand_rules() -> None:
    names = "".join(f"User-agent: robot{'x' * (n % 50)}{n}\n" for n in range(8_000))
    rules = "".join(f"Disallow: /{n}/\n" for n in range(8_000))
    assert addressed((names + rules).encode()) == ""
    ours = addressed((names + "User-agent: *\n" + rules).encode())
    assert ours.splitlines()[:2] == ["User-agent: *", "Disallow: /0/"]
    assert len(ours.splitlines()) == 8_001


def asked_of(counts: dict[str, int], text: str = "", fails: int = 0):  # type: ignore[no-untyped-def]
    async def ask(origin: yarl.URL) -> str:
        counts[str(origin)] = counts.get(str(origin), 0) + 1
        await asyncio.sleep(0)
        if counts[str(origin)] <= fails:
            raise ConnectionError("no")
        return text

    return ask


def test_what_is_kept_is_bounded_and_each_origin_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MOST_TEXT", 200)
    counts: dict[str, int] = {}

    async def main() -> None:
        kept = Robots(asked_of(counts, "User-agent: *\nDisallow: /x\n"), 1)
        for port in range(1, 30):
            assert await kept.allows(yarl.URL(f"http://a.org:{port}/y"))
            assert not await kept.allows(yarl.URL(f"http://a.org:{port}/x"))
        assert len(kept._hosts) <= 8
        assert await kept.allows(yarl.URL("http://a.org:1/y"))
        await kept.close()

    asyncio.run(main())
    assert counts == {
        f"http://a.org:{port}" if port != 80 else "http://a.org": 1 for port in range(2, 30)
    } | {"http://a.org:1": 2}


def test_all_wait_for_one_answer_and_who_gives_up_does_not_end_it() -> None:
    counts: dict[str, int] = {}

    async def main() -> list[bool | BaseException]:
        kept = Robots(asked_of(counts), 1)
        tasks = [asyncio.create_task(kept.allows(yarl.URL("http://a.org/"))) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        try:
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await kept.close()

    first, *others = asyncio.run(main())
    assert isinstance(first, asyncio.CancelledError)
    assert (others, counts) == ([True] * 4, {"http://a.org": 1})


def test_a_failure_is_asked_again_only_so_many_times() -> None:
    counts: dict[str, int] = {}

    async def main() -> None:
        kept = Robots(asked_of(counts, fails=9), 3)
        for _ in range(7):
            with pytest.raises(ConnectionError):
                await kept.allows(yarl.URL("http://a.org/"))
        await kept.close()

    asyncio.run(main())
    assert counts == {"http://a.org": 3}
