"""Remedies: each kind of failure has its own, they end, and no step of them is paid for twice."""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.captioner import Sampling
from sharecap.captions.courier import Patience
from sharecap.captions.gates import Thresholds
from sharecap.captions.layer import read_layer
from sharecap.captions.price import Price
from sharecap.captions.prompts import REPHRASE
from sharecap.captions.remedy import MOST_STEPS, REMEDIES, Ask, ask_after, following
from sharecap.captions.run import run
from sharecap.captions.run_report import RunReport
from sharecap.captions.verdict import KINDS
from sharecap.errors import SharecapError, UsageError
from sharecap.records import Caption, Usage

from .conftest import Typed
from .server import USAGE, Seen, Teacher, serving

QUICK = Patience(base_s=0.002, cap_s=0.01)
PRICE, DEAR = Price(10, 20), Price(100, 200)
COST, DEAR_COST = PRICE.of(Usage(**USAGE)), DEAR.of(Usage(**USAGE))


def caption(dataset: Path, teacher: Teacher, **options: object) -> RunReport:
    fixed = {"patience": QUICK, "rng": random.Random(0), "price": PRICE, **options}
    return run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", **fixed)  # type: ignore[arg-type]


def third(*actions: str) -> Callable[[Seen], str]:
    """The requests about the image that is asked about third meet these actions, one after the other."""
    order: dict[str, int] = {}

    def script(seen: Seen) -> str:
        is_third = order.setdefault(seen.image, len(order)) == 2
        return actions[seen.nth - 1] if is_third and seen.nth <= len(actions) else "ok"

    return script


def of_third(dataset: Path, teacher: Teacher) -> Caption:
    image = list(dict.fromkeys(seen.image for seen in teacher.log))[2]
    return next(c for c in read_layer(dataset, "one") if c.image_id == image)


