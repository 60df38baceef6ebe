"""Attacks on the page, each against the real server: all of them harmless."""

import socket
from pathlib import Path

import pytest
from PIL import Image as Picture

from sharecap.captions.layer import read_layer, write_layer
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Caption
from sharecap.web import thumbs
from sharecap.web.study import create

from .conftest import Server, captioned, serving

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
TOKEN = "a-long-enough-token-for-tests"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """File names, alt-texts, sources, captions and failures that are markup, quotes and controls."""
    folder = tmp_path / "pictures" / "<b>source\"'"
    folder.mkdir(parents=True)
    for number in range(4):
        path = folder / f"<script>alert({number})<%2fscript>\"'&.png"
        Picture.new("RGB", (40, 30), (number * 60, 0, 0)).save(path)
        path.with_suffix(".txt").write_text(SCRIPT + "\u202e")
    dataset = tmp_path / "dataset"
    add([tmp_path / "pictures"], dataset)
    rows = [
        Caption(
            i.id,
            "",
            f"A red thing. {SCRIPT} {{{{7*7}}}}\x00\x1b[31m",
            SCRIPT,
            SCRIPT,
            SCRIPT,
            flags=(SCRIPT,),
        )
        for i in Catalog.open(dataset)
    ]
    write_layer(dataset, "bad", rows)
    write_layer(dataset, "worse", [Caption(r.image_id, "", r.text + "!", "x", "p", "stop") for r in rows[:3]])
    return dataset


def test_markup_from_captions_alt_texts_and_file_names_stays_text(hostile: Path) -> None:
    study = create(hostile, "s", ["bad", "worse"], ["<i>rater"], images=2, repeats=0)
    (token,) = study.raters
    with serving(hostile) as server:
        image = server.room.index.image(0)
        assert image
        pages = ["/", "/?layer=worse", "/?layer=alt-text&q=taken", f"/image/{image.id}?layer=bad"]
        pages += [
            f"/image/{image.id}/sentence?layer=bad&n=1",
            "/studies",
            "/studies/s",
            f"/rate/{token}",
            "/runs",
        ]
        for path in pages:
            status, headers, body = server.ask("GET", path)
            text = body.decode()
            assert status == 200
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert "<script>" not in text.replace('<script src="/static', "")
            assert not any(
                bad in text for bad in ("<img src=x", "<b>source", "<i>rater", "\x00", "\x1b", "\u202e")
            )
        assert "{{7*7}}" in server.text(f"/image/{image.id}?layer=bad")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/thumb/..%2f..%2f..%2fetc%2fpasswd",
        "/picture/%2fetc%2fpasswd",
        "/studies/..%2f..%2flayers",
        "/studies/..%2f..%2flayers/votes.csv",
        "/rate/..%2f..",
        "/image/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
    ],
)
def test_no_path_of_the_browser_reaches_a_file(shared: Server, path: str) -> None:
    status, _, body = shared.ask("GET", path)
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"import" not in body


