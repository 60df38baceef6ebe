"""How judged figures are printed: a share or a number with its interval, failures, and what it took."""

from collections.abc import Mapping

from sharecap.statistics import Estimate


def percent(one: Estimate) -> str:
    """A share of 1, in percent."""
    return f"{100 * one.value:5.1f} %{_bounds(one, 100, '.1f')}"


def points(one: Estimate) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * one.value:+.1f} points{_bounds(one, 100, '+.1f')}"


def number(one: Estimate, form: str = ".1f") -> str:
    """A number, as `form` has it."""
    return f"{one.value:{form}}{_bounds(one, 1, form)}"


def _bounds(one: Estimate, factor: int, form: str) -> str:
    if one.low is None or one.high is None:
        return ""
    return f"  ({factor * one.low:{form}} to {factor * one.high:{form}})"


def rows(shares: Mapping[str, Estimate | None]) -> list[str]:
    """One indented line a share, its figures below each other."""
    width = max(map(len, shares), default=0) + 2
    return [f"  {name:<{width}}{percent(share)}" for name, share in shares.items() if share]


def lost(failures: Mapping[str, int]) -> list[str]:
    """What failed, by kind, if anything did."""
    told = ", ".join(f"{n:,} {kind}" for kind, n in failures.items())
    return [f"failed, and in none of the shares: {told}"] if failures else []


def took(requests: int, cost_usd: float | None) -> str:
    """What it took."""
    cost = "" if cost_usd is None else f"; cost in all: ${cost_usd:.4f}"
    return f"{requests:,} requests sent{cost}"
