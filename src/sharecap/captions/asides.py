"""The canary's requests where the run's own go out by files or rounds: reserved, on disk as sent, booked.

They never wait for money: what would bring it back may be waiting for them. What they cost stands in ledger
and budget, and they must never be taken for captions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from sharecap.captions.captioner import Answer, FatalError, RejectedError, Request
from sharecap.captions.courier import Courier, aside_key
from sharecap.captions.price import Price, worst_case
from sharecap.errors import SharecapError

Send = Callable[[Mapping[bytes, Request]], Awaitable[Mapping[bytes, Answer | SharecapError]]]
"""Has every request answered once, by key; each comes to an outcome."""


@dataclass
class Asides:
    """How one engine's canary asks. An `Aside` (canary.py)."""

    courier: Courier
    send: Send
    price: Price | None  # of these requests

    async def __call__(self, requests: Sequence[Request]) -> list[str | RejectedError | None] | None:
        """See `Aside`."""
        courier, canary = self.courier, self.courier.canary
        assert canary is not None
        if courier.stopping or (worsts := self._reserved(requests)) is None:
            return None
        keys = [aside_key() for _ in requests]
        name = courier.captioner.name
        await asyncio.gather(
            *(
                courier.ledger.sent(key, request.image.id, name, canary.booked_as, worst)
                for key, request, worst in zip(keys, requests, worsts, strict=True)
            )
        )
        courier.requests += len(requests)
        outcomes = await self.send(dict(zip(keys, requests, strict=True)))
        said = await asyncio.gather(
            *(
                courier.books.aside(key, worst, outcomes[key], self.price)
                for key, worst in zip(keys, worsts, strict=True)
            )
        )
        fatal = [error for error in outcomes.values() if isinstance(error, FatalError)]
        courier.stop_if(fatal[0] if fatal else None)
        return list(said)

    def _reserved(self, requests: Sequence[Request]) -> list[float | None] | None:
        """The money set aside for all of them, or for none; where none ever comes back the run stops."""
        budget, worsts = self.courier.budget, list[float | None]()
        for request in requests:
            bound = worst_case(request.image, request.prompt, request.sampling.max_tokens)
            worst = budget.worst_at(self.price, bound)
            if not budget.reserve(worst):
                for one in worsts:
                    budget.settle(one, 0.0)
                if not budget.out:
                    self.courier.out_of_money(worst)
                return None
            worsts.append(worst)
        return worsts
