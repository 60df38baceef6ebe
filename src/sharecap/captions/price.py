"""What requests can cost at most, and the wall that a budget is (invariant 2).

The worst case is reserved before a request goes out and settled from the reported usage after. A request
whose outcome is unknown counts as spent at its worst case: it may be on the bill.
"""

import functools
import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field

from sharecap.errors import UsageError
from sharecap.records import NO_IMAGE, Image, Usage

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
            todo = "give USD per million tokens as [MODEL=]IN,OUT, for example --price 2.5,10"
            raise UsageError("not a price", where=repr(text), todo=todo)
        return cls(prompt, completion)

    def of(self, usage: Usage) -> float:
        """USD for what was used."""
        tokens = usage.prompt_tokens * self.prompt_usd + usage.completion_tokens * self.completion_usd
        return tokens / 1e6


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)  # few runs need the table

    name: str
    prompt_usd: float = Field(ge=0)
    completion_usd: float = Field(ge=0)
    as_of: str  # when the price was seen
    source: str  # where


@functools.cache
def _table() -> dict[str, Price]:
    text = (resources.files("sharecap.captions") / "prices.toml").read_text("utf-8")
    rows = [_Model.model_validate(row) for row in tomllib.loads(text)["model"]]
    return {row.name: Price(row.prompt_usd, row.completion_usd) for row in rows}


