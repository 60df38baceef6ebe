"""The ledger's writer and whoever waits for it."""

import asyncio
import gc
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sharecap.captions.ledger import MOST_ROWS, Ledger
from sharecap.errors import SharecapError
from sharecap.records import Usage


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


def test_what_is_plainly_done_is_told_from_all_else(tmp_path: Path) -> None:
    async def main(ledger: Ledger) -> None:
        for key in (b"another layer's", b"a", b"on its way", b"b", b"doubtful", b"failed"):
            await ledger.sent(key, "image", "model", "prompt", 0.5)
        await ledger.failed(b"doubtful", "timeout", "no answer", doubtful=True)
        for key, usage, usd in ((b"b", Usage(20, 4), None), (b"a", Usage(10, 3), 0.25)):
            await ledger.done(key, "words", "stop", usage, usd)
        for key in (b"doubtful", b"another layer's"):
            await ledger.done(key, "words", "stop", Usage(), 0.25)
        await ledger.failed(b"failed", "refusal", "no")

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(main(ledger))
        a, b = (b"a", 0.25, 10, 3), (b"b", None, 20, 4)
        found = ledger.plainly_done([b"b", b"a", b"failed", b"never sent", b"doubtful", b"on its way"])
        assert found == [b, a, None, None, None, None]
        assert ledger.plainly_done([b"never sent", b"a"]) == [None, a]
        assert ledger.plainly_done([]) == []


def test_what_lies_far_from_its_neighbours_is_left_to_be_looked_up(tmp_path: Path) -> None:
    """Else a pilot's captions, spread over the catalog, would have the whole table read for every piece."""

    async def main(ledger: Ledger) -> None:
        for key in keys:
            await ledger.sent(key, "image", "model", "prompt", None)
            await ledger.done(key, "words", "stop", Usage(1, 1), None)

    keys = [b"%d" % number for number in range(MOST_ROWS * 10)]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(main(ledger))
        assert ledger.plainly_done([keys[0], keys[-1]]) == [None, None]
        near = ledger.plainly_done([keys[0], *keys[20:30]])
    assert near == [(key, None, 1, 1) for key in (keys[0], *keys[20:30])]


def test_texts_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    async def main(ledger: Ledger) -> None:
        await ledger.sent(b"a", "image", "model", "prompt", None)
        await ledger.done(b"a", "words", "stop", Usage(10, 3), None)

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(main(ledger))
        with_text, without = ledger.look_up([b"a"])[b"a"], ledger.look_up([b"a"], texts=False)[b"a"]
    assert (with_text.text, without.text) == ("words", None)
    assert with_text[:9] == without[:9]


def test_changes_that_gather_are_made_in_their_order(tmp_path: Path) -> None:
    async def main(ledger: Ledger) -> None:
        for number in range(200):
            key = bytes([number])
            sent = asyncio.create_task(ledger.sent(key, "image", "model", "prompt", None))
            await asyncio.sleep(0)
            await asyncio.gather(sent, ledger.done(key, str(number), "stop", Usage(1, 1), None))

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(main(ledger))
        found = ledger.look_up([bytes([number]) for number in range(200)])
    assert [found[bytes([number])].text for number in range(200)] == [str(n) for n in range(200)]


def test_text_that_is_no_utf8_is_kept_as_far_as_it_is_text(tmp_path: Path) -> None:
    """A captioner may hand on halves of surrogate pairs; they must not end the writer."""

    async def main(ledger: Ledger) -> None:
        await ledger.sent(b"a", "image", "model", "prompt", None)
        await ledger.done(b"a", "a \ud83d cat \ud83d\ude00", "stop", Usage(10, 3), None)

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(asyncio.wait_for(main(ledger), 60))
        assert ledger.look_up([b"a"])[b"a"].text == "a \ufffd cat \U0001f600"


def test_what_sqlite_cannot_hold_is_told_to_those_who_wait(tmp_path: Path) -> None:
    """Else they would wait for ever, and the run would hang."""

    async def main(ledger: Ledger) -> None:
        await ledger.sent(b"a", "image", "model", "prompt", 0.5)
        with pytest.raises(OverflowError):
            await ledger.done(b"a", "words", "stop", Usage(2**70, 3), 0.25)
        with pytest.raises(OverflowError):  # nothing is booked after a failure, so no order is broken
            await ledger.sent(b"b", "image", "model", "prompt", 0.5)

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        asyncio.run(asyncio.wait_for(main(ledger), 60))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert (ledger.in_flight.requests, ledger.in_flight.usd) == (1, 0.5)