@pytest.mark.parametrize("layer", ["../../x", "/etc/cron.d/x", ".", "a/b", "", "x\0y"])
def test_no_name_of_the_browser_becomes_a_path(server: Server, layer: str) -> None:
    image = server.room.index.image(0)
    assert image
    assert server.ask("POST", f"/image/{image.id}/drop", {"layer": "teacher"})[0] == 200
    assert server.ask("POST", "/write", {"layer": "teacher", "to": layer})[0] == 400
    study = {"name": layer, "a": "teacher", "b": "captioner", "raters": "x"}
    assert server.ask("POST", "/studies", study)[0] == 400
    assert sorted(p.name for p in (server.room.dataset / "layers").iterdir()) == ["captioner", "teacher"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x_sharecap_key": ""},
        {"x_sharecap_key": "guessed"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_post_from_another_site_changes_nothing(shared: Server, headers: dict[str, str]) -> None:
    image = shared.room.index.image(0)
    assert image
    assert shared.ask("POST", f"/image/{image.id}/drop", {"layer": "teacher"}, **headers)[0] == 403
    assert shared.room.marked("teacher") == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_another_name_for_this_machine_is_not_answered(shared: Server, host: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=30) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"421", b"400")
    assert b"sharecap" not in answer.lower()


def test_a_token_opens_everything_a_raters_link_only_its_questions(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=2, repeats=0)
    (link,) = study.raters
    with serving(dataset, token=TOKEN) as server:
        image = server.room.index.image(0)
        assert image
        for path in ("/", f"/thumb/{image.id}", "/studies/s", "/studies/s/votes.csv", "/ask", "/runs"):
            assert server.ask("GET", path)[0] == 401
            assert server.ask("GET", path, cookie="sharecap=wrong")[0] == 401
            assert server.ask("GET", f"{path}?token=wrong")[0] == 401
            assert server.ask("GET", path, cookie=f"sharecap={TOKEN}")[0] == 200
        assert server.ask("POST", "/write", {"layer": "teacher", "to": "x"})[0] == 401
        status, headers, _ = server.ask("GET", f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert server.ask("GET", f"/rate/{link}")[0] == 200
        assert server.ask("GET", f"/rate/{link}/picture/0")[0] == 200
        assert server.ask("GET", "/rate/x/../../studies/s")[0] in (400, 401, 404)
        assert server.ask("GET", "/rate/../studies/s")[0] in (400, 401, 404)


def test_a_bomb_is_a_drawing_and_is_never_decoded(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(Catalog.open(dataset)))
    monkeypatch.setattr(thumbs, "MAX_PIXELS", 1)

    def exploded(*_: object) -> None:
        raise AssertionError("decoded")

    original = thumbs.shrunk
    monkeypatch.setattr(thumbs, "shrunk", lambda image, side: original(image, side, 63))
    monkeypatch.setattr(thumbs, "as_rgb", exploded)
    with serving(dataset) as server:
        status, headers, body = server.ask("GET", f"/thumb/{first.id}")
        assert (status, headers["content-type"]) == (200, "image/svg+xml")
        assert b"too large" in body


@pytest.mark.parametrize(("how", "says"), [("gone", b"missing"), ("changed", b"changed")])
def test_an_image_that_is_gone_or_another_one_is_told(dataset: Path, how: str, says: bytes) -> None:
    first = next(iter(Catalog.open(dataset)))
    if how == "gone":
        Path(first.path).unlink()
    else:
        Picture.new("RGB", (9, 9)).save(first.path)
    with serving(dataset) as server:
        for kind in ("thumb", "picture"):
            status, headers, body = server.ask("GET", f"/{kind}/{first.id}")
            assert (status, headers["content-type"], says in body) == (200, "image/svg+xml", True)


@pytest.mark.parametrize("number", ["²", "٣", "9" * 5000, "-1", "1e3", ""])
def test_what_is_no_number_is_refused_by_every_form(server: Server, number: str) -> None:
    study = create(server.room.dataset, "s", ["teacher", "captioner"], ["ann"], images=2, repeats=0)
    (token,) = study.raters
    image = server.room.index.image(0)
    assert image
    edit = {"layer": "teacher", "was": "A man waves.", "text": "x"}
    for path, fields in (
        (f"/image/{image.id}/edit", {**edit, "n": number}),
        (f"/image/{image.id}/edit", {**edit, "n": 1, "seen": number}),
        (f"/rate/{token}", {"trial": number, "choice": 1}),
        ("/ask", {"model": number}),
        ("/undo", {}),
        ("/write", dict.fromkeys(map(str, range(80)), 1)),
    ):
        status, _, body = server.ask("POST", path, fields)
        assert (status, len(body) < 300) == (400, True), path
    assert server.ask("POST", f"/rate/{token}", {"trial": 0, "choice": 1, "seconds": number})[0] == 200
    assert server.room.marked("teacher") == []


def test_who_goes_to_an_address_that_is_none_gets_a_page_and_a_rater_no_names(server: Server) -> None:
    html = {"accept": "text/html,*/*"}
    for path in ("/?layer=<b>none", "/nothing", "/image/0"):
        status, headers, body = server.ask("GET", path.replace("<", "%3C"), **html)
        assert status in (400, 404)
        assert headers["content-type"].startswith("text/html")
        assert "content-security-policy" in headers
        assert b'href="/studies"' in body
        assert b"<b>none" not in body
    status, headers, body = server.ask("GET", "/rate/none", **html)
    assert (status, b'href="/studies"' in body, b"no such link" in body) == (400, False, True)
    assert server.ask("GET", "/nothing", **html, hx_request="true")[1]["content-type"].startswith(
        "text/plain"
    )


def test_a_body_that_never_says_its_length_is_cut(shared: Server) -> None:
    head = f"POST /undo HTTP/1.1\r\nHost: localhost\r\nX-Sharecap-Key: {shared.key}\r\n"
    piece = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=30) as raw:
        raw.sendall(f"{head.replace('/undo', '/write')}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(11):
            raw.sendall(piece)
        assert raw.recv(65536).split(b" ", 2)[1] == b"413"


def test_a_big_body_is_refused(shared: Server) -> None:
    image = shared.room.index.image(0)
    assert image
    fields = {"layer": "teacher", "flag": "x" * 200_000}
    assert shared.ask("POST", f"/image/{image.id}/flag", fields)[0] == 413


def test_a_picture_is_bounded_whatever_its_size(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Picture.effect_noise((4000, 3000), 90).save(folder / "big.jpg", quality=95)
    add([folder], tmp_path / "dataset")
    with serving(tmp_path / "dataset") as server:
        image = server.room.index.image(0)
        assert image
        for kind, side in (("thumb", 320), ("picture", 1600)):
            import io

            data = server.ask("GET", f"/{kind}/{image.id}")[2]
            assert max(Picture.open(io.BytesIO(data)).size) == side
            assert len(data) < 2_000_000


def test_the_sealed_layers_are_never_written_to(dataset: Path) -> None:
    before = {p: p.read_bytes() for p in (dataset / "layers").rglob("*") if p.is_file()}
    texts = [c.text for c in read_layer(dataset, "teacher")]
    with serving(dataset) as server:
        image = server.room.index.image(0)
        assert image
        edit = {"layer": "teacher", "n": 1, "was": "A man waves.", "text": "A woman waves."}
        assert server.ask("POST", f"/image/{image.id}/edit", edit)[0] == 200
        assert server.ask("POST", "/write", {"layer": "teacher", "to": "mended"})[0] == 200
    assert {p: p.read_bytes() for p in before} == before
    assert [c.text for c in read_layer(dataset, "mended")] == [texts[0].replace("man", "woman"), *texts[1:]]


def test_the_page_of_a_dataset_knows_its_own_folder_only(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = captioned(tmp_path / "one", 3), captioned(tmp_path / "two", 5)
    stranger = list(Catalog.open(two))[4]
    with serving(one) as server:
        assert server.ask("GET", f"/picture/{stranger.id}")[0] == 400


@pytest.mark.parametrize("text", ["a. B ", "word ", "<svg/onload=x>\u200f\u0627", "a\n"])
def test_captions_of_millions_of_characters_are_bounded_on_the_page(dataset: Path, text: str) -> None:
    ids = [image.id for image in Catalog.open(dataset)]
    for name, tail in (("huge", "end"), ("other", "fin")):
        whole = text * (2_000_000 // len(text)) + tail
        write_layer(dataset, name, [Caption(i, "", whole, "x", "p", "stop") for i in ids[:2]])
    with serving(dataset) as server:
        page = server.text(f"/image/{ids[0]}?layer=huge")
        assert len(page) < 8_000_000
        assert page.count("characters more are not shown") == 2
        assert server.ask("GET", f"/image/{ids[0]}/sentence?layer=huge&n=1")[0] == 200
