"""The pace: no more requests out than the server bears, none before its time, none beyond its limits."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.pace import (
    CUT,
    LONGEST_WAIT_S,
    RUN,
    Limit,
    Limits,
    Pace,
    limits_of,
    seconds_until,
)
from sharecap.records import Usage

PROMPT = "Describe this image." * 20
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def paced(ceiling: int) -> tuple[Pace, Clock]:
    clock = Clock()
    return Pace(ceiling, clock), clock


def round_trip(pace: Pace, limits: Limits | None = None, usage: Usage | None = None) -> None:
    ticket = pace.leave(PROMPT)
    pace.back()
    pace.answered(ticket, PROMPT, usage, limits or Limits())


def test_no_more_than_the_ceiling_are_out() -> None:
    pace, _ = paced(3)
    for _ in range(3):
        assert pace.wait_s(PROMPT) == 0
        pace.leave(PROMPT)
    assert pace.wait_s(PROMPT) is None
    pace.back()
    assert pace.wait_s(PROMPT) == 0


def test_an_overload_narrows_the_window_once_per_round_trip() -> None:
    pace, clock = paced(64)
    tickets = [pace.leave(PROMPT) for _ in range(64)]
    clock.now += 1
    for ticket in tickets:
        pace.back()
        pace.overloaded(ticket, 0.0)
    assert pace.window == int(64 * CUT)
    clock.now += 1
    later = pace.leave(PROMPT)
    clock.now += 1
    pace.overloaded(later, 0.0)
    assert pace.window == int(int(64 * CUT) * CUT)


def test_a_run_of_answers_widens_the_window_by_one_up_to_the_ceiling() -> None:
    pace, clock = paced(64)
    pace.overloaded(pace.leave(PROMPT), 0.0)
    pace.back()
    clock.now += 1
    for _ in range(RUN - 1):
        round_trip(pace)
    assert pace.window == 48
    round_trip(pace)
    assert pace.window == 49
    for _ in range(RUN * 100):
        round_trip(pace)
    assert pace.window == 64


def test_however_overloaded_one_request_may_always_be_out() -> None:
    pace, clock = paced(8)
    for _ in range(100):
        clock.now += 1
        ticket = pace.leave(PROMPT)
        clock.now += 1
        pace.back()
        pace.overloaded(ticket, 0.0)
    assert pace.window == 1
    assert pace.wait_s(PROMPT) == 0


def test_nobody_sends_before_the_server_wants_to_be_asked_again() -> None:
    pace, clock = paced(8)
    ticket = pace.leave(PROMPT)
    pace.back()
    pace.overloaded(ticket, 20.0)
    pace.overloaded(ticket, 5.0)  # a shorter word doesn't take back a longer one
    assert pace.wait_s(PROMPT) == 20
    clock.now += 19.5
    assert pace.wait_s(PROMPT) == pytest.approx(0.5)
    clock.now += 0.5
    assert pace.wait_s(PROMPT) == 0


def test_requests_stop_where_the_servers_own_count_of_them_ends_and_go_on_at_its_rate() -> None:
    pace, clock = paced(64)
    round_trip(pace, Limits(requests=Limit(most=60, left=2, reset_s=58)))  # one a second
    for _ in range(2):
        assert pace.wait_s(PROMPT) == 0
        pace.leave(PROMPT)
    assert pace.wait_s(PROMPT) == pytest.approx(1)
    clock.now += 1
    assert pace.wait_s(PROMPT) == 0


def test_what_left_after_the_server_had_counted_is_taken_off_what_it_said_was_left() -> None:
    pace, _ = paced(64)
    first = pace.leave(PROMPT)
    for _ in range(4):
        pace.leave(PROMPT)
    pace.back()
    pace.answered(first, PROMPT, None, Limits(requests=Limit(60, 5, 55)))
    assert pace.wait_s(PROMPT) == 0
    pace.leave(PROMPT)
    assert (pace.wait_s(PROMPT) or 0) > 0


def test_an_older_word_does_not_replace_a_newer_one() -> None:
    pace, _ = paced(64)
    old, new = pace.leave(PROMPT), pace.leave(PROMPT)
    pace.answered(new, PROMPT, None, Limits(requests=Limit(60, 0, 60)))
    pace.answered(old, PROMPT, None, Limits(requests=Limit(60, 50, 10)))
    assert (pace.wait_s(PROMPT) or 0) > 0


def test_an_images_tokens_are_learned_from_usage_and_bound_what_leaves() -> None:
    pace, clock = paced(64)
    for _ in range(100):
        round_trip(pace, usage=Usage(prompt_tokens=2100, completion_tokens=200))
    assert pace.expected_tokens(PROMPT) == pytest.approx(2300, rel=0.01)
    round_trip(pace, Limits(tokens=Limit(most=60_000, left=5_000, reset_s=55)), Usage(2100, 200))
    assert pace.wait_s(PROMPT) == 0
    pace.leave(PROMPT)
    pace.leave(PROMPT)
    wait = pace.wait_s(PROMPT) or 0
    assert wait == pytest.approx((2300 - 400) / 1000, rel=0.05)
    clock.now += wait + 1e-6
    assert pace.wait_s(PROMPT) == 0


def test_a_request_larger_than_the_whole_bucket_waits_for_a_full_one_and_not_for_ever() -> None:
    pace, clock = paced(4)
    round_trip(pace, Limits(tokens=Limit(most=500, left=0, reset_s=5)))
    wait = pace.wait_s(PROMPT) or 0
    assert 0 < wait <= LONGEST_WAIT_S
    clock.now += wait
    assert pace.wait_s(PROMPT) == 0


def test_a_limit_without_its_size_or_its_end_is_no_limit() -> None:
    pace, _ = paced(4)
    round_trip(pace, Limits(requests=Limit(most=None, left=0, reset_s=None)))
    assert pace.wait_s(PROMPT) == 0


@pytest.mark.parametrize(
    ("headers", "limit"),
    [
        (
            {
                "x-ratelimit-limit-requests": "5000",
                "x-ratelimit-remaining-requests": "4999",
                "x-ratelimit-reset-requests": "12ms",
            },
            Limit(5000, 4999, 0.012),
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-01-02T03:04:35Z",
            },
            Limit(50, 0, 30),
        ),
        ({"x-ratelimit-remaining-requests": "7"}, Limit(None, 7, None)),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-limit-requests": "5"}, None),
        ({"x-ratelimit-remaining-requests": "nan"}, None),
        ({"x-ratelimit-remaining-requests": "9" * 100}, None),
        ({}, None),
    ],
)
def test_limits_are_read_under_either_name(headers: dict[str, str], limit: Limit | None) -> None:
    assert limits_of(headers, NOW) == Limits(requests=limit)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12),
        ("0.5", 0.5),
        ("6m0s", 360),
        ("17ms", 0.017),
        ("1h2m3.5s", 3723.5),
        ("2026-01-02T03:05:05+00:00", 60),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10),
        ("Fri, 02 Jan 2020 03:04:15 GMT", 0),
        ("-3", None),
        ("inf", None),
        ("soon", None),
        ("6m0", None),
        ("", None),
        ("1" * 65, None),
        (None, None),
    ],
)
def test_the_words_for_a_time_are_understood_or_ignored(text: str | None, seconds: float | None) -> None:
    assert seconds_until(text, NOW) == (seconds if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=80))
def test_no_word_from_a_server_breaks_the_pace(text: str) -> None:
    wait = seconds_until(text, NOW)
    assert wait is None or wait >= 0
    names = ("limit", "remaining", "reset")
    limits = limits_of({f"x-ratelimit-{name}-tokens": text for name in names}, NOW)
    pace, _ = paced(2)
    round_trip(pace, limits)
    assert 0 <= (pace.wait_s(PROMPT) or 0) <= LONGEST_WAIT_S
