"""What requests can cost at most, and the wall that a budget is (invariant 2).

The worst case is reserved before a request goes out and settled from the reported usage after. A request
whose outcome is unknown counts as spent at its worst case: it may be on the bill.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from sharecap.errors import UsageError
from sharecap.records import Image, Usage

IMAGE_TOKENS = 16_384
"""Default bound on the prompt tokens that one image takes, whatever its size."""

PATCH = 14
"""Pixels along the side of the smallest patch that known models cut a picture into."""


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    prompt_usd: float
    completion_usd: float

    @classmethod
    def parse(cls, text: str) -> "Price":
        """From "IN,OUT"; `UsageError` if that isn't two numbers of at least zero."""
        try:
            prompt, completion = (float(part) for part in text.split(","))
        except ValueError:
            prompt = completion = math.nan
        if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
            todo = "give USD per million tokens as IN,OUT, for example --price 2.5,10"
            raise UsageError("not a price", where=repr(text), todo=todo)
        return cls(prompt, completion)

    def of(self, usage: Usage) -> float:
        """USD for what was used."""
        tokens = usage.prompt_tokens * self.prompt_usd + usage.completion_tokens * self.completion_usd
        return tokens / 1e6


def worst_case(image: Image, prompt: str, max_tokens: int, image_tokens: int = IMAGE_TOKENS) -> Usage:
    """The most that a request can use: each byte of the prompt a token, each smallest patch a token."""
    patches = math.ceil(image.width / PATCH) * math.ceil(image.height / PATCH)
    # Tile-billed models charge some hundreds of tokens for the smallest picture.
    seen = min(image_tokens, max(1024, patches))
    return Usage(len(prompt.encode()) + 64 + seen, max_tokens)


@dataclass
class Budget:
    """Money spent, perhaps spent, and reserved, in USD. Without a price everything fits."""

    price: Price | None = None
    limit_usd: float | None = None
    spent_usd: float = 0.0  # settled, and at worst case where the outcome is unknown
    reserved_usd: float = 0.0
    out: int = 0  # reservations that are not settled
    overrun: float = 1.0  # largest factor by which reported prompt tokens exceeded the bound so far
    changed: Callable[[], None] = field(default=lambda: None, repr=False)  # called when money becomes free

    def __post_init__(self) -> None:
        if self.limit_usd is None:
            return
        if self.price is None:
            todo = "say what it costs: --price IN,OUT in USD per million tokens"
            raise UsageError("a budget needs a price", todo=todo)
        if not 0 <= self.limit_usd < math.inf:
            raise UsageError("not a budget", where=self.limit_usd, todo="give USD, for example --budget 5")

    def worst(self, usage: Usage) -> float | None:
        """USD of a request's worst case, None without a price."""
        if self.price is None:
            return None
        return self.price.of(Usage(math.ceil(usage.prompt_tokens * self.overrun), usage.completion_tokens))

    def reserve(self, worst_usd: float | None) -> bool:
        """Set the money aside if it fits."""
        if worst_usd is None:
            return True
        if (
            self.limit_usd is not None
            and self.spent_usd + self.reserved_usd + worst_usd > self.limit_usd + 1e-12
        ):
            return False
        self.reserved_usd += worst_usd
        self.out += 1
        return True

    def settle(self, worst_usd: float | None, cost_usd: float | None) -> None:
        """Replace a reservation by what it came to."""
        if worst_usd is not None:
            self.out -= 1
            # Floats leave crumbs: nothing out is nothing reserved, or a run at its limit would wait for ever.
            self.reserved_usd = max(0.0, self.reserved_usd - worst_usd) if self.out else 0.0
        self.spent_usd += cost_usd or 0.0
        self.changed()

    def learn(self, bound: Usage, used: Usage) -> None:
        """Raise the bound for what follows if a request used more prompt tokens than thought possible."""
        if bound.prompt_tokens:
            self.overrun = max(self.overrun, used.prompt_tokens / bound.prompt_tokens)
