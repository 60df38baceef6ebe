"""What guards a run online guards it over batches too: budgets of sources, second teacher, canary."""

import hashlib
import io
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sharecap.captions.batches import BatchRules
from sharecap.captions.courier import Patience
from sharecap.captions.gates import GATES
from sharecap.captions.layer import read_layer
from sharecap.captions.price import Price
from sharecap.captions.run import plan, run
from sharecap.captions.run_report import RunReport
from sharecap.errors import SharecapError, Stopped
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.scenes.chat_completions import look
from sharecap.scenes.simulator import Settings, serving

from .server import Teacher

QUICK = Patience(base_s=0.002, cap_s=0.01, tries=4)
RULES = BatchRules(poll_s=0.01, poll_cap_s=0.05)
PRICE = Price(10, 20)
HALF = RULES.price(PRICE)
OTHERS = tuple(name for name in GATES if name != "canary")
MANY = 170
"""Images: enough for a canary."""


def make_photos(place: Path, **counts: int) -> Path:
    """A dataset with so many pictures of each source, and the words in which each is known."""
    place.mkdir(parents=True, exist_ok=True)
    number = 0
    with open(place / "answers.jsonl", "w", encoding="utf-8") as answers:
        for source, count in counts.items():
            (place / "pictures" / source).mkdir(parents=True)
            for _ in range(count):
                file = io.BytesIO()
                levels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(levels).save(file, "PNG")
                (place / "pictures" / source / f"{number:04}.png").write_bytes(file.getvalue())
                words = hashlib.sha256(str(number).encode()).hexdigest()
                said = " ".join(words[at : at + 8] for at in range(0, 64, 8))
                row = {"file": f"{number}", "pixels": look(file.getvalue())[2], "answer": f"{said}."}
                answers.write(json.dumps(row) + "\n")
                number += 1
    add([place / "pictures"], place / "dataset")
    return place / "dataset"


def settings_for(dataset: Path, name: str = "server", **options: Any) -> Settings:
    place = dataset.parent
    answers, log = (place / "answers.jsonl",), place / f"{name}.jsonl"
    return Settings(answers=answers, batches=place / name, log=log, **options)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "few", coco=12)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("many") / "many", coco=MANY)


@pytest.fixture
def big(many: Path) -> Path:
    """A dataset that is large enough for a canary, about which nothing was asked."""
    for name in ("ledger.sqlite", "batches.sqlite"):
        (many / name).unlink(missing_ok=True)
    for log in many.parent.glob("*.jsonl"):
        if log.name != "answers.jsonl":
            log.unlink()
    return many


def caption(dataset: Path, url: str, layer: str = "one", **options: object) -> RunReport:
    fixed = {
        "patience": QUICK,
        "rng": random.Random(0),
        "accept": GATES,
        "price": PRICE,
        "batch": RULES,
        **options,
    }
    return run(dataset, f"batch:{url}#recorded", "sharegpt4v", layer, **fixed)  # type: ignore[arg-type]


def asked(settings: Settings) -> Counter[str]:
    """How often each request was answered, and so is paid for."""
    assert settings.log is not None
    if not settings.log.exists():
        return Counter()
    lines = map(json.loads, settings.log.read_text().splitlines())
    return Counter(line["request"] for line in lines if line["status"] == 200)


def sizes(settings: Settings) -> list[int]:
    """Requests of each batch that was made."""
    assert settings.batches is not None
    made = [json.loads(path.read_text()) for path in sorted((settings.batches / "batches").glob("*.json"))]
    return [batch["request_counts"]["total"] for batch in made]


def spent(dataset: Path, where: str = "true") -> float:
    """USD by the ledger, doubts and what is set aside included."""
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        money = "total(cost_usd) + total(doubtful_usd) + total(reserved_usd)"
        usd: float = db.execute(f"SELECT {money} FROM requests WHERE {where}").fetchone()[0]
    return usd


def of_source(dataset: Path, source: str) -> str:
    """An SQL condition for a source's requests."""
    ids = [image.id for image in Catalog.open(dataset) if image.source == source]
    return f"image_id IN ({', '.join(repr(one) for one in ids)})"


def worst(dataset: Path, price: Price | None) -> float:
    """The most that one request can cost."""
    assert price is not None
    wanted = plan(dataset, "http://127.0.0.1:9/v1#recorded", "sharegpt4v")
    return max(price.of(job.bound) for jobs in wanted.jobs() for job in jobs)


