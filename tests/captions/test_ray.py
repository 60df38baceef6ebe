"""Captions on a Ray cluster of this machine: workers die, the layer is the same, the driver books it all."""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharecap.captions.canary import blank_image
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
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.decode import ImageError
from sharecap.images.place import loose_file
from sharecap.records import Usage

from .conftest import make_dataset
from .server import USAGE, Seen, Teacher, serving

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sharecap[ray]'")

IMAGES = 40
OTHERS = tuple(name for name in GATES if name != "canary")
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
    teacher.log.clear()
    killed: list[int] = []
    end = time.monotonic() + 120

    def ready(running: Teacher) -> bool:
        # A worker has a block of two out at most: with more than two open, whichever dies was at work. On a
        # machine with much else to do the second one comes late, so answers wait for it.
        asked = sum(script(seen) != "400" for seen in running.log)  # these are over at once, and not counted
        still_open = asked - running.answered.total()
        if running.answered.total() >= 3 and still_open > 2 and not killed:
            killed.append(min(workers()))
            os.kill(killed[0], signal.SIGKILL)
        return bool(killed) or running.answered.total() < 3 or time.monotonic() > end

    teacher.ready = ready
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


def test_a_sources_budget_is_a_wall_for_rounds_and_the_other_sources_go_on(
    tmp_path: Path, teacher: Teacher
) -> None:
    dataset = make_dataset(tmp_path, 6)
    more = make_dataset(tmp_path / "more", 10).parent / "pictures" / "coco"
    for number in range(6):
        (more / f"{number:04}.png").unlink()  # the first six are the same pictures
    add([more.rename(more.with_name("sam"))], dataset)
    sources = {image.id: image.source for image in Catalog.open(dataset)}
    teacher.script = lambda _: 'usage={"prompt_tokens": 1000, "completion_tokens": 1000}'  # $0.03 each
    options: dict[str, Any] = {"price": Price(10, 20), "source_budgets": {"coco": 0.08}}
    with pytest.raises(Stopped, match=r"budget of .* for source coco reached") as caught:
        caption(dataset, f"{teacher.url}#model", "one", ENGINE, **options)
    assert caught.value.exit_code == 3
    assert "the other sources are done; run again with a higher --budget SOURCE=USD" in str(caught.value)
    assert Counter(sources[seen.image] for seen in teacher.log) == {"coco": 2, "sam": 4}
    options["source_budgets"] = {"coco": 5.0}
    report = caption(dataset, f"{teacher.url}#model", "one", ENGINE, **options)
    assert (report.captions, report.doubtful) == (10, 0)
    assert set(teacher.counts().values()) == {1}


def test_the_second_teacher_is_asked_by_the_driver_and_nothing_is_paid_twice(
    dataset: Path, teacher: Teacher
) -> None:
    images = [image.id for image in Catalog.open(dataset)]
    odd = {images[0]: "400=content_policy_violation", images[1]: "filter", images[2]: "refusal"}
    teacher.script = lambda seen: odd.get(seen.image, "ok")
    spec = f"{teacher.url}#model"
    options: dict[str, Any] = {"price": Price(10, 20), "second_price": Price(10, 20), "budget_usd": 5.0}
    broken = [True]
    with serving(lambda _: "401" if broken else "ok") as other:
        options["second_teacher"] = f"{other.url}#other"
        with pytest.raises(SharecapError, match="refuses the key"):
            caption(dataset, spec, "one", ENGINE, **options)
        broken.clear()
        other.log.clear()
        report = caption(dataset, spec, "one", ENGINE, **options)
    assert (report.captions, report.failures) == (12, {})
    assert other.counts() == dict.fromkeys(images[:3], 1)
    # As it was put, and the refusal in other words too. The second teacher's error stopped a round in its
    # middle: what was out of it goes again, and is booked as perhaps billed.
    once = Counter({**dict.fromkeys(images, 1), images[2]: 2})
    assert once <= teacher.counts()
    assert (teacher.counts() - once).total() <= report.doubtful <= 8
    by = {made.image_id: made.captioner for made in read_layer(dataset, "one")}
    assert [by[image] for image in images] == ["other"] * 3 + ["model"] * 9


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for a canary."""
    return make_dataset(tmp_path_factory.mktemp("many"), 160)


def test_an_endpoint_that_sees_nothing_is_stopped_before_the_first_round_and_one_that_sees_is_not(
    many: Path, teacher: Teacher
) -> None:
    teacher.script = lambda _: "say=A calm meadow under a wide sky with a lone tree."
    spec, engine = f"{teacher.url}#model", open_engine("ray:workers=2,block=16", f"{teacher.url}#model")
    options: dict[str, Any] = {"price": Price(10, 20), "accept": OTHERS, "engine": engine}
    with pytest.raises(Stopped, match="gate canary: the model does not seem to see") as caught:
        run(many, spec, "sharegpt4v", "one", **options)
    assert caught.value.exit_code == 3
    assert len(teacher.log) == 8
    teacher.script = lambda seen: f"say={seen.image[:9]} and {seen.image[9:18]} beside {seen.image[18:30]}"
    report = run(many, spec, "sharegpt4v", "one", **options)
    assert (report.captions, report.failures, report.canary_requests) == (160, {}, 16)
    assert report.cost_usd == pytest.approx(len(teacher.log) * Price(10, 20).of(Usage(**USAGE)))


def test_a_local_captioner_that_sees_nothing_is_found_by_a_worker_and_never_loaded_by_the_driver(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from sharecap.captions.teachers.local import LocalCaptioner

    from .talking import talking_model

    async def never(*_: object) -> Answer:
        raise AssertionError("the driver asks no model of its own")

    monkeypatch.setattr(LocalCaptioner, "answer", never)  # the workers are other processes
    pack = Pack("short", "1", "", "", {}, "Describe the image.")
    spec = f"local:{talking_model(tmp_path, pack.default or '')}"
    options: dict[str, Any] = {"accept": OTHERS, "engine": open_engine(ENGINE, spec)}
    with pytest.raises(Stopped, match="gate canary"):
        run(many, spec, pack, "local", sampling=Sampling(60), **options)
    with sqlite3.connect(many / "ledger.sqlite") as db:
        model = "SELECT prompt_id LIKE 'canary:%', state FROM requests WHERE model = 'captioner'"
        assert db.execute(model).fetchall() == [(1, "done")] * 8


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
    assert _request_of(_packed_request(request), blank_image()) == request


def test_the_canarys_grey_picture_is_each_nodes_own() -> None:
    here = blank_image()
    there, request = replace(here, path="/there/blank.png"), Request(here, "Say it.")
    assert _request_of(_packed_request(request, is_blank=True), there) == replace(request, image=there)


@pytest.mark.parametrize("spec", ["dask", "ray:workers=0", "ray:workers=x", "ray:speed=1", "ray:workers"])
def test_an_engine_that_is_none_is_wrong_usage(spec: str) -> None:
    with pytest.raises(UsageError):
        open_engine(spec, "http://127.0.0.1:9/v1#m")


def test_a_batch_api_and_a_cluster_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="needs no cluster"):
        open_engine("ray", "batch:openai:m")


def test_rules_are_read() -> None:
    assert RayRules.parse("workers=8,gpus=1, cpus=0.5") == RayRules(workers=8, gpus=1.0, cpus=0.5)
