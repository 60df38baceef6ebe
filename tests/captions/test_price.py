"""Money: a budget is a wall, and a price that isn't one is wrong usage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.price import Budget, Price, worst_case
from sharecap.errors import UsageError
from sharecap.records import Image, Usage


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