def undated(model: str) -> str:
    """The name of the model that this one is a dated version of."""
    return re.sub(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$", "", model)


def known_price(model: str) -> Price | None:
    """The price in the table (`prices.toml`) of this model, or of the model that it is a dated version of."""
    return _table().get(model) or _table().get(undated(model))


def price_of(model: str, given: Iterable[str]) -> Price | None:
    """The price of `model`: "MODEL=IN,OUT" of those given, else "IN,OUT" among them, else the table's.

    None where none is known, which is not the same as nothing. `UsageError` for what is no price.
    """
    plain, named = None, None
    for text in given:
        name, equals, numbers = text.rpartition("=")
        price = Price.parse(numbers)
        if not equals:
            plain = price
        elif name == model:
            named = price
    return named or plain or known_price(model)


def parse_budgets(given: Iterable[str]) -> tuple[float | None, dict[str, float]]:
    """(USD in all, USD by source) from words like "5" and "coco=2"; `UsageError` for anything else."""
    total, sources = None, dict[str, float]()
    for text in given:
        source, equals, amount = text.rpartition("=")
        try:
            usd = float(amount)
        except ValueError:
            usd = math.nan
        if not 0 <= usd < math.inf or (equals and not source):
            todo = "give USD, for example --budget 5, or SOURCE=USD, for example --budget coco=2"
            raise UsageError("not a budget", where=repr(text), todo=todo)
        if equals:
            sources[source] = usd
        else:
            total = usd
    return total, sources


def worst_case(image: Image, prompt: str, max_tokens: int, image_tokens: int = IMAGE_TOKENS) -> Usage:
    """The most that a request can use: each byte of the prompt a token, each smallest patch a token."""
    if image is NO_IMAGE:
        return Usage(len(prompt.encode()) + 64, max_tokens)
    patches = math.ceil(image.width / PATCH) * math.ceil(image.height / PATCH)
    # Tile-billed models charge some hundreds of tokens for the smallest picture.
    seen = min(image_tokens, max(1024, patches))
    return Usage(len(prompt.encode()) + 64 + seen, max_tokens)


@dataclass
class Purse:
    """One source's share of the money, in USD."""

    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    out: int = 0  # reservations that are not settled


@dataclass
class Budget:
    """Money spent, perhaps spent, and reserved, in USD: in all, and by source. Without a price all fits."""

    price: Price | None = None
    limit_usd: float | None = None
    spent_usd: float = 0.0  # settled, and at worst case where the outcome is unknown
    reserved_usd: float = 0.0
    out: int = 0  # reservations that are not settled
    overrun: float = 1.0  # largest factor by which reported prompt tokens exceeded the bound so far
    changed: Callable[[], None] = field(default=lambda: None, repr=False)  # called when money becomes free
    second_price: Price | None = None  # the second teacher's
    has_second: bool = False  # there is a second teacher
    source_limits: Mapping[str, float] = field(default_factory=dict)  # source -> the most it may cost
    sources: defaultdict[str, "Purse"] = field(default_factory=lambda: defaultdict(Purse))

    def __post_init__(self) -> None:
        limits = [self.limit_usd] if self.limit_usd is not None else []
        limits += self.source_limits.values()
        if not limits:
            return
        if self.price is None:
            todo = "say what it costs: --price IN,OUT in USD per million tokens"
            raise UsageError("a budget needs a price", todo=todo)
        if self.has_second and self.second_price is None:
            todo = "say what it costs: --price MODEL=IN,OUT in USD per million tokens"
            raise UsageError("a budget needs the second teacher's price too", todo=todo)
        for limit in limits:
            if not 0 <= limit < math.inf:
                raise UsageError("not a budget", where=limit, todo="give USD, for example --budget 5")

    def price_for(self, *, second: bool) -> Price | None:
        """The price of the teacher that is asked."""
        return self.second_price if second else self.price

    def worst(self, usage: Usage, *, second: bool = False) -> float | None:
        """USD of a request's worst case, None without a price."""
        return self.worst_at(self.price_for(second=second), usage)

    def worst_at(self, price: Price | None, usage: Usage) -> float | None:
        """The same at another price: a batch's canary is asked online."""
        if price is None:
            return None
        return price.of(Usage(math.ceil(usage.prompt_tokens * self.overrun), usage.completion_tokens))

    def fits(self, worst_usd: float | None) -> bool:
        """Whether it fits into the money in all, whatever its source has left."""
        if worst_usd is None or self.limit_usd is None:
            return True
        return self.spent_usd + self.reserved_usd + worst_usd <= self.limit_usd + 1e-12

    def reserve(self, worst_usd: float | None, source: str = "") -> bool:
        """Set the money aside if it fits."""
        if worst_usd is None:
            return True
        if not self.fits(worst_usd):
            return False
        purse, limit = self.sources[source], self.source_limits.get(source)
        if limit is not None and purse.spent_usd + purse.reserved_usd + worst_usd > limit + 1e-12:
            return False
        for held in (self, purse):
            held.reserved_usd += worst_usd
            held.out += 1
        return True

    def source_wall(self, worst_usd: float | None, source: str) -> str | None:
        """What keeps this source's requests back for good, in words; None while money may still come back."""
        purse, limit = self.sources[source], self.source_limits.get(source)
        if limit is None or worst_usd is None or purse.out or purse.spent_usd + worst_usd <= limit + 1e-12:
            return None
        spent = f"${purse.spent_usd:.4f} spent"
        return (
            f"budget of ${limit:g} for source {source} reached: {spent}, the next can cost ${worst_usd:.4f}"
        )

    def settle(self, worst_usd: float | None, cost_usd: float | None, source: str = "") -> None:
        """Replace a reservation by what it came to."""
        for held in (self, self.sources[source]):
            if worst_usd is not None:
                held.out = max(0, held.out - 1)
                # Floats leave crumbs: nothing out is nothing reserved, or a run at its limit waits for ever.
                held.reserved_usd = max(0.0, held.reserved_usd - worst_usd) if held.out else 0.0
            held.spent_usd += cost_usd or 0.0
        self.changed()

    def spent_before(self, usd_by_source: Mapping[str, float], total_usd: float) -> None:
        """Take in what earlier runs spent: on each source, where that is known, and in all."""
        self.spent_usd = total_usd
        for source, usd in usd_by_source.items():
            self.sources[source].spent_usd = usd

    def learn(self, bound: Usage, used: Usage) -> None:
        """Raise the bound for what follows if a request used more prompt tokens than thought possible."""
        if bound.prompt_tokens:
            self.overrun = max(self.overrun, used.prompt_tokens / bound.prompt_tokens)
