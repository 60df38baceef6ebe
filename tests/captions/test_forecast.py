"""Forecasts: what a pilot says of the rest, with an interval that holds; previews are the very bytes."""

import hashlib
import json
import random
import statistics
from pathlib import Path

import pytest

from sharecap.captions.captioner import Sampling
from sharecap.captions.forecast import pilot_of, previews, project
from sharecap.captions.price import Price
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import plan, run
from sharecap.records import Usage

from .conftest import Typed, make_dataset
from .server import USAGE, Seen, Teacher

PRICE = Price(10, 20)
COST = PRICE.of(Usage(**USAGE))


def test_the_interval_holds_in_about_95_of_100_cases() -> None:
    rng, held = random.Random(0), 0
    for _ in range(300):
        values = [rng.lognormvariate(0, 0.5) for _ in range(450)]
        found = project(values[:50], 400)
        assert found is not None
        held += found.low <= sum(values[50:]) <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_equal_costs_have_no_spread_and_few_have_no_interval() -> None:
    found = project([0.5] * 20, 100)
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((50, 50, 50))
    assert project([0.5] * 9, 100) is None
    wide, narrow = project([0, 1] * 10, 100), project([0, 1] * 100, 100)
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.mean == statistics.fmean([0, 1]) * 100


def test_a_pilot_keeps_its_captions_and_forecasts_the_rest(
    tmp_path: Path, teacher: Teacher, typed: Typed
) -> None:
    dataset = make_dataset(tmp_path, 60)
    words = ("caption", dataset, "--teacher", f"{teacher.url}#model", "--price", "10,20", "--layer", "one")
    code, out, _ = typed(*words, "--dry-run", "--pilot", 20, "--json")
    made = json.loads(out)
    assert (code, len(teacher.log), made["images"], made["remaining"]) == (0, 20, 20, 40)
    assert made["usd"] == pytest.approx(20 * COST)
    assert made["remaining_usd"]["mean"] == pytest.approx(40 * COST)
    assert made["remaining_s"]["mean"] > 0
    assert len({seen.image for seen in teacher.log}) == 20
    code, out, _ = typed(*words, "--dry-run", "--pilot", 20)  # it is there already: nothing is paid
    assert (code, len(teacher.log)) == (0, 20)
    assert "the other 40 cost about $0.08 (95 %: $0.08 to $0.08)" in out
    code, out, _ = typed(*words)
    assert (code, len(teacher.log)) == (0, 60)


def test_a_pilot_without_dry_run_is_wrong_usage(dataset: Path, teacher: Teacher, typed: Typed) -> None:
    code, _, said = typed("caption", dataset, "--teacher", f"{teacher.url}#model", "--pilot", 3)
    assert (code, "--dry-run --pilot" in said, teacher.log) == (2, True, [])


def test_a_pilot_counts_what_its_retries_cost(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 40)
    teacher.script = lambda seen: "empty" if seen.nth == 1 else "ok"
    run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE, only=20)
    found = pilot_of(plan(dataset, f"{teacher.url}#model", "sharegpt4v"), PRICE, 0.0)
    assert found.remaining_usd is not None
    assert found.remaining_usd.mean == pytest.approx(20 * 2 * COST)


def test_a_preview_is_byte_for_byte_what_a_run_sends(dataset: Path, teacher: Teacher) -> None:
    seen: dict[str, Seen] = {}
    sampling = Sampling(max_tokens=99, temperature=0.3, seed=4)
    pack = load_pack("sharegpt4v").with_options(language="German", words=40, context=["alt_text"])
    wanted = plan(dataset, f"{teacher.url}#model", pack, sampling=sampling)
    shown = list(previews(wanted, PRICE, 5))
    assert teacher.log == []
    run(dataset, f"{teacher.url}#model", pack, "one", sampling=sampling, concurrency=1)
    for one, request in zip(shown, teacher.log, strict=False):
        seen[one.image] = request
        assert one.body_sha256 == hashlib.sha256(request.raw).hexdigest()
        assert one.body_bytes == len(request.raw)
        assert "base64 of" in one.body
        assert "German" in json.loads(one.body)["messages"][0]["content"][1]["text"]
    assert len(seen) == 5


def test_a_preview_sends_nothing_and_shows_no_key(
    dataset: Path, teacher: Teacher, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-very-secret-123")
    words = ("caption", dataset, "--teacher", f"{teacher.url}#model", "--price", "10,20", "--preview", 2)
    code, out, said = typed(*words)
    assert (code, teacher.log, (dataset / "ledger.sqlite").exists()) == (0, [], False)
    assert "very-secret" not in out + said
    assert "2 of 12 requests shown; nothing was sent; all of them cost at most $" in out
    assert out.count("POST http") == 2
    shown = json.loads(typed(*words, "--json")[1])
    assert [set(one) >= {"image", "body", "body_sha256", "worst_usd"} for one in shown] == [True, True]


def test_a_preview_names_an_image_that_is_gone(dataset: Path, teacher: Teacher) -> None:
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    Path(next(iter(wanted.catalog)).path).unlink()
    first = next(iter(previews(wanted, PRICE, 1)))
    assert first.body.startswith("nothing is sent: ")
    assert first.worst_usd == 0
