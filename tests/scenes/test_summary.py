"""What the report says: the claim as the intervals have it, captions as the truth has it, time as it was."""

from pathlib import Path

import pytest

from sharecap.artifact import Artifact
from sharecap.evals.comparison import RunComparison
from sharecap.report.document import Interval, Number
from sharecap.scenes.summary import program_digest
from sharecap.scenes.summary_captions import Told, marked, measure, quality_table
from sharecap.scenes.summary_course import processor, spans
from sharecap.scenes.summary_scores import Scores, as_json, tables, verdicts
from sharecap.scenes.world import Truth, WorldSpec, make_world
from sharecap.statistics import Comparison, Estimate

Difference = tuple[float, float | None, float | None]


def compared(difference: Difference) -> Comparison:
    value, low, high = difference
    return Comparison(Estimate(50 + value, 40, 60), Estimate(50, 45, 55), Estimate(value, low, high))


def comparison(other: str, overall: Difference, kinds: dict[str, Difference]) -> RunComparison:
    return RunComparison(
        a="detailed",
        b=other,
        overall=compared(overall),
        benchmarks={"mme": {"total": compared(overall)}},
        kinds={kind: compared(difference) for kind, difference in kinds.items()},
        headlines={"mme": ("total", 1400.0)},
        unparsed={"mme": (2, 3)},
        items={"mme": 1000},
    )


def scores(short: Difference, none: Difference, kind: Difference = (1.0, -1.0, 3.0)) -> Scores:
    against = {
        "short": comparison("short", short, {"color": kind, "count": (5.0, 1.0, 9.0)}),
        "none": comparison("none", none, {"color": kind, "count": (5.0, 1.0, 9.0)}),
    }
    return Scores(against, {"color": 700, "count": 300}, pictures=50)


def test_the_claim_holds_only_if_both_intervals_lie_above_zero() -> None:
    won = scores((10.0, 8.0, 12.0), (5.0, 0.1, 9.0))
    first, second, third, *_ = told = verdicts(won)
    assert "another processor's rounding" in told[-1].text
    assert won.holds
    assert (first.status, second.status, third.status) == ("good", "good", "good")
    assert "Detailed captions beat short captions: 60.0 against 50.0 of 100" in second.text
    assert (
        "a difference of +10.0 points (95 % interval +8.0 to +12.0, paired, 1,000 questions)" in second.text
    )


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ((1.0, -0.1, 2.0), "can't be told apart from no captions"),
        ((0.0, 0.0, 0.0), "can't be told apart from no captions"),
        ((-3.0, -4.0, -2.0), "lose to no captions"),
        ((3.0, None, None), "too few pictures for an interval"),
    ],
)
def test_where_it_does_not_hold_it_says_so_plainly(difference: Difference, says: str) -> None:
    found = scores((10.0, 8.0, 12.0), difference)
    first, second, third, *_ = verdicts(found)
    assert not found.holds
    assert (first.status, second.status, third.status) == ("bad", "good", "bad")
    assert "the claim does not hold" in first.text
    assert says in third.text
    assert as_json(found)["holds"] is False


def test_kinds_that_got_worse_or_decide_nothing_are_named() -> None:
    worse = verdicts(scores((9.0, 8.0, 10.0), (9.0, 8.0, 10.0), (-4.0, -6.0, -2.0)))
    assert [v.status for v in worse[3:-1]] == ["bad", "bad"]
    assert worse[3].text == "Against short captions, detailed captions are worse on color."
    open_ = verdicts(scores((9.0, 8.0, 10.0), (9.0, 8.0, 10.0)))
    assert [(v.status, v.text) for v in open_[3:-1]] == [
        ("neutral", "Against short captions, undecided by kind of question: color."),
        ("neutral", "Against no captions, undecided by kind of question: color."),
    ]


def test_tables_hold_every_arm_and_both_differences() -> None:
    words, kinds, benchmarks = tables(scores((9.0, 8.0, 10.0), (3.0, None, None)))
    assert kinds.rows[0][:2] == ("color", 700)
    assert benchmarks.rows[0][:2] == ("MME, of 1,400", 1000)
    assert benchmarks.total is not None
    assert benchmarks.total[2:] == (
        Number(50),
        Number(50),
        Number(59.0),
        Interval(9.0, 8.0, 10.0),
        Number(3.0),  # no interval: too few pictures
    )
    assert "3 (no captions), 3 (short captions), 2 (detailed captions)" in words.text


def artifact(finished: str, seconds: float) -> Artifact:
    return Artifact(Path(), "k", "key", "digest", {}, {}, seconds=seconds, finished=finished)


def test_time_in_which_nothing_was_at_work_is_cut_out() -> None:
    stages = {
        "a": artifact("2025-01-01T10:00:10+00:00", 10),
        "b": artifact("2025-01-01T10:00:30+00:00", 20),
        "beside": artifact("2025-01-01T10:00:25+00:00", 10),
        "next day": artifact("2025-01-02T10:00:00+00:00", 5),
    }
    starts, seconds = spans(stages)
    assert starts == pytest.approx({"a": 0, "b": 10, "beside": 15, "next day": 30})
    assert seconds == pytest.approx(35)


@pytest.fixture(scope="module")
def truths(tmp_path_factory: pytest.TempPathFactory) -> list[Truth]:
    return make_world(tmp_path_factory.mktemp("world"), WorldSpec(seed=2), range(12), workers=1)


def test_pictures_without_a_caption_count_as_untold(truths: list[Truth]) -> None:
    every = measure(Told("short captions", "large", tuple((t.short, t) for t in truths)))
    half = measure(
        Told("short captions", "large", tuple((t.short if i % 2 else "", t) for i, t in enumerate(truths)))
    )
    assert (every.captions, every.without, half.captions, half.without) == (12, 0, 6, 6)
    assert half.precision.value == every.precision.value == 100
    assert half.recall.value <= every.recall.value
    assert half.words == pytest.approx(sum(len(t.short.split()) for t in truths[1::2]) / 6)
    table = quality_table([half], "title", "note.")
    assert "short captions: 6 pictures without a caption, counted as stating nothing." in table.note


def test_captions_that_state_nothing_have_no_precision(truths: list[Truth]) -> None:
    found = measure(Told("captioner", "large", tuple(("I can't tell.", t) for t in truths)))
    assert (found.recall.value, found.stated) == (0.0, 0.0)
    row = quality_table([found], "", "").rows[0]
    assert isinstance(row[4], Number)
    assert str(row[4].value) == "nan"  # printed as n/a


def test_wrong_and_right_facts_are_marked_where_they_stand(truths: list[Truth]) -> None:
    truth = next(t for t in truths if "a painting" not in t.short)
    said = f"{truth.short} on a pink background"
    text = f"{said}, or a {'mint' if truth.scene.background != 'mint' else 'grey'} background"
    found = marked("captioner", text, truth)
    kinds = {text[m.start : m.end]: m.kind for m in found.marks}
    assert set(kinds.values()) == {"right", "wrong"}
    assert kinds[text.split()[-2]] == "wrong"
    assert "1 of " in found.note
    assert marked("captioner", "", truth).note == "no caption"


def test_the_processor_is_read_where_the_system_tells_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert processor(tmp_path / "nothing")


def test_the_program_s_digest_changes_with_the_program_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1")
    before = program_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert program_digest(tmp_path) == before
    (tmp_path / "a.py").write_text("a = 2")
    assert program_digest(tmp_path) != before
