"""The canary: a model that does not see its images stops the run; one that sees is left alone. Both pay."""

import asyncio
import random
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.canary import Canary, Rules, alikeness, blank_image, is_blind, is_worth_it, means
from sharecap.captions.captioner import RejectedError, Request, Sampling
from sharecap.captions.gates import GATES
from sharecap.captions.layer import read_layer
from sharecap.captions.ledger import Ledger
from sharecap.captions.price import Price
from sharecap.captions.run import plan, run
from sharecap.captions.run_report import RunReport
from sharecap.errors import Stopped
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.records import Usage
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import WorldSpec, make_world

from .conftest import make_dataset
from .server import USAGE, Seen, Teacher

OTHERS = tuple(name for name in GATES if name != "canary")
PRICE = Price(10, 20)
THINGS = ["boat", "tower", "meadow", "bridge", "kettle", "violin", "lantern", "orchard", "harbour", "glacier"]


def describe(seen: Seen) -> str:
    """What a teacher that sees says: other things of every picture, in words drawn anew for every request."""
    things = random.Random(seen.image).sample(THINGS, 5)
    how = random.Random(f"{seen.image}{seen.number}").sample(
        ["old", "small", "bright", "quiet", "distant"], 2
    )
    return f"say=The picture shows {', '.join(things)}, all of it {how[0]} and {how[1]}."


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("many"), 130)


@pytest.fixture
def dataset(many: Path) -> Path:
    (many / "ledger.sqlite").unlink(missing_ok=True)
    return many


def caption(dataset: Path, teacher: Teacher, layer: str, **options: object) -> RunReport:
    fixed = {"rng": random.Random(0), "price": PRICE, "accept": OTHERS, **options}
    return run(dataset, f"{teacher.url}#model", "sharegpt4v", layer, **fixed)  # type: ignore[arg-type]


