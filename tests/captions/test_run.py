"""The run: every image ends as a caption or a named failure, nothing is asked twice, and stops are clear."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sharecap.captions.captioner import Sampling
from sharecap.captions.courier import Patience
from sharecap.captions.gates import Thresholds
from sharecap.captions.layer import layers, open_layer, read_layer
from sharecap.captions.plan import forecast
from sharecap.captions.price import Price
from sharecap.captions.run import plan, run
from sharecap.captions.run_report import RunReport
from sharecap.errors import SharecapError, Stopped, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Usage

from .conftest import make_dataset
from .server import USAGE, Seen, Teacher

QUICK = Patience(base_s=0.002, cap_s=0.01)
PRICE = Price(10, 20)
COST = PRICE.of(Usage(**USAGE))


def caption(dataset: Path, teacher: Teacher, layer: str = "one", **options: object) -> RunReport:
    fixed = {"patience": QUICK, "rng": random.Random(0), **options}
    return run(dataset, f"{teacher.url}#model", "sharegpt4v", layer, **fixed)  # type: ignore[arg-type]


def nth(*actions: str) -> Callable[[Seen], str]:
    """The n-th request about an image meets the n-th action; after the last, all goes well."""
    return lambda seen: actions[seen.nth - 1] if seen.nth <= len(actions) else "ok"


def only(image_number: int, action: str) -> Callable[[Seen], str]:
    """All requests about the image that is asked about n-th meet `action`."""
    order: dict[str, int] = {}
    return lambda seen: action if order.setdefault(seen.image, len(order) + 1) == image_number else "ok"


def test_every_image_is_captioned_once_in_the_catalogs_order(dataset: Path, teacher: Teacher) -> None:
    report = caption(dataset, teacher, price=PRICE)
    assert (report.images, report.captions, report.failures, report.requests) == (12, 12, {}, 12)
    assert report.cost_usd == pytest.approx(12 * COST)
    captions = list(read_layer(dataset, "one"))
    assert [c.image_id for c in captions] == [image.id for image in Catalog.open(dataset)]
    assert all(c.text.startswith(f"A picture that begins with {c.image_id[:12]}") for c in captions)
    first = captions[0]
    assert (first.captioner, first.prompt_id, first.finish_reason) == ("model", "sharegpt4v@2/coco", "stop")
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (100, 50)
    assert set(teacher.counts().values()) == {1}


def test_the_endpoint_gets_the_very_bytes_of_the_file(dataset: Path, teacher: Teacher) -> None:
    caption(dataset, teacher)
    assert set(teacher.counts()) == {image.id for image in Catalog.open(dataset)}
    assert {seen.media_type for seen in teacher.log} == {"image/png"}


def test_the_same_command_again_does_nothing_but_report(dataset: Path, teacher: Teacher) -> None:
    first = caption(dataset, teacher, price=PRICE)
    again = caption(dataset, teacher, price=PRICE)
    assert (again.requests, again.captions, again.cost_usd) == (0, 12, first.cost_usd)
    assert len(teacher.log) == 12


def test_only_new_images_are_asked_when_the_dataset_has_grown(dataset: Path, teacher: Teacher) -> None:
    caption(dataset, teacher)
    more = make_dataset(dataset.parent / "more", 15)  # the first twelve are the same pictures
    add([more.parent / "pictures"], dataset)
    report = caption(dataset, teacher)
    assert (report.images, report.kept, report.requests, report.captions) == (15, 12, 3, 15)


def test_the_same_requests_under_another_layers_name_cost_nothing(dataset: Path, teacher: Teacher) -> None:
    caption(dataset, teacher)
    assert caption(dataset, teacher, "two").requests == 0
    assert layers(dataset) == ["one", "two"]


def test_another_sampling_is_another_layer(dataset: Path, teacher: Teacher) -> None:
    caption(dataset, teacher)
    with pytest.raises(UsageError, match="another sampling"):
        caption(dataset, teacher, sampling=Sampling(temperature=0.5))
    assert caption(dataset, teacher, "two", sampling=Sampling(temperature=0.5)).requests == 12


def test_sampling_reaches_the_server_and_what_is_not_set_stays_the_servers(
    dataset: Path, teacher: Teacher
) -> None:
    caption(dataset, teacher, sampling=Sampling(max_tokens=77, temperature=0.5))
    body = teacher.log[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("model", 77, 0.5)
    assert not {"top_p", "seed"} & set(body)


def test_concurrency_is_bounded_and_used(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "slow=0.02"
    caption(dataset, teacher, concurrency=4)
    assert teacher.most_out == 4


@pytest.mark.parametrize("fault", ["500", "503", "drop", "raw={}", "raw=<html>", "huge", "busy=0", "429"])
def test_a_passing_fault_is_overcome(dataset: Path, teacher: Teacher, fault: str) -> None:
    teacher.script = nth(fault, fault)
    report = caption(dataset, teacher)
    assert (report.captions, report.failures, report.requests) == (12, {}, 36)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("500", "server_error"), ("drop", "dropped"), ("raw={}", "malformed"), ("huge", "malformed")],
)
def test_a_lasting_fault_of_one_image_is_a_counted_failure(
    dataset: Path, teacher: Teacher, fault: str, kind: str
) -> None:
    teacher.script = only(3, fault)
    report = caption(dataset, teacher)
    assert (report.captions, report.failures) == (11, {kind: 1})
    assert max(teacher.counts().values()) == QUICK.tries
    assert open_layer(dataset, "one").metrics["failures"] == {kind: 1}


@pytest.mark.parametrize(
    ("fault", "kind", "sent"),
    [
        ("refusal", "refusal", 2),
        ("refused", "refusal", 2),
        ("filter", "content_filter", 1),
        ("length", "truncated", 2),
        ("400", "rejected", 1),
        ("400=content_policy_violation", "content_filter", 1),
        ("empty", "empty", 3),
        ("loop", "loop", 3),
        ("echo", "prompt_echo", 3),
    ],
)
def test_an_answer_that_is_no_caption_is_a_named_failure(
    dataset: Path, teacher: Teacher, fault: str, kind: str, sent: int
) -> None:
    teacher.script = only(3, fault)
    report = caption(dataset, teacher, price=PRICE)
    assert (report.captions, report.failures) == (11, {kind: 1})
    assert max(teacher.counts().values()) == sent
    paid = 11 + (0 if fault.startswith("400") else sent)
    assert report.cost_usd == pytest.approx(paid * COST)


def test_failures_are_final_until_they_are_asked_for_again(dataset: Path, teacher: Teacher) -> None:
    teacher.script = only(3, "refusal")
    caption(dataset, teacher)
    teacher.script = lambda _: "ok"
    assert caption(dataset, teacher).requests == 0
    report = caption(dataset, teacher, retry_failed=True)
    assert (report.requests, report.captions, report.failures) == (1, 12, {})
    assert len(list(read_layer(dataset, "one"))) == 12


def test_a_further_draw_has_another_seed_and_is_not_greedy(dataset: Path, teacher: Teacher) -> None:
    teacher.script = nth("loop", "empty")
    report = caption(dataset, teacher, sampling=Sampling(temperature=0, seed=5))
    assert (report.captions, report.requests) == (12, 36)
    draws = {(seen.nth, seen.body["seed"], seen.body["temperature"]) for seen in teacher.log}
    assert draws == {(1, 5, 0), (2, 6, 0.7), (3, 7, 0.7)}


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda seen: "busy=0.3" if seen.number == 1 else "ok"
    report = caption(dataset, teacher, concurrency=1)
    assert (report.captions, report.requests) == (12, 13)
    assert report.seconds >= 0.3


def test_a_wrong_key_stops_at_once_and_says_what_to_set(
    dataset: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-very-secret-123")
    teacher.script = lambda _: "401"
    with pytest.raises(SharecapError, match="OPENAI_API_KEY") as caught:
        caption(dataset, teacher, concurrency=2)
    assert (caught.value.exit_code, len(teacher.log) <= 2, layers(dataset)) == (1, True, [])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    teacher.script = lambda _: "ok"
    assert caption(dataset, teacher).captions == 12


def test_the_key_reaches_the_server_and_no_file(
    dataset: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-very-secret-123")
    teacher.script = only(2, "400")  # its words quote the key
    caption(dataset, teacher)
    assert {seen.key for seen in teacher.log} == {"Bearer sk-proj-very-secret-123"}
    files = [path for path in dataset.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if b"very-secret" in path.read_bytes()]


def test_an_unknown_model_stops_at_once_and_names_it(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "404"
    with pytest.raises(SharecapError, match="offers the model 'model'"):
        caption(dataset, teacher, concurrency=1)
    assert len(teacher.log) == 1


def test_an_account_without_credit_stops_at_once(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "429=insufficient_quota"
    with pytest.raises(SharecapError, match="no credit"):
        caption(dataset, teacher, concurrency=1)
    assert len(teacher.log) == 1


def test_redirects_are_not_followed(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: f"redirect={teacher.url}/elsewhere"
    with pytest.raises(SharecapError, match="redirects"):
        caption(dataset, teacher, concurrency=1)
    assert len(teacher.log) == 1


def test_an_address_where_nobody_listens_is_said_soon(dataset: Path) -> None:
    nobody = Teacher(url="http://127.0.0.1:9/v1")
    with pytest.raises(SharecapError, match=r"127\.0\.0\.1:9.*start the server or correct the address"):
        caption(dataset, nobody)


def test_a_server_that_dies_stops_the_run_and_the_next_run_goes_on(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda seen: "ok" if seen.number <= 4 else "500"
    with pytest.raises(SharecapError, match="doesn't answer"):
        caption(dataset, teacher, concurrency=2)
    teacher.script = lambda _: "ok"
    report = caption(dataset, teacher)
    assert (report.captions, report.failures, report.kept) == (12, {}, 4)
    assert set(teacher.answered.values()) == {1}


def test_answers_that_are_mostly_garbage_stop_the_run_with_an_example(
    tmp_path: Path, teacher: Teacher
) -> None:
    dataset = make_dataset(tmp_path, 60)
    order: dict[str, int] = {}
    teacher.script = lambda seen: "refusal" if order.setdefault(seen.image, len(order) + 1) % 3 else "ok"
    with pytest.raises(Stopped, match=r"14 of the last 20 .*refusal.*I'm sorry") as caught:
        caption(dataset, teacher, concurrency=1)
    assert (caught.value.exit_code, len(teacher.log), layers(dataset)) == (3, 20 + 14, [])
    teacher.script = lambda _: "ok"
    assert caption(dataset, teacher).captions == 46


def test_a_gate_can_be_set_wider(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 30)
    teacher.script = lambda _: "refusal"
    assert caption(dataset, teacher, thresholds=Thresholds(failures=1.0)).failures == {"refusal": 30}


def test_a_budget_is_a_wall_and_a_higher_one_goes_on(dataset: Path, teacher: Teacher) -> None:
    worst = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    bound = PRICE.of(next(iter(worst.jobs()))[0].bound)
    with pytest.raises(Stopped, match="budget") as caught:
        caption(dataset, teacher, price=PRICE, budget_usd=bound + 4.5 * COST, concurrency=3)
    assert caught.value.exit_code == 3
    assert len(teacher.log) == 5
    report = caption(dataset, teacher, price=PRICE, budget_usd=bound + 12 * COST)
    assert (report.captions, report.kept) == (12, 5)
    assert report.cost_usd == pytest.approx(12 * COST)


def test_a_server_that_reports_no_usage_is_counted_at_the_worst_case(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "nousage"
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    bound = sum(PRICE.of(job.bound) for jobs in wanted.jobs() for job in jobs)
    assert caption(dataset, teacher, price=PRICE).cost_usd == pytest.approx(bound)


def test_a_dropped_connection_counts_as_perhaps_billed(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda seen: "drop" if seen.number == 1 else "ok"
    report = caption(dataset, teacher, price=PRICE)
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    assert (report.doubtful, report.doubtful_usd) == (
        1,
        pytest.approx(PRICE.of(next(wanted.jobs())[0].bound)),
    )


def test_a_dry_run_counts_and_sends_nothing(dataset: Path, teacher: Teacher) -> None:
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    expected = forecast(wanted, "one", PRICE)
    assert (expected.requests, expected.kept, teacher.log) == (12, 0, [])
    assert expected.worst_usd == pytest.approx(sum(PRICE.of(j.bound) for js in wanted.jobs() for j in js))
    assert not (dataset / "ledger.sqlite").exists()
    caption(dataset, teacher)
    assert forecast(wanted, "one", None).requests == 0


def test_images_that_are_gone_or_changed_are_named_failures(dataset: Path, teacher: Teacher) -> None:
    pictures = [Path(image.path) for image in Catalog.open(dataset)]
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[2].read_bytes())
    report = caption(dataset, teacher)
    assert (report.captions, report.failures) == (10, {"image_changed": 1, "image_missing": 1})
    assert len(teacher.log) == 10


def test_an_unknown_source_is_wrong_usage_before_anything_is_sent(dataset: Path, teacher: Teacher) -> None:
    with pytest.raises(UsageError, match="'coco'"):
        run(dataset, f"{teacher.url}#model", "scenes", "one")
    assert (teacher.log, (dataset / "ledger.sqlite").exists()) == ([], False)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", ".hidden", "x" * 101])
def test_a_layers_name_is_checked(dataset: Path, teacher: Teacher, name: str) -> None:
    with pytest.raises(UsageError, match="not a layer name"):
        caption(dataset, teacher, name)


def test_the_ledger_holds_every_outcome(dataset: Path, teacher: Teacher) -> None:
    teacher.script = only(3, "refusal")
    caption(dataset, teacher)
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        states = Counter(db.execute("SELECT state, error_kind, attempts FROM requests").fetchall())
    assert states == {("done", None, 1): 11, ("failed", "refusal", 2): 1}


def test_a_damaged_ledger_is_one_clear_error(dataset: Path, teacher: Teacher) -> None:
    (dataset / "ledger.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SharecapError, match="ledger is damaged"):
        caption(dataset, teacher)
