"""Asking a model about an image: words as they come, from an endpoint and from a model on this machine."""

import http.client
import json
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from PIL import Image as Picture

from tests.captions.conftest import Typed, typed
from tests.model.tiny import tiny_llava

from .conftest import Server, serving
from .speaker import WORDS, speaking

__all__ = ["typed"]


def streamed(server: Server, fields: dict[str, object]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"x-sharecap-key": server.key, "content-type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/ask", urlencode(fields), headers)
    return connection.getresponse()


def test_the_page_hands_words_on_as_they_come_and_asks_as_it_was_told(dataset: Path) -> None:
    with speaking() as speaker, serving(dataset, models=[f"{speaker.url}#flowing"]) as server:
        image = server.room.index.image(0)
        assert image
        answer = streamed(server, {"model": 0, "image": image.id, "question": "What floats?"})
        early = answer.read(len("A red "))  # the server holds the rest back until this was read
        speaker.go.set()
        assert (early + answer.read()).decode() == "".join(WORDS)
        (body,) = speaker.asked
        assert body["stream"] is True
        text = json.dumps(body["messages"])
        assert "What floats?" in text
        assert "data:image/png;base64," in text


def test_a_server_without_streams_and_one_that_fails_are_heard_too(dataset: Path) -> None:
    with speaking() as speaker:
        models = [f"{speaker.url}#{name}" for name in ("plain", "refusing", "broken", "failing")]
        speaker.go.set()
        with serving(dataset, models=models) as server:
            image = server.room.index.image(0)
            assert image
            fields = {"image": image.id, "question": "What?"}
            said = [streamed(server, {"model": n, **fields}).read().decode() for n in range(4)]
            assert said[0] == "".join(WORDS)
            assert "[no answer: no such model or address" in said[1]
            assert "[no answer: not a piece of a chat completion" in said[2]
            assert "".join(WORDS[:3]) in said[3]
            assert "the server failed (out of memory)" in said[3]
            assert (
                "[no answer: ask something"
                in streamed(server, {"model": 0, **fields, "question": " "}).read().decode()
            )


@pytest.mark.parametrize("model", ["", "1", "-1", "0x", "../m", "http://127.0.0.1/v1#x"])
def test_the_browser_names_no_model_of_its_own(shared: Server, model: str) -> None:
    image = shared.room.index.image(0)
    assert image
    fields = {"model": model, "image": image.id, "question": "What?"}
    assert shared.ask("POST", "/ask", fields)[0] == 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sharecap.model.folder import save

    place = tmp_path_factory.mktemp("model")
    save(tiny_llava(place), place / "captioner")
    return place / "captioner"


def test_a_local_model_s_pieces_join_to_what_it_says_at_once(dataset: Path, model: Path) -> None:
    from sharecap.images.catalog import Catalog
    from sharecap.model.generation import Decoding, Generator, Query

    first = next(iter(Catalog.open(dataset)))
    (reply,) = Generator.load(model).generate([Query((first.path,), "What?")], Decoding(max_new_tokens=24))
    import asyncio

    from sharecap.captions.captioner import Request, Sampling
    from sharecap.web.ask import Asked

    async def pieces() -> list[str]:
        request = Request(first, "What?", Sampling(max_tokens=24))
        return [piece async for piece in Asked(str(model)).stream(request)]

    found = asyncio.run(pieces())
    assert "".join(found).strip() == reply.text
    assert sum(map(bool, found)) > 1


def test_a_local_model_falls_silent_when_nobody_reads_its_answer_any_more(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from sharecap.captions.captioner import Request, Sampling
    from sharecap.images.catalog import Catalog
    from sharecap.model.generation import Generator
    from sharecap.web import ask

    def endless(self: Generator, *_: object) -> None:
        for size in range(600):
            time.sleep(0.05)
            assert self.heard is not None
            self.heard([[5] * (size + 9)])

    monkeypatch.setattr(Generator, "generate", endless)

    async def leave() -> None:
        words = ask.Asked(str(model)).stream(Request(first, "What?", Sampling(max_tokens=24)))
        reading = asyncio.ensure_future(anext(words))
        await asyncio.sleep(0.5)
        reading.cancel()

    first = next(iter(Catalog.open(dataset)))
    asyncio.run(leave())
    assert ask._MODELS.submit(int).result(timeout=20) == 0


def test_the_command_prints_an_answer(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    image = tmp_path / "boat.png"
    Picture.new("RGB", (8, 8)).save(image)
    with speaking() as speaker:
        speaker.go.set()
        code, out, _ = typed("ask", f"{speaker.url}#flowing", image, "What floats?")
        assert (code, out) == (0, "".join(WORDS) + "\n")
        code, out, _ = typed("ask", f"{speaker.url}#plain", image, "What floats?", "--json")
        assert (code, json.loads(out)["answer"]) == (0, "".join(WORDS))
        code, _, err = typed("ask", f"{speaker.url}#refusing", image, "What floats?")
        assert (code, err.count("\n")) == (1, 1)
        assert "no such model or address" in err
        code, _, err = typed("ask", f"{speaker.url}#failing", image, "What floats?")
        assert code == 1
        assert "the server failed (out of memory)" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ask", "nowhere", "x.png", "What?"), 2, "no model there"),
        (("ask", "batch:http://127.0.0.1:9/v1#m", "x.png", "What?"), 2, "answers at once"),
        (("ask", "http://127.0.0.1:9/v1#m", "x.png", "What?"), 1, "no such file"),
        (("view", "nowhere"), 1, "no dataset here"),
    ],
)
def test_what_cannot_be_is_one_line(
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    words: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = typed(*words)
    assert (found, err.count("\n")) == (code, 1)
    assert says in err


@pytest.mark.parametrize("token", ["short", "a token; with=signs and spaces", "ä" * 20])
def test_a_token_that_could_not_be_one_is_one_line(
    typed: Typed, dataset: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SHARECAP_VIEW_TOKEN", token)
    code, _, err = typed("view", dataset, "--port", 0)
    assert (code, err.count("\n")) == (2, 1)
    assert token not in err


def test_a_port_that_is_taken_is_one_line(typed: Typed, dataset: Path) -> None:
    with serving(dataset) as server:
        code, _, err = typed("view", dataset, "--port", server.port)
    assert (code, err.count("\n")) == (2, 1)
    assert "--port" in err


def test_beyond_this_machine_the_command_prints_a_link_with_a_token(dataset: Path) -> None:
    import re
    import subprocess
    import sys
    import urllib.error
    import urllib.request

    command = [sys.executable, "-m", "sharecap.cli", "view", str(dataset), "--host", "0.0.0.0", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        found = re.search(r"http://[^/]+:(\d+)/\?token=([\w-]{20,})", process.stdout.readline())
        assert found
        base = f"http://127.0.0.1:{found[1]}/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(base)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"gallery" in opener.open(f"{base}?token={found[2]}").read()
    finally:
        process.terminate()
        process.wait()
