"""The teacher simulator over real HTTP: what it tells, what it refuses, and how it fails on demand."""

import base64
import http.client
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.scenes.chat_completions import PIECE, image_tokens
from sharecap.scenes.faults import parse_faults
from sharecap.scenes.simulator import Settings, serving, topics_of
from sharecap.scenes.world import Truth, WorldSpec, make_world, pixel_digest

EVERYTHING = "Describe the picture: its text, its name, its style, and relative positions."
PLAIN = "Describe the picture."
KEY = "TEACHER_TEST_KEY"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    directory = tmp_path_factory.mktemp("world")
    return directory, make_world(directory, WorldSpec(seed=5), range(40), workers=1)


@pytest.fixture(scope="module")
def url(world: tuple[Path, list[Truth]]):
    with serving(Settings(truth=(world[0] / "truth.jsonl",))) as address:
        yield address


def send(
    url: str,
    body: Any,
    headers: dict[str, str] | None = None,
    path: str = "/chat/completions",
    how: str = "POST",
) -> tuple[int, Any, dict[str, str]]:
    """(status, parsed body, headers)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(
            how, parts.path + path, data, {"Content-Type": "application/json", **(headers or {})}
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read()), dict(response.headers)
    finally:
        connection.close()


def asking(image: bytes, prompt: str, **more: Any) -> dict[str, Any]:
    data_url = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": data_url}}]
    return {"model": "scenes", "messages": [{"role": "user", "content": content}], **more}


def pick(world: tuple[Path, list[Truth]], source: str) -> tuple[Truth, bytes]:
    truth = next(t for t in world[1] if t.source == source)
    return truth, (world[0] / truth.file).read_bytes()


def told(answer: Any) -> str:
    return answer["choices"][0]["message"]["content"]


def caption(url: str, image: bytes, prompt: str, **more: Any) -> str:
    status, answer, _ = send(url, asking(image, prompt, **more))
    assert status == 200, answer
    return told(answer)


@pytest.mark.parametrize(
    ("source", "word", "secret"),
    [("signs", "text", "word"), ("emblems", "name", "name"), ("paintings", "style", "style")],
)
def test_a_topic_is_told_only_when_the_prompt_asks_for_it(url, world, source, word, secret):
    truth, image = pick(world, source)
    value = getattr(truth.scene, secret)
    assert value in caption(url, image, f"Describe the picture and its {word}.")
    assert value not in caption(url, image, PLAIN)


def test_a_topic_is_a_whole_word_in_any_case():
    assert topics_of("Quote the TEXT; give relative positions.") == {"text", "relations"}
    assert topics_of("contexts, texts, rename, stylish, relatively") == frozenset()


def test_captions_have_60_to_150_words_and_vary_with_the_sampling_seed_alone(url, world):
    _, image = pick(world, "everyday")
    captions = {caption(url, image, EVERYTHING, seed=seed) for seed in range(5)}
    assert len(captions) > 1
    assert all(60 <= len(text.split()) <= 150 for text in captions)
    assert caption(url, image, EVERYTHING, seed=3) == caption(url, image, EVERYTHING, seed=3)


def test_the_same_request_gets_the_same_words_from_another_server(url, world):
    _, image = pick(world, "everyday")
    with serving(Settings(truth=(world[0] / "truth.jsonl",), faults={"latency": 0.01})) as other:
        assert caption(other, image, EVERYTHING) == caption(url, image, EVERYTHING)


def test_a_picture_is_recognised_in_another_file_format(url, world):
    truth, image = pick(world, "everyday")
    again = io.BytesIO()
    Image.open(io.BytesIO(image)).save(again, "BMP")
    assert again.getvalue() != image
    assert caption(url, again.getvalue(), PLAIN)
    assert pixel_digest(Image.open(again)) == truth.pixels


def test_usage_counts_prompt_image_and_answer(url, world):
    _, image = pick(world, "everyday")
    _, answer, _ = send(url, asking(image, "one two three"))
    assert answer["usage"]["prompt_tokens"] == 3 + 255
    assert answer["usage"]["completion_tokens"] == len(PIECE.findall(told(answer)))
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (image_tokens(1024, 1024), image_tokens(4096, 4096, "low"), image_tokens(2048, 4096)) == (
        765,
        85,
        1105,
    )


def test_an_answer_is_cut_at_max_tokens_and_says_so(url, world):
    _, image = pick(world, "everyday")
    whole = caption(url, image, PLAIN)
    for name in ("max_tokens", "max_completion_tokens"):
        _, answer, _ = send(url, asking(image, PLAIN, **{name: 9}))
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 9
        assert len(told(answer)) < len(whole)


def test_mistakes_are_told_at_the_rate_that_was_set(url, world):
    truth_file = world[0] / "truth.jsonl"
    with serving(Settings(truth=(truth_file,), mistakes=1.0)) as wrong:
        images = [(world[0] / truth.file).read_bytes() for truth in world[1][:8]]
        assert all(caption(wrong, image, PLAIN) != caption(url, image, PLAIN) for image in images)


def test_recorded_answers_are_replayed_whatever_the_prompt(tmp_path):
    picture = Image.new("RGB", (10, 8), "teal")
    line = {
        "file": "teal.png",
        "pixels": pixel_digest(picture),
        "answer": "A plain teal surface.\n\nNo more.",
    }
    (tmp_path / "answers.jsonl").write_text(json.dumps(line) + "\n")
    png = io.BytesIO()
    picture.save(png, "PNG")
    with serving(Settings(answers=(tmp_path / "answers.jsonl",))) as url:
        assert caption(url, png.getvalue(), PLAIN) == line["answer"]
        assert send(url, None, path="/models", how="GET")[1]["data"][0]["id"] == "recorded"


def png_of(colour: str) -> bytes:
    png = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(png, "PNG")
    return png.getvalue()


def with_url(text: str) -> dict[str, Any]:
    request = asking(b"", PLAIN)
    request["messages"][0]["content"][1]["image_url"]["url"] = text
    return request


BAD = {
    "not JSON": (b"{", "invalid_json"),
    "no model": ({"messages": []}, "missing_parameter"),
    "no messages": ({"model": "m"}, "invalid_type"),
    "messages of another type": ({"model": "m", "messages": ["hello"]}, "invalid_type"),
    "a part of another type": (
        {"model": "m", "messages": [{"content": [{"type": "audio"}]}]},
        "invalid_value",
    ),
    "a picture it doesn't know": (asking(png_of("teal"), PLAIN), "unknown_picture"),
    "an image that is none": (asking(b"PNG", PLAIN), "invalid_image"),
    "a truncated image": (asking(png_of("teal")[:45], PLAIN), "invalid_image"),
    "broken base64": (with_url("data:image/png;base64,*"), "invalid_base64"),
    "an image elsewhere": (with_url("https://example.com/a.png"), "invalid_image_url"),
    "a stream": (asking(png_of("teal"), PLAIN, stream=True), "unsupported_value"),
    "two choices": (asking(png_of("teal"), PLAIN, n=2), "unsupported_value"),
    "no tokens": (asking(png_of("teal"), PLAIN, max_tokens=0), "invalid_value"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_wrong_request_gets_an_error_body_that_names_the_reason(url, what):
    body, code = BAD[what]
    status, answer, _ = send(url, body)
    assert status == 400
    assert answer["error"]["code"] == code
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


def test_an_unknown_address_gets_an_error_body_too(url):
    status, answer, _ = send(url, {}, path="/embeddings")
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")


def test_a_wrong_or_missing_key_gets_401_and_the_log_holds_no_key(world, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "right-key")
    log = tmp_path / "log.jsonl"
    _, image = pick(world, "everyday")
    settings = Settings(truth=(world[0] / "truth.jsonl",), require_key_env=KEY, log=log)
    with serving(settings) as url:
        for headers in ({}, {"Authorization": "Bearer wrong-key"}, {"Authorization": "Bearer"}):
            status, answer, _ = send(url, asking(image, PLAIN), headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert send(url, asking(image, PLAIN), {"Authorization": "Bearer right-key"})[0] == 200
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [401, 401, 401, 200]
    assert "key" not in log.read_text().replace("invalid_api_key", "")


def ask_all(url: str, world: tuple[Path, list[Truth]], prompt: str = EVERYTHING) -> list[Any]:
    """Every picture once: (status, body) or None where the connection broke."""
    results: list[Any] = []
    for truth in world[1]:
        try:
            results.append(send(url, asking((world[0] / truth.file).read_bytes(), prompt))[:2])
        except (http.client.HTTPException, ConnectionError):
            results.append(None)
    return results


def test_unanswered_requests_succeed_when_sent_again_and_fail_the_same_way_in_another_run(url, world):
    settings = Settings(
        truth=(world[0] / "truth.jsonl",), faults={"429": 0.2, "500": 0.2, "drop": 0.2}, retry_after_s=0.5
    )
    with serving(settings) as faulty:
        rounds = [ask_all(faulty, world) for _ in range(12)]
    with serving(settings) as faulty:
        again = [ask_all(faulty, world) for _ in range(2)]
    assert again == rounds[:2]
    assert {result and result[0] for result in rounds[0]} == {None, 200, 429, 500}
    assert all(
        any(result and result[0] == 200 for result in picture) for picture in zip(*rounds, strict=True)
    )
    # A fault changes nothing about what is said in the end.
    expected = [told(body) for _, body in ask_all(url, world)]
    assert [
        next(told(r[1]) for r in picture if r and r[0] == 200) for picture in zip(*rounds, strict=True)
    ] == expected


def test_a_429_says_when_to_come_back(world):
    with serving(Settings(truth=(world[0] / "truth.jsonl",), faults={"429": 1.0}, retry_after_s=0.25)) as url:
        status, answer, headers = send(url, asking(pick(world, "web")[1], PLAIN))
    assert (status, headers["Retry-After"]) == (429, "0.25")
    assert answer["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("fault", ["refusal", "truncated", "loop", "empty", "echo", "blind"])
def test_a_spoiled_answer_looks_as_it_does_in_the_wild(url, world, fault):
    _, image = pick(world, "everyday")
    whole = caption(url, image, EVERYTHING)
    with serving(Settings(truth=(world[0] / "truth.jsonl",), faults={fault: 1.0})) as faulty:
        status, answer, _ = send(faulty, asking(image, EVERYTHING))
    text, reason = told(answer), answer["choices"][0]["finish_reason"]
    assert status == 200
    match fault:
        case "refusal":
            assert "orry" in text
            assert reason == "stop"
        case "truncated":
            assert whole.startswith(text)
            assert len(text) < len(whole)
            assert reason == "length"
        case "loop":
            assert text.startswith(whole)
            assert text.count(text.rsplit(". ", 1)[-1]) >= 40
            assert reason == "length"
        case "empty":
            assert (text, answer["usage"]["completion_tokens"]) == ("", 0)
        case "echo":
            assert text == EVERYTHING
        case "blind":
            assert text != whole
            assert answer["usage"]["prompt_tokens"] == len(PIECE.findall(EVERYTHING))


def test_the_log_tells_which_request_came_how_often(world, tmp_path):
    log = tmp_path / "log.jsonl"
    truth, image = pick(world, "everyday")
    with serving(Settings(truth=(world[0] / "truth.jsonl",), log=log)) as url:
        for prompt in (PLAIN, PLAIN, EVERYTHING):
            caption(url, image, prompt)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["attempt"] for line in lines] == [0, 1, 0]
    assert {line["pixels"] for line in lines} == {truth.pixels}
    assert lines[0]["request"] == lines[1]["request"] != lines[2]["request"]


@pytest.mark.parametrize(
    "text", ["429", "429=often", "teapot=0.1", "drop=-0.1", "drop=0.7,500=0.7", "429=nan"]
)
def test_faults_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        parse_faults(text)


def test_faults_are_written_as_a_list():
    assert parse_faults("429=0.05, drop=0.01,") == {"429": 0.05, "drop": 0.01}
    assert parse_faults("") == {}


def test_a_simulator_that_cannot_start_says_why(world, tmp_path):
    truth = world[0] / "truth.jsonl"
    (tmp_path / "bad.jsonl").write_text('{"pixels": "00"}\n')
    (tmp_path / "worse.jsonl").write_text("no json\n")
    broken = {
        "knows no picture": Settings(),
        "No such file": Settings(truth=(tmp_path / "none.jsonl",)),
        "without pixels and answer": Settings(answers=(tmp_path / "bad.jsonl",)),
        "not a JSON Lines file": Settings(answers=(tmp_path / "worse.jsonl",)),
        "can't write the log": Settings(truth=(truth,), log=tmp_path / "no" / "log.jsonl"),
        "is not set": Settings(truth=(truth,), require_key_env="NO_SUCH_VARIABLE_HERE"),
        "mistakes": Settings(truth=(truth,), mistakes=2.0),
        "a judge's errors": Settings(truth=(truth,), judge_errors=-0.1),
    }
    for words, settings in broken.items():
        with pytest.raises(SharecapError, match=words), serving(settings):
            pass


def test_a_port_in_use_is_a_clear_error(url, world):
    port = urlsplit(url).port
    assert port is not None
    with (
        pytest.raises(SharecapError, match="can't listen"),
        serving(Settings(truth=(world[0] / "truth.jsonl",), port=port)),
    ):
        pass


def test_the_server_ends_with_its_block_even_after_an_error(world):
    class Oops(Exception):  # noqa: N818
        pass

    with pytest.raises(Oops), serving(Settings(truth=(world[0] / "truth.jsonl",))) as url:
        raise Oops
    with pytest.raises(ConnectionRefusedError):
        send(url, None, path="/models", how="GET")


def test_the_server_ends_when_its_owner_is_killed(world):
    script = (
        "import sys\nfrom pathlib import Path\nfrom sharecap.scenes.simulator import Settings, serving\n"
        "with serving(Settings(truth=(Path(sys.argv[1]),))) as url:\n"
        "    print(url, flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(world[0] / "truth.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.request("GET", parts.path + "/models")
        assert connection.getresponse().read()
        owner.send_signal(signal.SIGKILL)
        # The kept connection ends when the server does: no need to wait for a fixed time.
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""
        connection.close()


def test_the_command_serves_until_it_is_told_to_stop(world):
    command = [
        sys.executable,
        "-m",
        "sharecap.cli",
        "simulate-teacher",
        "--truth",
        str(world[0] / "truth.jsonl"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        assert line.startswith("listening on http://127.0.0.1:")
        url = line.removeprefix("listening on ")
        assert caption(url, pick(world, "everyday")[1], PLAIN)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
