"""The ledger's writer and whoever waits for it."""

import asyncio
import gc
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sharecap.captions.ledger import Ledger
from sharecap.errors import SharecapError


def test_a_change_that_fails_after_its_worker_was_cancelled_leaves_no_traceback(tmp_path: Path) -> None:
    """As when a disk runs full: the first worker raises and the others are cancelled while they wait."""
    complaints: list[dict[str, Any]] = []

    async def book(ledger: Ledger, key: bytes) -> None:
        await ledger.sent(key, "image", "model", "prompt", None)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")  # the writer waits until the table is gone
            cancelled, waiting = (asyncio.create_task(book(ledger, key)) for key in (b"a", b"b"))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            other.execute("DROP TABLE requests")
            other.execute("COMMIT")
            other.close()
            with pytest.raises(SharecapError, match="the ledger failed"):
                await waiting

    asyncio.run(main())
    gc.collect()
    assert complaints == []
