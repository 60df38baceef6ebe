"""What becomes of requests, in money and on disk: settled with the budget, booked in the ledger.

Every engine's outcomes end here, so that ledger and budget have one owner. It must never book a request
whose money was not set aside before.
"""

import asyncio
from dataclasses import dataclass

from sharecap.captions.captioner import Answer, RejectedError, TeacherError, UnavailableError
from sharecap.captions.ledger import How, Ledger
from sharecap.captions.plan import Job
from sharecap.captions.price import Budget, Price
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError
from sharecap.records import Usage


@dataclass
class Books:
    """One per run. `worst` is what was set aside for the attempt, in USD."""

    ledger: Ledger
    budget: Budget

    def answer(
        self,
        job: Job,
        worst: float | None,
        answer: Answer,
        kind: str | None,
        *,
        second: bool,
        how: How | None,
    ) -> "asyncio.Future[None]":
        """Settle what the answer cost and book it: as a caption, or as a failure of this `kind`."""
        usage = answer.usage or Usage()
        price = self.budget.price_for(second=second)
        rates = (price.prompt_usd, price.completion_usd) if price else (0.0, 0.0)
        cost = _cost(price, answer, worst)
        self.budget.learn(job.bound, usage)
        self.budget.settle(worst, cost, job.image.source)
        text = answer.text.strip()
        if kind is None:
            return self.ledger.done(job.key, text, answer.finish_reason, usage, cost, price=rates, how=how)
        return self.ledger.failed(
            job.key,
            kind,
            answer.refusal or text,
            usage=usage,
            cost_usd=cost,
            text=text,
            finish_reason=answer.finish_reason,
            price=rates,
            how=how,
        )

    async def unpaid(
        self, job: Job, worst: float | None, kind: str, error: SharecapError, how: How | None = None
    ) -> None:
        """The attempt brought no answer and is on no bill."""
        self.budget.settle(worst, 0.0, job.image.source)
        await self.ledger.failed(job.key, kind, error.what, how=how)

    async def unavailable(self, job: Job, worst: float | None, error: UnavailableError) -> None:
        """The server failed; the attempt may be on the bill."""
        maybe = worst if error.maybe_billed else 0.0
        self.budget.settle(worst, maybe, job.image.source)
        await self.ledger.failed(
            job.key, error.kind, error.what, doubtful=error.maybe_billed, doubtful_usd=maybe
        )

    async def aside(
        self, key: bytes, worst: float | None, outcome: Answer | SharecapError, price: Price | None
    ) -> str | RejectedError | None:
        """A request that is no job's: its words, the rejection, or None where there is no answer."""
        if isinstance(outcome, Answer):
            cost = _cost(price, outcome, worst)
            self.budget.settle(worst, cost)
            usage = outcome.usage or Usage()
            await self.ledger.done(key, outcome.text, outcome.finish_reason, usage, cost)
            return outcome.text
        maybe = worst if isinstance(outcome, UnavailableError) and outcome.maybe_billed else None
        self.budget.settle(worst, maybe)
        doubtful = isinstance(outcome, UnavailableError) and outcome.maybe_billed
        await self.ledger.failed(key, kind_of(outcome), outcome.what, doubtful=doubtful, doubtful_usd=maybe)
        return outcome if isinstance(outcome, RejectedError) else None


def kind_of(error: SharecapError) -> str:
    """The word under which a request that failed so is counted."""
    if isinstance(error, ImageError):
        return f"image_{error.reason}"
    return error.kind if isinstance(error, TeacherError) else "error"


def _cost(price: Price | None, answer: Answer, worst: float | None) -> float | None:
    """USD; a server that reports no usage may have used all that it could."""
    if price is None:
        return None
    return price.of(answer.usage) if answer.usage else worst
