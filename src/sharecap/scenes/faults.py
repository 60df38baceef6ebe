"""What goes wrong at a teacher, on demand: the faults that captioning runs meet at paid endpoints.

A fault is drawn from a request's content and the number of times it has been sent, so that a run
can be repeated exactly and a retry can succeed. Nothing here knows of HTTP.
"""

import random
import re
from collections.abc import Callable, Mapping

from sharecap.errors import UsageError

UNANSWERED = ("429", "500", "drop")
"""Faults instead of an answer: too many requests, server error, connection closed without a word."""
SPOILED = ("refusal", "truncated", "loop", "empty", "echo", "blind")
"""Faults of an answer that arrives with status 200 and is paid for. `blind` describes another picture."""
SLOW = "latency"
"""The answer takes ten times as long; may come on top of any other fault."""

REFUSALS = (
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, I am unable to provide a description of this image.",
    "Sorry, I can't help with identifying the content of this image.",
)


def parse_faults(text: str, check: Callable[[Mapping[str, float]], None] | None = None) -> dict[str, float]:
    """Probabilities from `"429=0.05,drop=0.01"`; `UsageError` if it can't be read so, or `check` says so."""
    faults: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rate = item.partition("=")
        try:
            faults[name.strip()] = float(rate)
        except ValueError:
            raise UsageError("fault without a probability", where=item, todo='Write "429=0.05"') from None
    (check or check_faults)(faults)
    return faults


def check_faults(faults: Mapping[str, float]) -> None:
    """`UsageError` unless every name is known and at most one fault can befall a request."""
    known = (*UNANSWERED, *SPOILED, SLOW)
    for name, rate in faults.items():
        if name not in known:
            raise UsageError("unknown fault", where=name, todo=f"Choose from {', '.join(known)}")
        if not 0 <= rate <= 1:
            raise UsageError("a fault's probability must lie between 0 and 1", where=f"{name}={rate}")
    if sum(rate for name, rate in faults.items() if name != SLOW) > 1 + 1e-9:
        raise UsageError("the faults' probabilities sum to more than 1", where=dict(faults))


def draw_fault(faults: Mapping[str, float], rng: random.Random) -> str:
    """Name of the fault that befalls a request, `""` for none."""
    at = rng.random()
    for name in (*UNANSWERED, *SPOILED):
        at -= faults.get(name, 0.0)
        if at < 0:
            return name
    return ""


def spoil(fault: str, answer: str, prompt: str, rng: random.Random) -> tuple[str, str]:
    """(text, finish reason) of a good answer to which the fault has happened; no fault leaves it whole."""
    if fault == "refusal":
        return rng.choice(REFUSALS), "stop"
    if fault == "truncated":
        return answer[: int(len(answer) * rng.uniform(0.3, 0.8))], "length"
    if fault == "loop":
        sentence = rng.choice([s for s in re.split(r"(?<=\.)\s+", answer) if s])
        return f"{answer} {' '.join([sentence] * 40)}", "length"
    if fault == "empty":
        return "", "stop"
    if fault == "echo":
        return prompt, "stop"
    return answer, "stop"
