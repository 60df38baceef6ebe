"""What captions alone answer, judged over HTTP; and that a question counts only if what it rests on does."""

import json
from pathlib import Path

import pytest

from sharecap.errors import SharecapError, UsageError
from sharecap.quality.usefulness import judge_usefulness, outcome_of
from sharecap.quality.wording import Question
from tests.captions.conftest import Typed, typed

from .judged_world import World

__all__ = ["typed"]

DOG = Question(1, None, "Is there a dog?", ("yes", "no", "two", "three"), "A")
COLOUR = Question(2, 1, "Which colour has it?", ("red", "brown", "black", "white"), "B")
COLLAR = Question(3, 2, "Which is darker?", ("dog", "collar", "sofa", "none"), "C")


@pytest.mark.parametrize(
    ("said", "outcomes"),
    [
        ("ABC", ("right", "right", "right")),
        ("ABE", ("right", "right", "not told")),
        ("EBC", ("not told", "not told", "not told")),
        ("BBC", ("wrong", "not told", "not told")),
        ("AAC", ("right", "wrong", "not told")),
    ],
)
def test_a_question_counts_only_if_the_one_it_depends_on_was_answered_right(said, outcomes) -> None:
    letters = dict(enumerate(said, 1))
    questions = [DOG, COLOUR, COLLAR]
    assert tuple(outcome_of(one, questions, letters) for one in questions) == outcomes


def test_what_rests_on_an_answer_that_failed_is_no_answer() -> None:
    assert outcome_of(COLLAR, [DOG, COLOUR, COLLAR], {1: "A", 3: "C"}) == ""
    assert outcome_of(COLOUR, [DOG, COLOUR], {2: "B"}) == ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("asked"), 10)
    world.caption("good", 0.0)
    world.caption("poor", 0.4)
    return world


def test_true_captions_answer_more_than_those_with_mistakes_and_nothing_is_paid_twice(
    world: World,
) -> None:
    with world.judge() as judge:
        report = judge_usefulness(world.bench(judge), ["good", "poor"], 6)
        again = judge_usefulness(world.bench(judge), ["good", "poor"], 6)
    assert (report.asked, report.failures, again.requests) == (10, {}, 0)
    assert report.questions > 40
    assert report.shares["good"]["wrong"].value == 0
    assert report.shares["poor"]["wrong"].value > 0.1
    difference = report.differences["poor"]
    assert difference.high is not None
    assert difference.high < 0
    rows = [json.loads(line) for line in Path(report.paths[0]).read_text().splitlines()]
    assert len(rows) == report.questions
    assert report.shares["good"]["right"].value == sum(r["outcome"] == "right" for r in rows) / len(rows)


def test_faults_are_counted(world: World) -> None:
    with world.judge(faults={"refusal": 0.35}) as judge:
        report = judge_usefulness(world.bench(f"{judge}-faulty"), ["good"], 6)
    assert any(kind.endswith("refusal") for kind in report.failures)
    assert report.shares["good"]["wrong"].value == 0
    with (
        world.judge(faults={"refusal": 1.0}) as judge,
        pytest.raises(SharecapError, match="not one"),
    ):
        judge_usefulness(world.bench(f"{judge}-silent"), ["good"], 6)


def test_the_command_shows_both_layers_and_refuses_what_makes_no_sense(world: World, typed: Typed) -> None:
    with world.judge() as judge:
        words = ("judge", world.dataset, "good", "poor", "--judge", judge)
        code, out, _ = typed(*words, "--questions", 6)
        assert code == 0
        assert "right answers of poor less those of good: -" in out
        code, _, err = typed(*words)
        assert (code, "one layer at a time" in err) == (2, True)
        code, _, err = typed(*words, "--questions", 6, "--checked", "x")
        assert (code, "--checked is about claims" in err) == (2, True)
    with pytest.raises(UsageError, match="its own captions"):
        judge_usefulness(world.bench("http://127.0.0.1:9/v1#scenes"), ["good"], 6)