def test_a_sources_budget_is_a_wall_for_files_and_holds_up_no_other_source(tmp_path: Path) -> None:
    dataset = make_photos(tmp_path / "two", coco=9, sam=6)
    settings, most = settings_for(dataset), worst(dataset, HALF)
    rules, limit = replace(RULES, requests=5), 1.45 * most
    with serving(settings) as url:
        with pytest.raises(Stopped, match=r"budget of .* for source coco reached: .* spent") as caught:
            caption(dataset, url, batch=rules, source_budgets={"coco": limit})
        assert caught.value.exit_code == 3
        assert "the other sources are done; run again with a higher --budget SOURCE=USD" in str(caught.value)
        # No second coco fits at first; sam doesn't wait for the first to come back, which may take a day.
        assert sizes(settings)[:2] == [5, 2]
        answered = asked(settings).total()
        assert 6 + 1 < answered < 15  # what came back was spent on more
        assert limit - most < spent(dataset, of_source(dataset, "coco")) <= limit
        with pytest.raises(Stopped, match="source coco"):  # what earlier runs spent counts
            caption(dataset, url, batch=rules, source_budgets={"coco": limit})
        assert asked(settings).total() == answered
        report = caption(dataset, url, batch=rules, source_budgets={"coco": 100 * most})
    assert (report.captions, report.doubtful) == (15, 0)
    assert set(asked(settings).values()) == {1}


def test_the_second_teacher_is_asked_online_what_the_batches_refuse(dataset: Path) -> None:
    first, second = settings_for(dataset, faults={"refusal": 1.0}), settings_for(dataset, "second")
    with serving(first) as url, serving(second) as other:
        report = caption(dataset, url, second_teacher=f"{other}#other", second_price=Price(100, 200))
    assert (report.captions, report.failures, report.doubtful) == (12, {}, 0)
    assert report.remedies == {"refusal:rephrased": 12, "refusal:second": 12}
    assert {made.captioner for made in read_layer(dataset, "one")} == {"other"}
    assert sizes(first) == [12, 12]  # as it was put, and in other words
    assert sizes(second) == []
    assert (asked(first).total(), asked(second).total()) == (24, 12)
    assert set((asked(first) + asked(second)).values()) == {1}
    dear = sum(usage_usd(second, Price(100, 200)))
    assert report.cost_usd is not None
    assert dear < report.cost_usd < 1.2 * dear


def usage_usd(settings: Settings, price: Price) -> list[float]:
    """What the server's own log says that each online answer cost."""
    assert settings.log is not None
    lines = [json.loads(line) for line in settings.log.read_text().splitlines()]
    used = [line["usage"] for line in lines if line.get("usage")]
    return [
        (price.prompt_usd * u["prompt_tokens"] + price.completion_usd * u["completion_tokens"]) / 1e6
        for u in used
    ]


def test_money_that_is_out_in_batches_makes_the_second_teacher_wait_and_never_the_run(
    dataset: Path,
) -> None:
    first, second = settings_for(dataset, faults={"refusal": 1.0}), settings_for(dataset, "second")
    options = {"second_price": PRICE, "batch": replace(RULES, requests=2)}
    with serving(first) as url, serving(second) as other:
        limit = 2.5 * worst(dataset, PRICE)
        options["second_teacher"] = f"{other}#other"
        with pytest.raises(Stopped, match="budget") as caught:
            caption(dataset, url, budget_usd=limit, **options)
        assert caught.value.exit_code == 3
        assert 0 < spent(dataset) <= limit
        report = caption(dataset, url, budget_usd=10 * limit, **options)
    assert report.captions == 12
    assert set((asked(first) + asked(second)).values()) == {1}


KILLED = """
import os, signal, sys
from sharecap import cli
from sharecap.captions.courier import Courier
from sharecap.captions.ledger import Ledger
from sharecap.captions.teachers.endpoint import Endpoint
step, nth, sys.argv = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
def die(at):
    global nth
    nth -= at == step
    if at == step and nth == 0:
        os.kill(os.getpid(), signal.SIGKILL)
carry, sent, answer, done = Courier.carry, Ledger.sent, Endpoint.answer, Ledger.done
async def carried(self, *args):
    die("due")
    return await carry(self, *args)
async def is_sent(self, *args, **more):
    await sent(self, *args, **more)
    if not more.get("in_batch"):
        die("sent")
async def answered(self, *args):
    said = await answer(self, *args)
    die("answered")
    return said
def is_done(self, *args, **more):
    booked = done(self, *args, **more)
    booked.add_done_callback(lambda _: die("booked"))
    return booked
Courier.carry, Ledger.sent, Endpoint.answer, Ledger.done = carried, is_sent, answered, is_done
cli.main()
"""


