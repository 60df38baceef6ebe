"""Where requests that are ready wait for a free place among those that are out: first come, first called.

To wake all of them for one place would take its time, and every answer frees one.
"""

import asyncio
from collections import deque


class Door:
    """One per run, inside one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Until called. Somebody else may have taken the place by then: ask for it again."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(called)
        await called

    def call(self, places: int) -> None:
        """Call so many of those who wait."""
        while places > 0 and self._waiting:
            called = self._waiting.popleft()
            if not called.done():  # nor cancelled
                called.set_result(None)
                places -= 1

    def call_all(self) -> None:
        """Call everybody: nothing more may leave."""
        self.call(len(self._waiting))