def test_a_teacher_that_sees_is_left_alone_and_the_canary_is_paid_but_no_caption(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = describe
    report = caption(dataset, teacher, "sees")
    assert (report.captions, report.canary_requests, report.requests) == (130, 6, 136)
    assert report.cost_usd == pytest.approx(136 * PRICE.of(Usage(**USAGE)))
    assert len(list(read_layer(dataset, "sees"))) == 130
    ids = {image.id for image in Catalog.open(dataset)}
    blank = {seen.image for seen in teacher.log} - ids
    assert len(blank) == 1
    assert {seen.body["temperature"] for seen in teacher.log if seen.image in blank} == {0}
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        ours = "SELECT count(*) FROM requests WHERE prompt_id LIKE 'canary:%' AND state = 'done'"
        assert db.execute(ours).fetchone() == (6,)


def test_a_teacher_that_does_not_see_is_stopped_and_its_captions_are_asked_anew(
    dataset: Path, teacher: Teacher
) -> None:
    teacher.script = lambda seen: f"say=A calm meadow under a wide sky with a lone tree. {seen.number % 3}"
    with pytest.raises(Stopped, match=r"gate canary: the model does not seem to see .*blank") as caught:
        caption(dataset, teacher, "blind")
    assert caught.value.exit_code == 3
    assert len(teacher.log) < 120  # what was out while the canary was
    teacher.script = describe
    report = caption(dataset, teacher, "blind")
    assert (report.captions, report.failures) == (130, {})
    assert not [c for c in read_layer(dataset, "blind") if "calm meadow" in c.text]


def test_a_wrong_alarm_can_be_accepted_and_costs_no_caption(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda _: "say=A calm meadow under a wide sky with a lone tree."
    with pytest.raises(Stopped, match="gate canary"):
        caption(dataset, teacher, "alarm")
    before = len(teacher.log)
    report = caption(dataset, teacher, "alarm", accept=GATES)
    assert report.captions == 130
    assert len(teacher.log) - before == 130 - report.kept
    assert report.kept > 0


def test_the_next_run_needs_no_new_canary_after_a_good_one(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda seen: describe(seen) if seen.number <= 5 else "401"
    with pytest.raises(Exception, match="key"):
        caption(dataset, teacher, "again", concurrency=1)
    teacher.script = describe
    report = caption(dataset, teacher, "again", concurrency=1)
    assert (report.captions, report.canary_requests <= 9) == (130, True)


def test_a_server_that_takes_no_temperature_is_probed_as_it_likes(dataset: Path, teacher: Teacher) -> None:
    teacher.script = lambda seen: "400" if "temperature" in seen.body else describe(seen)
    report = caption(dataset, teacher, "cold")
    assert (report.captions, report.failures) == (130, {})
    assert report.canary_requests > 6


def test_small_datasets_have_no_canary(tmp_path: Path, teacher: Teacher) -> None:
    assert caption(make_dataset(tmp_path, 60), teacher, "small").canary_requests == 0
    assert [is_worth_it(n) for n in (0, 119, 120, 10**6)] == [False, False, True, True]
    assert [is_worth_it(n, asked=4) for n in (0, 159, 160)] == [False, False, True]


@pytest.mark.parametrize("blind", [False, True])
def test_the_embedded_worlds_teacher_is_found_blind_where_it_is(tmp_path: Path, blind: bool) -> None:
    make_world(tmp_path, WorldSpec(), range(125))
    add([tmp_path / "images"], tmp_path / "dataset")
    faults = {"blind": 1.0} if blind else {}
    options = {"accept": OTHERS, "rng": random.Random(0)}
    with serving(Settings(truth=(tmp_path / "truth.jsonl",), faults=faults)) as url:
        if blind:
            with pytest.raises(Stopped, match="gate canary"):
                run(tmp_path / "dataset", f"{url}#scenes", "scenes", "one", **options)  # type: ignore[arg-type]
        else:
            report = run(tmp_path / "dataset", f"{url}#scenes", "scenes", "one", **options)  # type: ignore[arg-type]
            assert (report.captions, report.canary_requests) == (125, 6)


def test_the_figures_told_are_those_that_were_judged(dataset: Path, teacher: Teacher) -> None:
    assert means([(0.1, 0.5), (0.7, 0.5)]) == pytest.approx((0.4, 0.5))
    probed = [0]

    def other_words_later(seen: Seen) -> str:  # one picture's answers are all alike, then not at all
        probed[0] += seen.body.get("temperature") == 0
        return describe(seen) if probed[0] > 3 else "say=A calm meadow under a wide sky with a lone tree."

    teacher.script = other_words_later
    with pytest.raises(Stopped) as caught:
        caption(dataset, teacher, "figures", concurrency=1)
    figures = re.search(r"are (\d+)% alike, about different ones (\d+)%", str(caught.value))
    assert figures
    assert 40 <= int(figures[1]) <= 60
    assert int(figures[1]) - int(figures[2]) <= 10


async def sung(
    dataset: Path, sees: bool, each: int = 1
) -> tuple[list[int], list[str | None], list[str | None]]:
    """A canary of a run by files: requests of each song, what stopped it, and what became of the captions."""
    wanted, songs, poor = plan(dataset, "http://127.0.0.1:9/v1#m", "sharegpt4v"), list[int](), [True]
    jobs = next(wanted.jobs())
    words = {job.image.id: f"{job.image.id[:9]} {job.image.id[9:18]} {job.image.id[18:27]}" for job in jobs}
    with Ledger(dataset / "ledger.sqlite") as ledger:
        rules = Rules(probes=2, every=3, window=2)
        blank, other = blank_image(), jobs[-1].image
        canary = Canary("tag", ledger, Sampling(), blank=blank, others=lambda _: other, rules=rules)

        async def aside(requests: Sequence[Request]) -> list[str | RejectedError | None] | None:
            songs.append(len(requests))
            if poor.pop() if poor else False:  # no money the first time
                return None
            if sees or len(songs) <= 2:
                return [words.get(request.image.id, "nothing but even grey") for request in requests]
            return ["A calm meadow under the wide sky." for _ in requests]

        said = [await canary.start(aside, jobs), await canary.start(aside, jobs)]
        for job in jobs[:9]:
            await ledger.sent(job.key, job.image.id, "m", job.prompt.id, None)
            text = words[job.image.id] if sees else "A calm meadow under the wide sky."
            await ledger.done(job.key, text, "stop", Usage(), None)
            await canary.heard(job, text)
            if (jobs.index(job) + 1) % each == 0:
                said.append(await canary.between(aside))
        entries = ledger.look_up([job.key for job in jobs[:9]])
    kinds = [entries[job.key].error_kind for job in jobs[:9]]
    return songs, [str(why) if why else None for why in said], kinds


def test_by_files_it_sings_before_anything_is_sent_and_then_between(tmp_path: Path) -> None:
    songs, said, kinds = asyncio.run(sung(make_dataset(tmp_path, 12), sees=True))
    assert songs == [8, 8, 3, 3, 3]  # without captions, once more when there is money, then by captions
    assert set(said) == {None}
    assert set(kinds) == {None}


def test_by_files_it_condemns_what_came_since_the_last_good_song(tmp_path: Path) -> None:
    songs, said, kinds = asyncio.run(sung(make_dataset(tmp_path, 12), sees=False))
    assert songs == [8, 8, 3, 3]
    assert [why is not None for why in said] == [False] * 7 + [True] + [False] * 3
    assert "3 captions are booked as blind" in str(said[7])
    assert kinds == [None] * 3 + ["blind"] * 6  # those that came later too


def test_a_song_that_was_due_several_times_is_judged_as_a_whole(tmp_path: Path) -> None:
    songs, said, kinds = asyncio.run(sung(make_dataset(tmp_path, 12), sees=False, each=9))
    assert songs == [8, 8, 6]  # at most as many probes as are judged together
    assert "9 captions are booked as blind" in str(said[-1])
    assert kinds == ["blind"] * 9


def test_alikeness_counts_shared_words() -> None:
    assert alikeness("A red boat on the water.", "A RED boat, on the water!") == 1
    assert alikeness("Meadow with trees", "Harbour full of boats") == 0
    assert 0 < alikeness("一只猫坐在墙上", "一只狗坐在墙上") < 1
    assert alikeness("", "") == 1


@given(st.text(), st.text())
def test_alikeness_is_a_share_and_the_same_both_ways(a: str, b: str) -> None:
    assert 0 <= alikeness(a, b) <= 1
    assert alikeness(a, a) == 1
    assert alikeness(a, b) == alikeness(b, a)


def test_a_single_probe_is_no_judgement() -> None:
    rules = Rules()
    assert not is_blind([(1.0, 1.0)], rules)
    assert is_blind([(1.0, 1.0), (1.0, 0.95)], rules)
    assert not is_blind([(0.5, 0.2), (0.4, 0.1)], rules)
