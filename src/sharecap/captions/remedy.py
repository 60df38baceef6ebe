"""What to do about an answer that is no caption: each kind of failure has its own remedy, and an end.

A refusal is asked in other words and then of a second teacher; a filtered answer at once of the second;
a truncated one again with twice the cap; a loop by other sampling; an empty one, an echo and boilerplate once
more. Pure: it must never change the request's key, so that no step of it is ever paid for twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sharecap.captions.captioner import Sampling

REPHRASED, SECOND, LONGER, REDRAWN = "rephrased", "second", "longer", "redrawn"

REMEDIES: dict[str, tuple[str, ...]] = {
    "refusal": (REPHRASED, SECOND),
    "content_filter": (SECOND,),
    # Going on from the cut needs a server that prefills the assistant's turn, and few do; asked to continue,
    # models begin anew or bridge with words of their own. A whole answer under a higher cap has no seam.
    "truncated": (LONGER,),
    "loop": (REDRAWN,),
    "empty": (REDRAWN,),
    "prompt_echo": (REDRAWN,),
    "boilerplate": (REDRAWN,),
    "unreadable": (REDRAWN,),  # a judge's words without the grade that was asked for
}
"""Kind of failure -> what is tried, in this order: each once, drawing anew as often as patience has it."""

PENDING = "remedy_"
"""Goes before the kind of a failure whose remedy is still to be sent: a killed run's successor sends it."""

MOST_STEPS = 4
"""Answers that are asked for after the first, whatever goes wrong with them."""

LONGER_BY = 2
"""Factor on the cap of an answer that was cut."""

LOOP_TOP_P = 0.9
"""A loop comes back where only the seed changes; at most this much of the probability is drawn from."""


@dataclass(frozen=True, slots=True)
class Ask:
    """How a request is put, this time. The plain `Ask()` is the request itself."""

    second: bool = False  # to the second teacher
    rephrased: bool = False  # in the pack's other words
    draws: int = 0  # how often it was drawn anew
    loops: int = 0  # how many of these were for a loop
    longer: int = 0  # how often the cap was raised

    def sampling(self, first: Sampling) -> Sampling:
        """`first`, changed by what was tried: another seed and not greedy, or the same words come again."""
        if not (self.draws or self.longer):
            return first
        drawn = replace(first, max_tokens=first.max_tokens * LONGER_BY**self.longer)
        if not self.draws:
            return drawn
        temperature = 0.7 if first.temperature == 0 else first.temperature
        top_p = min(first.top_p or 1.0, LOOP_TOP_P) if self.loops else first.top_p
        return replace(drawn, seed=(first.seed or 0) + self.draws, temperature=temperature, top_p=top_p)


def following(kind: str | None, steps: Sequence[str], *, has_second: bool, redraws: int) -> str | None:
    """The step ("KIND:REMEDY") after an answer of this kind, given those taken; None: there is none left."""
    if kind is None or len(steps) >= MOST_STEPS:
        return None
    taken = [step.partition(":")[2] for step in steps]
    for remedy in REMEDIES.get(kind, ()):
        if remedy == SECOND and not has_second:
            continue
        if taken.count(remedy) < (redraws if remedy == REDRAWN else 1):
            return f"{kind}:{remedy}"
    return None


def ask_after(steps: Sequence[str]) -> Ask:
    """How the request is put once these steps are taken."""
    ask = Ask()
    for step in steps:
        kind, _, remedy = step.partition(":")
        if remedy == SECOND:  # another teacher hears the question as it was first put
            ask = Ask(second=True, longer=ask.longer)
        elif remedy == REPHRASED:
            ask = replace(ask, rephrased=True)
        elif remedy == LONGER:
            ask = replace(ask, longer=ask.longer + 1)
        elif remedy == REDRAWN:
            ask = replace(ask, draws=ask.draws + 1, loops=ask.loops + (kind == "loop"))
    return ask
