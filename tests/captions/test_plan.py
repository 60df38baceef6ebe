"""The survey: counting what is plainly done in columns comes to the same as looking at each request."""

import asyncio
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from sharecap.captions.ledger import Ledger
from sharecap.captions.plan import Trail, survey
from sharecap.captions.price import Price
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import plan, run
from sharecap.images import catalog

from .conftest import make_dataset
from .server import Seen, Teacher

PRICE = Price(1e6 / 1024, 2e6 / 1024)
"""In parts of 1/1024 dollar, which floats add up to the same in any order."""


def faulty(seen: Seen) -> str:
    """A dropped connection, which may be billed, and pictures that get no caption however often."""
    return "drop" if seen.number == 5 else "empty" if seen.image[0] in "05af" else "ok"


@pytest.mark.parametrize("context", [(), ("width",)], ids=["a prompt per source", "a prompt per image"])
@pytest.mark.parametrize("paid", [None, PRICE], ids=["no price then", "a price then"])
def test_a_survey_in_columns_comes_to_what_looking_at_each_comes_to(
    tmp_path: Path,
    teacher: Teacher,
    monkeypatch: pytest.MonkeyPatch,
    context: tuple[str, ...],
    paid: Price | None,
) -> None:
    monkeypatch.setattr(catalog, "ROWS", 7)
    dataset, teacher.script = make_dataset(tmp_path, 30), faulty
    pack = load_pack("sharegpt4v").with_options(context=context)
    run(dataset, f"{teacher.url}#model", pack, "one", price=paid, only=20)
    wanted = plan(dataset, f"{teacher.url}#model", pack)
    keys = [job.key for job in chain.from_iterable(wanted.jobs())]
    with Ledger(dataset / "ledger.sqlite") as ledger:
        known = ledger.look_up(keys)
        failed = sum(entry.state == "failed" for entry in known.values())
        assert failed > 0
        unknown = next(key for key in keys if key not in known)
        asyncio.run(ledger.sent(unknown, "image", "model", "prompt", 0.5, in_batch=True))
        for price in (None, PRICE):
            found = []
            for plainly_done in (ledger.plainly_done, lambda keys: [None] * len(keys)):
                trail = Trail(first=3)
                one = survey(
                    wanted, partial(ledger.look_up, texts=False), plainly_done, price=price, trail=trail
                )
                found.append((vars(one), list(trail)))
            assert found[0] == found[1]
            counted = found[0][0]
            assert (counted["images"], counted["open"], sum(counted["open_at"])) == (30, 9, 9)
            assert (counted["done"], counted["doubtful"], counted["unsettled"]) == (20 - failed, 2, 10)
            assert {key for _, key in found[0][1]} == set(known)
