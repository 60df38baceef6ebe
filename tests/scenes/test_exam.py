"""The exam: files that the readers of the real benchmarks read, on which the truth gets full marks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharecap.artifact import file_digest
from sharecap.evals.suite import find_tasks
from sharecap.evals.task import Sample, Task, grade
from sharecap.scenes.exam import write_exam
from sharecap.scenes.questions import KINDS
from sharecap.scenes.world import Truth, WorldSpec, make_world
from sharecap.statistics import value

SPEC = WorldSpec(seed=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def truths(world: Path) -> list[Truth]:
    return make_world(world, SPEC, range(60), workers=1)


@pytest.fixture(scope="module")
def tasks(world: Path, truths: list[Truth]) -> dict[str, Task]:
    asked = write_exam(world, truths, SPEC, world / "exam")
    found, missing = find_tasks(world / "exam")
    assert missing == []
    assert set(asked) == set(KINDS)
    assert asked["existence"] == asked["count"] == len(truths)
    return {task.name: task for task in found}


def right(sample: Sample) -> str:
    """The answer that the benchmark wants."""
    reference: Any = sample.reference
    match reference:
        case {"answer": letter}:
            return str(letter)
        case [answer, *_]:
            return str(answer)
    return str(reference)


def headline(task: Task, answer: Callable[[Sample], str]) -> float:
    """The share of full marks that somebody who answers like that gets, per cent."""
    found = task.measure(grade(task, {s.id: answer(s) for s in task.samples}, Path()))
    return 100 * value(found.scores[found.headline]) / found.out_of


def test_whoever_knows_the_truth_gets_full_marks_and_whoever_says_nothing_gets_none(
    tasks: dict[str, Task],
) -> None:
    assert set(tasks) == {"mme", "mmbench", "vqav2"}
    for task in tasks.values():
        assert headline(task, right) == pytest.approx(100)
        assert headline(task, lambda _: "I do not know.") == 0


def test_one_answer_to_everything_gets_what_the_rules_give_to_guessing(tasks: dict[str, Task]) -> None:
    assert headline(tasks["mme"], lambda _: "Yes") == pytest.approx(25)  # half the questions, no pair
    assert headline(tasks["mmbench"], lambda _: "A") == 0  # the choices are rolled
    assert headline(tasks["vqav2"], lambda _: "red") < 10


def test_every_kind_is_asked_and_every_picture_goes_in_byte_for_byte(
    tasks: dict[str, Task], world: Path, truths: list[Truth]
) -> None:
    given = {file_digest(world / truth.file) for truth in truths}
    for name in ("mme", "vqav2"):
        paths = [image for s in tasks[name].samples for image in s.images]
        assert {file_digest(path) for path in paths if isinstance(path, Path)} == given
    assert {s.kind for s in tasks["vqav2"].samples} == set(KINDS) - {"existence"}
    assert {s.kind for s in tasks["mmbench"].samples} <= set(KINDS)
    assert len({s.kind for s in tasks["mmbench"].samples}) >= 5


def test_counts_in_the_files_are_those_of_the_scenes(
    tasks: dict[str, Task], world: Path, truths: list[Truth]
) -> None:
    things = {file_digest(world / truth.file): len(truth.scene.things) for truth in truths}
    counts = [s for s in tasks["vqav2"].samples if s.kind == "count"]
    assert len(counts) == len(truths)
    for sample in counts:
        (image,) = sample.images
        assert isinstance(image, Path)
        assert right(sample) == str(things[file_digest(image)])


def test_the_same_world_gives_the_same_exam(
    tasks: dict[str, Task], world: Path, truths: list[Truth], tmp_path: Path
) -> None:
    write_exam(world, truths, SPEC, tmp_path)
    again, _ = find_tasks(tmp_path)
    assert {task.name: task.digest for task in again} == {name: task.digest for name, task in tasks.items()}
