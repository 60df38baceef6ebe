"""Money: a budget is a wall, and a price that isn't one is wrong usage."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.plan import forecast
from sharecap.captions.price import Budget, Price, known_price, parse_budgets, price_of, worst_case
from sharecap.captions.run import plan, run
from sharecap.errors import Stopped, UsageError
from sharecap.images.add import add
from sharecap.records import Image, Usage

from .conftest import Typed, make_dataset
from .server import USAGE, Teacher

PRICE = Price(10, 20)
COST = PRICE.of(Usage(**USAGE))


def image(width: int, height: int) -> Image:
    return Image("0" * 64, "s", "/x", width, height, "PNG", 1, "0" * 16)


def test_a_price_is_dollars_per_million_tokens() -> None:
    assert Price.parse("2.5,10").of(Usage(1_000_000, 100_000)) == pytest.approx(3.5)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "1,inf"])
def test_what_is_no_price_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="not a price"):
        Price.parse(text)


def test_a_budget_without_a_price_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="needs a price"):
        Budget(None, 5.0)


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_budget_must_be_an_amount(limit: float) -> None:
    with pytest.raises(UsageError, match="not a budget"):
        Budget(Price(1, 1), limit)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.booleans()), max_size=60), st.floats(0, 10))
def test_spending_never_passes_the_limit(requests: list[tuple[float, float, bool]], limit: float) -> None:
    budget, out = Budget(Price(1, 1), limit), []
    for worst, share, settle_first in requests:
        if budget.reserve(worst):
            out.append((worst, worst * share))
        if settle_first and out:
            budget.settle(*out.pop(0))
        assert budget.spent_usd + budget.reserved_usd <= limit + 1e-6
    for reservation in out:
        budget.settle(*reservation)
    assert budget.spent_usd <= limit + 1e-6
    assert (budget.reserved_usd, budget.out) == (0, 0)  # a crumb left over would make a run wait for ever


def test_the_bound_grows_with_the_picture_up_to_the_models_most() -> None:
    small, large = (worst_case(image(side, side), "p", 10).prompt_tokens for side in (100, 1400))
    assert small < large < worst_case(image(9000, 9000), "p", 10).prompt_tokens <= 16_384 + 65
    assert worst_case(image(9000, 9000), "p", 10, image_tokens=500) == Usage(565, 10)


def test_a_bound_that_was_broken_is_raised_for_what_follows() -> None:
    budget = Budget(Price(1, 0))
    before = budget.worst(Usage(100, 0))
    budget.learn(Usage(100, 0), Usage(250, 0))
    assert (before, budget.worst(Usage(100, 0))) == (pytest.approx(1e-4), pytest.approx(2.5e-4))


def test_the_table_knows_models_and_their_dated_versions_and_nothing_else() -> None:
    assert known_price("gpt-4o") == known_price("gpt-4o-2024-08-06") == Price(2.5, 10)
    assert known_price("gpt-4o-mini") != known_price("gpt-4o")
    assert known_price("my-own-model") is None


def test_a_given_price_goes_before_the_table_and_one_by_name_before_all() -> None:
    assert price_of("gpt-4o", ()) == known_price("gpt-4o")
    assert price_of("gpt-4o", ["1,2"]) == Price(1, 2)
    assert price_of("other", ["1,2", "other=3,4"]) == Price(3, 4)
    assert price_of("org/model=x", ["org/model=x=3,4"]) == Price(3, 4)
    assert price_of("unknown", ["other=3,4"]) is None
    with pytest.raises(UsageError, match="not a price"):
        price_of("m", ["m=free"])


def test_budgets_are_in_all_and_by_source() -> None:
    assert parse_budgets(["5", "coco=2", "sam=0.5"]) == (5, {"coco": 2, "sam": 0.5})
    assert parse_budgets([]) == (None, {})
    for bad in ("", "x", "=2", "coco=", "coco=-1", "nan", "inf"):
        with pytest.raises(UsageError, match="not a budget"):
            parse_budgets([bad])


def test_a_budget_with_an_unknown_price_is_an_error_and_never_zero(
    dataset: Path, teacher: Teacher, typed: Typed
) -> None:
    for budget in ("5", "coco=5"):
        code, _, said = typed("caption", dataset, "--teacher", f"{teacher.url}#model", "--budget", budget)
        assert (code, "a budget needs a price" in said) == (2, True)
    assert teacher.log == []


def test_a_sources_budget_stops_that_source_alone(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 8)
    more = make_dataset(tmp_path / "more", 16).parent / "pictures" / "coco"
    for number in range(8):
        (more / f"{number:04}.png").unlink()  # the first eight are the same pictures
    add([more.rename(more.with_name("sam"))], dataset)
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    bound = PRICE.of(max((j.bound for js in wanted.jobs() for j in js), key=PRICE.of))

    def caption(usd: float) -> None:
        limits = {"coco": usd}
        run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE, source_budgets=limits)

    with pytest.raises(Stopped, match=r"budget of .* for source coco reached") as caught:
        caption(bound + 2.5 * COST)
    assert caught.value.exit_code == 3
    assert len(teacher.log) == 8 + 3
    with pytest.raises(Stopped, match="source coco"):  # what earlier runs spent counts
        caption(bound + 2.5 * COST)
    assert len(teacher.log) == 8 + 3
    caption(bound + 8 * COST)
    assert len(teacher.log) == 16


def test_a_budget_for_a_source_that_no_image_has_is_wrong_usage(dataset: Path, teacher: Teacher) -> None:
    with pytest.raises(UsageError, match=r"no image has: cooc. the sources are coco"):
        run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE, source_budgets={"cooc": 1.0})
    assert teacher.log == []


def test_what_was_answered_without_a_price_counts_once_there_is_one(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 12)
    run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", only=6)
    with pytest.raises(Stopped, match=rf"\${6 * COST:.4f} spent"):
        run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE, budget_usd=6.5 * COST)
    assert len(teacher.log) == 6
    report = run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE)
    assert report.cost_usd == pytest.approx(12 * COST)
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    assert forecast(wanted, "one", PRICE).requests == 0


def test_an_answer_without_usage_or_price_counts_at_worst_later(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 2)
    teacher.script = lambda _: "nousage"
    run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", only=1)
    report = run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE)
    wanted = plan(dataset, f"{teacher.url}#model", "sharegpt4v")
    assert report.cost_usd == pytest.approx(sum(PRICE.of(j.bound) for js in wanted.jobs() for j in js))


def test_a_retried_request_is_priced_with_what_came_before(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 1)
    teacher.script = lambda seen: "refusal" if seen.nth <= 2 else "ok"
    run(dataset, f"{teacher.url}#model", "sharegpt4v", "one")
    report = run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", price=PRICE, retry_failed=True)
    assert report.captions == 1
    assert report.cost_usd == pytest.approx(3 * COST)
