"""What guessing gives: the figures that arithmetic has, by each benchmark's own rule."""

import json
from pathlib import Path

import pytest

from sharecap.errors import UsageError
from sharecap.evals.benchmarks import mmstar, pope, scienceqa, seed_bench
from sharecap.evals.chance import chances, offered
from tests.evals.scored import lines, whole
from tests.evals.small import tasks_of, write_benchmarks
from tests.evals.test_cli import sharecap


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("written"), 40)


def test_yes_no_pairs_and_circular_groups_come_out_as_arithmetic_has_it(root: Path) -> None:
    found = {one.benchmark: one for one in chances(tasks_of(root))}
    assert set(found) == {"mme", "mmbench"}  # VQAv2 offers no answers
    assert found["mme"].expected == pytest.approx(75 / 200 * found["mme"].out_of, rel=0.02)
    assert found["mmbench"].expected == pytest.approx(100 / 4**4, abs=0.3)
    assert found["mme"].low < found["mme"].expected < found["mme"].high


def test_plain_accuracy_is_exact_and_a_seed_gives_the_same_again(tmp_path: Path) -> None:
    options = [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")]
    rows = [
        {"question_id": str(i), "answer": "A", **{f"choice_{o}": f"it is {o}" for o in options[i % 3]}}
        for i in range(30)
    ]
    task = seed_bench.task(seed_bench.read_samples(whole(tmp_path / "l.json", {"questions": rows})))
    (one,) = chances([task])
    assert one.expected == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert chances([task]) == [one]
    assert chances([task], seed=1)[0].expected == pytest.approx(one.expected)


def test_what_is_offered_is_read_from_each_benchmarks_own_question(tmp_path: Path) -> None:
    star = [{"index": "1", "question": "How?\nOptions: A: up, B: down, C: left", "answer": "A"}]
    (sample,) = mmstar.read_samples(lines(tmp_path / "star.jsonl", star))
    assert offered(sample) == ("A", "B", "C")
    problems = {"1": {"question": "What?", "choices": ["x", "y"], "answer": 0, "hint": "See A. Smith."}}
    (sample,) = scienceqa.read_samples(whole(tmp_path / "problems.json", problems))
    assert offered(sample) == ("A", "B")
    row = {"image": "i", "text": "Is there?", "label": "no"}
    (sample,) = pope.read_samples(lines(tmp_path / "coco_pope_random.json", [row]))
    assert offered(sample) == ("Yes", "No")
    (sample,) = seed_bench.read_samples(lines(tmp_path / "l.jsonl", [{"question_id": 1, "answer": "A"}]))
    with pytest.raises(UsageError, match="question 1 shows no options"):
        offered(sample)


def test_the_command_prints_a_line_a_benchmark(root: Path) -> None:
    done = sharecap("benchmarks", "chance", root, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["benchmark"] for one in json.loads(done.stdout)] == ["mme", "mmbench"]
    assert "guessing gives" in sharecap("benchmarks", "chance", root, "--only", "mme").stdout
    done = sharecap("benchmarks", "chance", root, "--only", "vqav2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no multiple-choice or yes/no benchmark here" in done.stderr