@pytest.mark.parametrize("step", ["due", "sent", "answered", "booked"])
def test_kill_9_around_the_second_teacher_pays_nothing_twice_unbooked(dataset: Path, step: str) -> None:
    first, second = settings_for(dataset, faults={"refusal": 1.0}), settings_for(dataset, "second")
    with serving(first) as url, serving(second) as other:
        teacher, another = f"batch:{url}#recorded", f"{other}#other"
        words = ["caption", str(dataset), "--teacher", teacher, "--second-teacher", another, "--layer", "one"]
        rules = [
            "--batch",
            "requests=4,poll_s=0.01,poll_cap_s=0.05",
            "--price",
            "10,20",
            "--concurrency",
            "3",
        ]
        accept = [word for name in GATES for word in ("--accept", name)]
        line = [sys.executable, "-c", KILLED, step, "3", "sharecap", *words, *rules, *accept]
        killed = subprocess.run(line, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        report = caption(dataset, url, second_teacher=another, second_price=PRICE)
    assert (report.captions, report.failures) == (12, {})
    assert set(asked(first).values()) == {1}  # no refusal is paid for again
    twice = asked(second).total() - 12
    assert twice <= report.doubtful == report.in_flight
    assert report.in_flight <= (0 if step == "due" else 3)
    assert set(report.remedies.values()) == {12}


def canary_rows(dataset: Path) -> int:
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        count: int = db.execute("SELECT count(*) FROM requests WHERE prompt_id LIKE 'canary:%'").fetchone()[0]
    return count


def test_a_model_that_sees_nothing_is_stopped_before_the_first_batch(big: Path) -> None:
    settings = settings_for(big, "blind", faults={"blind": 1.0}, seed=1)
    with serving(settings) as url:
        with pytest.raises(Stopped, match="gate canary: the model does not seem to see") as caught:
            caption(big, url, "blind", accept=OTHERS)
        assert caught.value.exit_code == 3
        assert sizes(settings) == []
        assert (asked(settings).total(), canary_rows(big)) == (8, 8)
        assert spent(big) == pytest.approx(sum(usage_usd(settings, PRICE)))  # online, so at the full price
        with pytest.raises(Stopped, match="gate canary"):  # the same command stops again
            caption(big, url, "blind", accept=OTHERS)
        assert sizes(settings) == []
        report = caption(big, url, "blind")  # which accepts it
    assert (report.captions, report.canary_requests, report.requests) == (MANY, 16, MANY)


def test_a_model_that_sees_is_asked_eight_times_online_and_once_only(big: Path) -> None:
    settings = settings_for(big, "sees")
    with serving(settings) as url:
        with pytest.raises(Stopped, match="source coco"):
            caption(big, url, "sees", accept=OTHERS, source_budgets={"coco": 1.5 * worst(big, HALF)})
        report = caption(big, url, "sees", accept=OTHERS, source_budgets={"coco": 100.0})
    assert (report.captions, report.failures, report.canary_requests) == (MANY, {}, 8)
    online = sum(usage_usd(settings, PRICE))
    assert report.canary_usd == pytest.approx(online)
    used = PRICE.prompt_usd * report.prompt_tokens + PRICE.completion_usd * report.completion_tokens
    assert report.cost_usd == pytest.approx(used / 1e6 / 2 + online)
    # Both probes' own questions go into the batch too, since they had no captions yet.
    assert sorted(asked(settings).values())[-4:] == [1, 2, 2, 2]


def test_a_budget_that_bears_no_canary_ends_the_run_before_a_batch(big: Path) -> None:
    settings = settings_for(big, "poor")
    with serving(settings) as url:
        most = worst(big, PRICE)
        with pytest.raises(Stopped, match="budget") as caught:
            caption(big, url, "poor", accept=OTHERS, budget_usd=7.9 * most)
        assert caught.value.exit_code == 3
        assert (asked(settings).total(), sizes(settings)) == (0, [])
        assert caption(big, url, "poor", accept=OTHERS, budget_usd=100.0).captions == MANY


def test_a_server_that_answers_only_batches_is_told_how_to_go_on(big: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "404"
    with pytest.raises(SharecapError, match=r"asks online.*--accept canary leaves it out"):
        caption(big, teacher.url, "none", accept=OTHERS)
