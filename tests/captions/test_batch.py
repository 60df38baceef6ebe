"""The Batch API: the same keys, ledger and budget as online; no request lost or sent twice, whatever dies."""

import asyncio
import json
import random
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from sharecap.captions.batch_log import batches_out
from sharecap.captions.batches import BatchRules
from sharecap.captions.captioner import Request
from sharecap.captions.courier import Patience
from sharecap.captions.gates import Thresholds
from sharecap.captions.layer import read_layer
from sharecap.captions.price import Price
from sharecap.captions.run import plan, run
from sharecap.captions.run_report import RunReport
from sharecap.captions.teachers import open_teacher
from sharecap.captions.teachers.batch import MAX_LINE_BYTES, BatchTeacher
from sharecap.errors import SharecapError, Stopped, UsageError
from sharecap.images.add import add
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import WorldSpec, make_world

IMAGES = 12
QUICK = Patience(base_s=0.002, cap_s=0.01, tries=4)
RULES = BatchRules(poll_s=0.01, poll_cap_s=0.05)
PRICE = Price(10, 20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    make_world(place, WorldSpec(), range(IMAGES), workers=1)
    return place


@pytest.fixture
def dataset(world: Path, tmp_path: Path) -> Path:
    add([world / "images"], tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.fixture
def settings(world: Path, tmp_path: Path) -> Settings:
    return Settings(truth=(world / "truth.jsonl",), batches=tmp_path / "server", log=tmp_path / "log.jsonl")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def caption(dataset: Path, url: str, rules: BatchRules = RULES, **options: object) -> RunReport:
    fixed = {
        "patience": QUICK,
        "rng": random.Random(0),
        "thresholds": Thresholds(failures=1.0),
        "batch": rules,
        **options,
    }
    return run(dataset, f"batch:{url}#scenes", "scenes", "one", **fixed)  # type: ignore[arg-type]


def asked(settings: Settings) -> Counter[str]:
    """How often each request was worked on, and so is paid for."""
    assert settings.log is not None
    lines = map(json.loads, settings.log.read_text().splitlines())
    return Counter(line["request"] for line in lines if line["status"] == 200)


def batches(settings: Settings) -> list[dict[str, Any]]:
    assert settings.batches is not None
    return [json.loads(p.read_text()) for p in sorted((settings.batches / "batches").glob("*.json"))]


def files(settings: Settings) -> list[str]:
    """The input files that lie at the server."""
    assert settings.batches is not None
    return [p.name for p in (settings.batches / "files").iterdir() if not p.name.startswith("file-batch")]


def texts(dataset: Path, layer: str = "one") -> dict[str, str]:
    return {caption.image_id: caption.text for caption in read_layer(dataset, layer)}


def test_a_batch_gives_the_same_captions_as_online_at_half_the_price(
    dataset: Path, settings: Settings
) -> None:
    with serving(settings) as url:
        report = caption(dataset, url, price=PRICE)
        online = run(dataset, f"{url}#scenes", "scenes", "two", price=PRICE)
    assert (report.images, report.captions, report.failures, report.requests) == (IMAGES, IMAGES, {}, IMAGES)
    used = PRICE.prompt_usd * report.prompt_tokens + PRICE.completion_usd * report.completion_tokens
    assert report.cost_usd == pytest.approx(used / 1e6 / 2)
    assert online.requests == 0  # the same keys: nothing is left to ask
    assert texts(dataset) == texts(dataset, "two")
    assert len(batches(settings)) == 1
    assert files(settings) == []  # what was uploaded is taken away
    assert batches_out(dataset) == []


def test_what_was_answered_online_goes_into_no_batch(world: Path, tmp_path: Path, settings: Settings) -> None:
    dataset = tmp_path / "grown"
    first = sorted((world / "images").iterdir())[0]
    add([first], dataset, first.name)
    with serving(settings) as url:
        online = run(dataset, f"{url}#scenes", "scenes", "one")
        add([world / "images"], dataset)
        report = caption(dataset, url)
    assert 0 < online.requests < IMAGES
    assert (report.captions, report.requests) == (IMAGES, IMAGES - online.requests)
    assert set(asked(settings).values()) == {1}


def test_files_are_split_by_count_and_by_bytes(dataset: Path, settings: Settings) -> None:
    with serving(settings) as url:
        caption(dataset, url, replace(RULES, requests=5))
        assert [b["request_counts"]["total"] for b in batches(settings)] == [5, 5, 2]
        teacher = open_teacher(f"batch:{url}#scenes")
        assert isinstance(teacher, BatchTeacher)
        wanted = plan(dataset, teacher, "scenes")
        sizes = [
            len(teacher.line(job.key.hex(), Request(job.image, job.prompt.text)))
            for jobs in wanted.jobs()
            for job in jobs
        ]
    assert max(sizes) * 3 < sum(sizes)
    most = max(sizes) * 3
    other = replace(settings, batches=dataset.parent / "other")
    with serving(other) as url:
        rules = replace(RULES, bytes=most)
        report = run(dataset, f"batch:{url}#scene2", "scenes", "two", batch=rules)
    assert report.captions == IMAGES
    assert [b["request_counts"]["total"] for b in batches(other)] == packed(sizes, most)


def packed(sizes: list[int], most: int) -> list[int]:
    """How many of the lines go into each file, if each takes as many as fit."""
    counts, room = [0], most
    for size in sizes:
        if size > room:
            counts.append(0)
            room = most
        counts[-1] += 1
        room -= size
    return counts


def test_an_expired_batch_keeps_its_answers_and_only_the_rest_goes_again(
    dataset: Path, settings: Settings
) -> None:
    with serving(replace(settings, batch_faults={"expire": 0.5}, seed=3)) as url:
        report = caption(dataset, url, replace(RULES, requests=4, tries=20))
    assert (report.captions, report.failures) == (IMAGES, {})
    assert "expired" in {b["status"] for b in batches(settings)}
    assert set(asked(settings).values()) == {1}
    assert report.doubtful == 0


def test_what_no_batch_answers_is_a_named_failure_and_free(dataset: Path, settings: Settings) -> None:
    with serving(replace(settings, batch_faults={"expire": 1.0})) as url:
        report = caption(dataset, url, replace(RULES, tries=2), price=PRICE)
    assert report.captions + report.failures["batch_expired"] == IMAGES
    assert report.failures["batch_expired"] == 3  # a half of a half
    assert report.doubtful == 0
    with serving(settings) as url:  # the layer is sealed: asked for again, the rest is taken in
        again = caption(dataset, url, retry_failed=True)
    assert (again.captions, again.requests, again.failures) == (IMAGES, 3, {})


def test_error_lines_are_tried_again_and_lost_ones_may_be_on_the_bill(
    dataset: Path, settings: Settings
) -> None:
    with serving(replace(settings, batch_faults={"error": 0.3, "lost": 0.2}, seed=1)) as url:
        report = caption(dataset, url, replace(RULES, tries=30), price=PRICE)
    assert (report.captions, report.failures) == (IMAGES, {})
    assert report.doubtful == report.requests - IMAGES - errors(settings)
    assert report.doubtful_usd is not None


def errors(settings: Settings) -> int:
    return sum(b["request_counts"]["failed"] for b in batches(settings))


def test_answers_of_a_batch_get_the_same_verdict_as_any(dataset: Path, settings: Settings) -> None:
    faults = {"refusal": 0.2, "truncated": 0.2, "empty": 0.2}
    with serving(replace(settings, faults=faults, seed=2)) as url:
        report = caption(dataset, url)
    assert report.captions + sum(report.failures.values()) == IMAGES
    assert {"refusal:rephrased", "truncated:longer"} <= set(report.remedies)
    assert set(report.failures) <= {"refusal", "truncated", "empty"}


def test_a_busy_server_is_asked_again_and_a_crowded_one_gets_fewer_batches(
    dataset: Path, settings: Settings
) -> None:
    with serving(replace(settings, batch_faults={"busy": 0.5, "crowded": 0.4}, seed=4)) as url:
        report = caption(dataset, url, replace(RULES, requests=2))
    assert (report.captions, report.failures) == (IMAGES, {})
    assert "failed" in {b["status"] for b in batches(settings)}
    assert set(asked(settings).values()) == {1}


def test_a_batch_whose_creation_was_never_confirmed_is_found_and_not_made_twice(
    dataset: Path, settings: Settings
) -> None:
    with serving(replace(settings, batch_faults={"vanish": 1.0})) as url:
        report = caption(dataset, url, replace(RULES, requests=5))
    assert (report.captions, report.failures) == (IMAGES, {})
    assert len(batches(settings)) == 3
    assert set(asked(settings).values()) == {1}


def test_a_budget_is_a_wall_for_files_too(dataset: Path, settings: Settings) -> None:
    with serving(settings) as url:
        wanted = plan(dataset, f"batch:{url}#scenes", "scenes")
        half = RULES.price(PRICE)
        assert half is not None
        worst = max(half.of(job.bound) for jobs in wanted.jobs() for job in jobs)
        with pytest.raises(Stopped, match="budget") as caught:
            caption(dataset, url, price=PRICE, budget_usd=worst * 2.2)
        first = batches(settings)[0]["request_counts"]["total"]
        spent = spent_usd(dataset)
        assert caught.value.exit_code == 3
        assert first == 2
        assert spent <= worst * 2.2
        assert len(batches(settings)) > 1  # what came back is spent on more
        report = caption(dataset, url, price=PRICE, budget_usd=1.0)
    assert report.captions == IMAGES
    assert set(asked(settings).values()) == {1}


def test_a_remedy_that_the_budget_does_not_bear_ends_the_run(
    world: Path, tmp_path: Path, settings: Settings
) -> None:
    first = sorted((world / "images").iterdir())[0]
    picture = sorted(path for path in first.rglob("*") if path.is_file())[0]
    add([picture], tmp_path / "single", first.name)
    with serving(replace(settings, faults={"truncated": 1.0})) as url:
        wanted = plan(tmp_path / "single", f"batch:{url}#scenes", "scenes")
        half = RULES.price(PRICE)
        assert half is not None
        worst = max(half.of(job.bound) for jobs in wanted.jobs() for job in jobs)
        with pytest.raises(Stopped, match="budget"):
            caption(tmp_path / "single", url, price=PRICE, budget_usd=worst * 1.3)
        assert len(batches(settings)) == 1


def spent_usd(dataset: Path) -> float:
    db = sqlite3.connect(dataset / "ledger.sqlite")
    return float(db.execute("SELECT sum(coalesce(cost_usd, 0) + doubtful_usd) FROM requests").fetchone()[0])


def test_a_server_without_batches_and_hostile_answers_are_one_clear_error(world: Path, dataset: Path) -> None:
    with serving(Settings(truth=(world / "truth.jsonl",))) as url, pytest.raises(SharecapError) as caught:
        caption(dataset, url)
    assert "404" in str(caught.value)
    assert "leave `batch:` out" in str(caught.value)
    assert batches_out(dataset) == []
    teacher = open_teacher("batch:http://127.0.0.1:9/v1#m")
    assert isinstance(teacher, BatchTeacher)
    for line in (
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"custom_id": 3}',
        b"\xff",
        b'{"custom_id": "' + b"x" * 300 + b'"}',
    ):
        assert teacher.outcome(line) is None
    for line, kind in (
        (b'{"custom_id": "aa"}', "server_error"),
        (b'{"custom_id": "aa", "response": {"status_code": 200, "body": "<html>"}}', "malformed"),
        (b'{"custom_id": "aa", "response": {"status_code": 200}}', "malformed"),
        (b'{"custom_id": "aa", "response": {"status_code": 400, "body": {}}}', "rejected"),
        (b'{"custom_id": "aa", "error": {"code": "batch_expired", "message": "late"}}', "batch_expired"),
    ):
        found = teacher.outcome(line)
        assert found is not None
        assert getattr(found[1], "kind", None) == kind


@pytest.mark.parametrize("rules", ["requests", "requests=x", "speed=3", "requests=0", "bytes=-1", "tries=0"])
def test_rules_that_cannot_be_read_are_wrong_usage(rules: str) -> None:
    with pytest.raises(UsageError):
        BatchRules.parse(rules)


def test_rules_are_read() -> None:
    assert BatchRules.parse("requests=10, bytes=5e6,poll_s=0.5") == BatchRules(
        requests=10, bytes=5_000_000, poll_s=0.5
    )


def test_only_endpoints_have_batches() -> None:
    for spec in ("batch:local:x", "batch:", "batch:batch:openai:m", "batch:http://host/v1"):
        with pytest.raises(UsageError):
            open_teacher(spec, environment={})


def command(dataset: Path, teacher: str) -> list[str]:
    words = ["caption", str(dataset), "--teacher", teacher, "--prompts", "scenes"]
    rules = ["--layer", "one", "--json", "--batch", "requests=4,poll_s=0.01,poll_cap_s=0.05"]
    return [sys.executable, "-m", "sharecap.cli", *words, *rules, "--price", "10,20"]


STEPS = ("begin", "add", "recorded", "upload", "uploaded", "create", "created", "look", "lines", "settled")
KILLED = """
import os, signal, sys
from sharecap import cli
from sharecap.captions.batch_log import BatchLog
from sharecap.captions.teachers.batch import MAX_LINE_BYTES, BatchTeacher
step, nth, sys.argv = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
left = nth
def die(at):
    global left
    left -= at == step
    if at == step and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def after(owner, name):
    inner = getattr(owner, name)
    def sync(*args, **more):
        result = inner(*args, **more)
        die(name if name != "mark" else "uploaded" if more.get("file_id") else args[2])
        return result
    async def wait(*args, **more):
        result = await inner(*args, **more)
        die(name)
        return result
    async def pieces(*args, **more):
        async for one in inner(*args, **more):
            yield one
            die(name)
    kind = {"upload": wait, "create": wait, "look": wait, "lines": pieces}.get(name, sync)
    setattr(owner, name, kind)
for name in ("begin", "add", "mark"):
    after(BatchLog, name)
for name in ("upload", "create", "look", "lines"):
    after(BatchTeacher, name)
cli.main()
"""


@pytest.fixture(scope="module")
def lasting(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    place = tmp_path_factory.mktemp("lasting")
    truth = (world / "truth.jsonl",)
    settings = Settings(truth=truth, batches=place, log=place / "log.jsonl", batch_line_ms=2)
    with serving(settings) as url:
        yield settings, url


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_after_any_step_loses_nothing_and_sends_nothing_twice(
    dataset: Path, lasting: tuple[Settings, str], step: str
) -> None:
    settings, url = lasting
    before, teacher = asked(settings), f"batch:{url}#scenes-{step}"
    line = [sys.executable, "-c", KILLED, step, "2", *command(dataset, teacher)[2:]]
    killed = subprocess.run(line, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = run(dataset, teacher, "scenes", "one", price=PRICE, patience=QUICK, batch=RULES)
    assert (report.captions, report.failures, report.in_flight, report.doubtful) == (IMAGES, {}, 0, 0)
    fresh = asked(settings) - before
    assert set(fresh.values()) == {1}
    assert len(fresh) == IMAGES
    assert batches_out(dataset) == []
    assert not list(dataset.glob("*.partial"))


def test_ctrl_c_leaves_batches_running_and_says_so(dataset: Path, settings: Settings) -> None:
    with serving(replace(settings, batch_line_ms=200)) as url:
        with subprocess.Popen(
            command(dataset, f"batch:{url}#scenes"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while sum(batch.state == "created" for batch in batches_out(dataset)) < 3:
                assert process.poll() is None
                threading.Event().wait(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate()
        assert process.returncode == 130
        assert "3 batches with 12 requests go on at the provider" in err.splitlines()[-1]
        # Online, nothing of it is asked a second time, and the layer isn't sealed without it.
        with pytest.raises(Stopped, match="still out in batches"):
            run(dataset, f"{url}#scenes", "scenes", "one", price=PRICE)
        assert set(asked(settings).values()) <= {1}
    # The server dies too, and comes back at its address with what it had.
    port = int(url.rpartition(":")[2].removesuffix("/v1"))
    with serving(replace(settings, port=port)) as again:
        report = caption(dataset, again, price=PRICE)
    assert (report.captions, report.requests, report.in_flight) == (IMAGES, 0, 0)


def test_a_cancelled_batch_is_taken_in_and_online_does_the_rest(dataset: Path, settings: Settings) -> None:
    with serving(replace(settings, batch_line_ms=60)) as url:
        with subprocess.Popen(
            command(dataset, f"batch:{url}#scenes"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while not any(b["request_counts"]["completed"] for b in batches(settings)):
                assert process.poll() is None
                threading.Event().wait(0.02)
            for batch in batches(settings):
                urlopen(f"{url}/batches/{batch['id']}/cancel", data=b"").close()
            process.send_signal(signal.SIGINT)
        assert process.returncode == 130
        with pytest.raises(Stopped, match="still to be sent"):
            caption(dataset, url, replace(RULES, at_once=0), price=PRICE)
        assert "cancelled" in {b["status"] for b in batches(settings)}
        assert batches_out(dataset) == []
        taken = asked(settings).total()
        report = run(dataset, f"{url}#scenes", "scenes", "one", price=PRICE)
    assert (report.captions, report.requests) == (IMAGES, IMAGES - taken)
    assert 0 < taken < IMAGES
    assert set(asked(settings).values()) == {1}


def test_a_line_without_an_end_is_passed_over_and_not_kept_in_memory(settings: Settings) -> None:
    with serving(settings) as url:
        assert settings.batches is not None
        good = [b'{"custom_id": "aa"}', b'{"custom_id": "bb"}', b'{"custom_id": "cc"}']
        endless = b"x" * (3 * MAX_LINE_BYTES)
        for name, lines in (("file-1", [good[0], endless, good[1], good[2]]), ("file-2", [good[0], endless])):
            (settings.batches / "files" / name).write_bytes(b"\n".join(lines))
        teacher = open_teacher(f"batch:{url}#scenes")
        assert isinstance(teacher, BatchTeacher)

        async def read(name: str) -> list[bytes]:
            found = [line async for line in teacher.lines(name)]
            await teacher.close()
            return found

        assert asyncio.run(read("file-1")) == good
        assert asyncio.run(read("file-2")) == good[:1]
        with pytest.raises(SharecapError):  # an id is never a path
            asyncio.run(read("../files/file-1"))


def test_the_pages_example_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "caption-millions.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tested: batches -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "examples").symlink_to(root / "examples")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    programs = {"python": [sys.executable], "sharecap": [sys.executable, "-m", "sharecap.cli"]}
    servers, printed = [], ""
    try:
        for line in block[1].replace("8125", str(port)).splitlines():
            words = shlex.split(line.rstrip("&"))
            words = [*programs[words[0]], *words[1:]]
            if line.endswith("&"):
                servers.append(subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
                assert servers[-1].stdout is not None
                assert "listening" in servers[-1].stdout.readline()
                continue
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed = done.stdout
    finally:
        for server in servers:
            server.terminate()
            server.communicate()
    assert "20 captions of 20 images" in printed
    assert "nothing to send" in printed