def test_a_refusal_is_asked_in_other_words(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third("refusal")
    report = caption(dataset, teacher, concurrency=1)
    assert (report.captions, report.remedies, report.rescued) == (12, {"refusal:rephrased": 1}, 1)
    assert report.cost_usd == pytest.approx(13 * COST)
    made = of_third(dataset, teacher)
    assert (made.captioner, made.prompt_id) == ("model", "sharegpt4v@2/coco+rephrased")
    assert made.flags == ("refusal:rephrased",)
    assert [REPHRASE in seen.prompt for seen in teacher.log if seen.image == made.image_id] == [False, True]


def test_what_is_refused_twice_is_asked_of_the_second_teacher(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third("refusal", "refusal")
    with serving() as other:
        report = caption(
            dataset, teacher, second_teacher=f"{other.url}#other", second_price=DEAR, concurrency=1
        )
    made = of_third(dataset, teacher)
    assert (made.captioner, made.prompt_id) == ("other", "sharegpt4v@2/coco")
    assert made.flags == ("refusal:rephrased", "refusal:second")
    assert (report.captions, len(other.log)) == (12, 1)
    assert report.cost_usd == pytest.approx(13 * COST + DEAR_COST)
    assert made.cost_usd == pytest.approx(2 * COST + DEAR_COST)


@pytest.mark.parametrize("fault", ["filter", "400=content_policy_violation"])
def test_what_a_filter_withholds_goes_to_the_second_teacher_at_once(
    dataset: Path, teacher: Teacher, fault: str
) -> None:
    teacher.script = third(fault)
    with serving() as other:
        caption(dataset, teacher, second_teacher=f"{other.url}#other", second_price=DEAR, concurrency=1)
    assert of_third(dataset, teacher).flags == ("content_filter:second",)
    assert (len(other.log), max(teacher.counts().values())) == (1, 1)


def test_a_cut_answer_is_asked_again_with_twice_the_cap(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third("length")
    report = caption(dataset, teacher, sampling=Sampling(max_tokens=70), concurrency=1)
    assert (report.captions, report.remedies) == (12, {"truncated:longer": 1})
    caps = [seen.body["max_tokens"] for seen in teacher.log]
    assert sorted(caps) == [70] * 12 + [140]


def test_a_loop_is_drawn_from_less_of_the_distribution_and_another_seed(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = third("loop")
    caption(dataset, teacher, sampling=Sampling(temperature=0, seed=5), concurrency=1)
    again = next(seen.body for seen in teacher.log if seen.nth == 2)
    assert (again["seed"], again["temperature"], again["top_p"]) == (6, 0.7, 0.9)


def test_boilerplate_is_asked_again_and_then_fails(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third(*["say=Sure! Here is a detailed description of the image:"] * 3)
    report = caption(dataset, teacher, concurrency=1)
    assert (report.failures, report.remedies) == ({"boilerplate": 1}, {"boilerplate:redrawn": 1 + 1})


def test_a_remedy_that_the_server_rejects_leaves_the_first_failure(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third("length", "400")
    assert caption(dataset, teacher, concurrency=1).failures == {"truncated": 1}


def test_a_refusal_that_was_paid_for_is_not_asked_again_by_the_next_run(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = third("refusal", "401")  # the run stops before the other words are answered
    with pytest.raises(SharecapError, match="refuses the key"):
        caption(dataset, teacher, concurrency=1)
    teacher.script = lambda _: "ok"
    assert caption(dataset, teacher, concurrency=1).captions == 12
    asked = [REPHRASE in seen.prompt for seen in teacher.log if teacher.counts()[seen.image] > 1]
    assert asked == [False, True, True]
    assert of_third(dataset, teacher).flags == ("refusal:rephrased",)


def test_a_second_teacher_that_comes_later_gets_only_what_failed(dataset: Path, teacher: Teacher) -> None:
    teacher.script = third("refusal", "refusal")
    assert caption(dataset, teacher, concurrency=1).failures == {"refusal": 1}
    before = len(teacher.log)
    with serving() as other:
        options = {"second_teacher": f"{other.url}#other", "second_price": DEAR, "retry_failed": True}
        report = caption(dataset, teacher, **options)
    assert (report.captions, report.failures, len(teacher.log) - before, len(other.log)) == (12, {}, 0, 1)
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        assert db.execute("SELECT count(*), count(DISTINCT key) FROM requests").fetchone() == (12, 12)


def test_a_second_teacher_that_refuses_the_key_is_named_and_nothing_is_lost(
    dataset: Path, teacher: Teacher, typed: Typed
) -> None:
    teacher.script = third("refusal", "refusal")
    with serving(lambda _: "401") as other:
        words = ["caption", dataset, "--teacher", f"{teacher.url}#model", "--layer", "one"]
        words += ["--concurrency", "1", "--second-teacher", f"{other.url}#other"]
        code, _, said = typed(*words)
        line = said.splitlines()[-1]
        assert code == 1
        assert line.startswith("sharecap: the second teacher: the endpoint refuses the key (HTTP 401")
        assert f"{other.url}/chat/completions. set the environment variable OPENAI_API_KEY" in line
        assert (len(teacher.log), len(other.log)) == (4, 1)
        other.script = lambda _: "ok"
        assert typed(*words)[0] == 0
        assert (len(teacher.log), len(other.log)) == (13, 2)  # what was refused is asked of nobody again
    assert of_third(dataset, teacher).captioner == "other"


def test_a_second_teacher_at_a_wrong_address_is_named_and_nothing_is_lost(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = third("refusal", "refusal")
    said = r"second teacher doesn't answer: cannot connect .*127\.0\.0\.1:9/v1.*correct the address$"
    with pytest.raises(SharecapError, match=said):
        caption(dataset, teacher, second_teacher="http://127.0.0.1:9/v1#other", second_price=DEAR)
    with serving() as other:
        report = caption(dataset, teacher, second_teacher=f"{other.url}#other", second_price=DEAR)
    assert (report.captions, len(teacher.log), len(other.log)) == (12, 13, 1)
    assert report.cost_usd == pytest.approx(13 * COST + DEAR_COST)


def test_a_second_teacher_that_dies_stops_the_run_though_the_first_one_answers(
    dataset: Path, teacher: Teacher
) -> None:
    order: dict[str, int] = {}
    teacher.script = lambda seen: "refusal" if order.setdefault(seen.image, len(order)) % 2 else "ok"
    options = {"second_price": DEAR, "concurrency": 1, "thresholds": Thresholds(failures=1.0)}
    with serving(lambda seen: "ok" if seen.number == 1 else "500") as other:
        second = f"{other.url}#other"
        with pytest.raises(SharecapError, match=r"the second teacher doesn't answer: the server failed"):
            caption(dataset, teacher, second_teacher=second, **options)
        assert len({seen.image for seen in other.log}) == 1 + QUICK.dead_after
        other.script = lambda _: "ok"
        report = caption(dataset, teacher, second_teacher=second, **options)
    assert (report.captions, len(teacher.log)) == (12, 6 + 2 * 6)


def test_a_batch_api_is_no_second_teacher(dataset: Path, teacher: Teacher) -> None:
    with pytest.raises(UsageError, match="can't be the second teacher"):
        caption(dataset, teacher, second_teacher=f"batch:{teacher.url}#other", second_price=DEAR)
    assert not teacher.log


def test_without_the_second_teacher_the_first_is_asked_what_it_was_to_hear_and_is_paid(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = third("refusal", "refusal")
    with serving(lambda _: "401") as other:
        options = {"second_teacher": f"{other.url}#other", "second_price": DEAR}
        with pytest.raises(SharecapError, match="refuses the key"):
            caption(dataset, teacher, concurrency=1, **options)
    report = caption(dataset, teacher, concurrency=1, budget_usd=1.0)
    assert (report.captions, report.cost_usd) == (12, pytest.approx(14 * COST))


def test_a_budget_needs_the_second_teachers_price(dataset: Path, teacher: Teacher) -> None:
    with pytest.raises(UsageError, match="second teacher's price"):
        caption(dataset, teacher, budget_usd=5.0, second_teacher=f"{teacher.url}#other")


@given(st.lists(st.sampled_from(KINDS), max_size=12), st.booleans(), st.integers(0, 3))
def test_remedies_always_end(kinds: list[str], has_second: bool, redraws: int) -> None:
    steps: list[str] = []
    for kind in kinds:
        step = following(kind, steps, has_second=has_second, redraws=redraws)
        if step is None:
            break
        assert step.partition(":")[2] in REMEDIES[kind]
        assert has_second or not ask_after([*steps, step]).second
        steps.append(step)
    assert len(steps) <= MOST_STEPS
    assert ask_after([]) == Ask()
    assert ask_after(steps).sampling(Sampling(max_tokens=10)).max_tokens <= 20


def test_every_kind_of_failure_has_a_remedy() -> None:
    assert set(REMEDIES) == {*KINDS, "unreadable"}
