"""Captions on a Ray cluster of this machine: workers die, the layer is the same, the driver books it all."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharecap.captions.captioner import (
    Answer,
    BusyError,
    FatalError,
    FilteredError,
    RejectedError,
    Request,
    Sampling,
    UnavailableError,
)
from sharecap.captions.cluster import RayRules, _packed, _packed_request, _request_of, _unpacked, open_engine
from sharecap.captions.gates import GATES
from sharecap.captions.layer import open_layer, read_layer
from sharecap.captions.price import Price
from sharecap.captions.prompts import Pack
from sharecap.captions.run import run
from sharecap.captions.run_report import RunReport
from sharecap.errors import SharecapError, Stopped, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.decode import ImageError
from sharecap.images.place import loose_file
from sharecap.records import Usage

from .conftest import make_dataset
from .server import Seen, Teacher

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sharecap[ray]'")

IMAGES = 40
ENGINE = "ray:workers=2,block=2,cpus=0.25"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Whatever cluster a test starts ends with this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield
    ray.shutdown()


def caption(dataset: Path, spec: str, layer: str, engine: str | None = None, **options: object) -> RunReport:
    made = open_engine(engine, spec) if engine else None
    return run(dataset, spec, "sharegpt4v", layer, engine=made, accept=GATES, **options)  # type: ignore[arg-type]


def rows(dataset: Path, layer: str) -> list[tuple[str, str]]:
    """(image, text or kind of failure) in the layer's order."""
    lines = (open_layer(dataset, layer).path / "failures.jsonl").read_text().splitlines()
    failed = [(line["image_id"], line["kind"]) for line in map(json.loads, lines)]
    return [(caption.image_id, caption.text) for caption in read_layer(dataset, layer)] + failed


def workers() -> list[int]:
    """The processes that hold a captioner."""
    titles = {int(p.name): (p / "cmdline") for p in Path("/proc").iterdir() if p.name.isdigit()}
    mine = []
    for pid, title in titles.items():
        try:
            if b"ray::" in (text := title.read_bytes()) and b"Worker" in text:
                mine.append(pid)
        except OSError:  # it has ended in the meantime
            continue
    return mine


def script(seen: Seen) -> str:
    kind = int(seen.image[:8], 16) % 8
    return {0: "filter", 1: "400"}.get(kind, "slow=0.05")


def test_two_workers_of_which_one_is_killed_make_the_very_layer_that_one_process_makes(
    tmp_path: Path, teacher: Teacher
) -> None:
    teacher.script = script
    spec = f"{teacher.url}#model"
    alone = make_dataset(tmp_path / "alone", IMAGES)
    expected = caption(alone, spec, "one")
    teacher.answered.clear()
    killed: list[int] = []

    def kill(running: Teacher) -> None:
        if running.answered.total() == 8 and not killed:
            killed.append(min(workers()))
            os.kill(killed[0], signal.SIGKILL)

    teacher.on_answer = kill
    together = make_dataset(tmp_path / "together", IMAGES)
    report = caption(together, spec, "one", ENGINE)
    assert killed
    assert rows(together, "one") == rows(alone, "one")
    assert len(expected.failures) >= 2
    assert (report.captions, report.failures) == (expected.captions, expected.failures)
    # What died with the worker was at most two blocks on their way, is booked as doubtful, and went again.
    assert 1 <= report.doubtful <= 4
    assert report.in_flight == 0


def test_workers_that_hold_a_local_captioner_say_what_one_process_says(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from .talking import SAYS, talking_model

    pack = Pack("short", "1", "", "", {}, "Describe the image.")
    spec = f"local:{talking_model(tmp_path, pack.default or '')}"
    dataset, words = make_dataset(tmp_path, 8), Sampling(60)
    run(dataset, spec, pack, "alone", sampling=words, accept=GATES)
    (dataset / "ledger.sqlite").unlink()  # or all would be there
    report = run(
        dataset, spec, pack, "together", sampling=words, accept=GATES, engine=open_engine(ENGINE, spec)
    )
    assert (report.requests, report.captions, report.doubtful) == (8, 8, 0)
    assert rows(dataset, "together") == rows(dataset, "alone")
    assert {text for _, text in rows(dataset, "together")} == {SAYS}


def test_a_budget_is_a_wall_for_rounds_too(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: 'usage={"prompt_tokens": 1000, "completion_tokens": 1000}'
    with pytest.raises(Stopped, match="budget") as caught:
        caption(dataset, f"{teacher.url}#model", "one", ENGINE, price=Price(10, 20), budget_usd=0.25)
    assert caught.value.exit_code == 3
    assert 0.25 / 2 < 0.03 * len(teacher.log) <= 0.25
    assert set(teacher.counts().values()) == {1}


def test_a_wrong_key_stops_the_run_with_what_to_do(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "401"
    with pytest.raises(SharecapError, match="OPENAI_API_KEY"):
        caption(dataset, f"{teacher.url}#model", "one", ENGINE)


def test_a_missing_image_is_a_named_failure(dataset: Path, teacher: Teacher) -> None:
    Path(next(iter(Catalog.open(dataset))).path).unlink()
    report = caption(dataset, f"{teacher.url}#model", "one", ENGINE)
    assert (report.captions, report.failures) == (11, {"image_missing": 1})


@pytest.mark.parametrize(
    "outcome",
    [
        Answer("A boat.", "stop", Usage(3, 4)),
        Answer("", "content_filter", None, "not this"),
        ImageError("missing", "no such file", "x.png", "put it back"),
        BusyError("slow down", where="http://host", retry_after_s=3.5),
        UnavailableError("timeout", "no answer", maybe_billed=True),
        FatalError("the key is wrong", where="http://host", todo="set it"),
        RejectedError("too large"),
        FilteredError("withheld"),
    ],
)
def test_outcomes_come_back_from_a_worker_as_they_were(outcome: Answer | SharecapError) -> None:
    back = _unpacked(_packed(outcome))
    assert type(back) is type(outcome)
    if isinstance(outcome, Answer):
        assert back == outcome
    else:
        assert {**vars(back), "limits": None} == {**vars(outcome), "limits": None}


def test_a_request_reaches_a_worker_as_it_was() -> None:
    request = Request(loose_file(Path("/a/ü.png"), "0" * 64), "Say it.", Sampling(7, 0.5, None, 3))
    assert _request_of(_packed_request(request)) == request


@pytest.mark.parametrize("spec", ["dask", "ray:workers=0", "ray:workers=x", "ray:speed=1", "ray:workers"])
def test_an_engine_that_is_none_is_wrong_usage(spec: str) -> None:
    with pytest.raises(UsageError):
        open_engine(spec, "http://127.0.0.1:9/v1#m")


def test_a_batch_api_and_a_cluster_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="needs no cluster"):
        open_engine("ray", "batch:openai:m")


def test_rules_are_read() -> None:
    assert RayRules.parse("workers=8,gpus=1, cpus=0.5") == RayRules(workers=8, gpus=1.0, cpus=0.5)
