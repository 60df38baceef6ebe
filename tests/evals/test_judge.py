"""The judge over real HTTP: booked, retried, under its budget; no score while an answer lacks a review."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sharecap.captions.courier import Patience
from sharecap.captions.teachers.open import open_endpoint
from sharecap.cli import app
from sharecap.errors import SharecapError, Stopped, UsageError
from sharecap.evals.benchmarks import llava_bench, mm_vet
from sharecap.evals.drift import drift
from sharecap.evals.exam import Exam
from sharecap.evals.judge import LEDGER, Judge, UnreviewedError, open_judge
from sharecap.evals.results import ITEMS, read_items, read_results
from sharecap.evals.runner import evaluate, run_directory
from sharecap.evals.suite import find_tasks
from sharecap.evals.task import Task
from sharecap.scenes.benchmark_files import Question
from sharecap.scenes.open_files import WildQuestion, write_llava_bench, write_mm_vet
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import WorldSpec, make_world
from tests.evals.small import Scripted, pictures

QUICK = Patience(tries=3, redraws=1, base_s=0.01, retry_after_cap_s=0.01)
NUMBER = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions of each benchmark; "red" is always right."""
    place = tmp_path_factory.mktemp("judged")
    images = pictures(place / "drawn", NUMBER)
    wild = [WildQuestion(image, "conv", f"Which color is {i}?", "red") for i, image in enumerate(images)]
    write_llava_bench(wild, dict.fromkeys(images, "All is red."), place / "b" / "llava-bench")
    asked = [Question("", image, "color", f"Which color is {i}?", "red") for i, image in enumerate(images)]
    write_mm_vet(asked, place / "b" / "mm-vet")
    make_world(place / "world", WorldSpec(), range(1), workers=1)
    return place


def settings(root: Path, **changes: Any) -> Settings:
    return replace(Settings(truth=(root / "world" / "truth.jsonl",)), **changes)


def tasks_of(root: Path, *only: str) -> list[Task]:
    return find_tasks(root / "b", only, judged=True)[0]


def judge_at(url: str, **changes: Any) -> Judge:
    return replace(Judge(open_endpoint(f"{url}#judge", "judge"), patience=QUICK), **changes)


RED = Scripted(lambda _: "It is red.")


def test_answers_are_graded_and_the_judge_stands_beside_every_grade(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    with serving(settings(root)) as url:
        evaluate(RED, Exam(tasks, judge=judge_at(url), resamples=20), tmp_path / "run")
    found = read_results(tmp_path / "run")
    assert {name: b["scores"][b["headline"]]["value"] for name, b in found["benchmarks"].items()} == {
        "llava-bench": 100,
        "mm-vet": 100,
    }
    assert found["judge"] == {"name": "judge", "failures": {}, "usd": None}
    assert "sharecap's words" in found["benchmarks"]["mm-vet"]["notes"][-1]
    records = read_items(tmp_path / "run" / ITEMS)
    assert {record.raw for record in records} == {"It is red."}
    digests = {task.name: task.judging.digest for task in tasks if task.judging}
    assert all(record.review["prompt"] == digests[record.task] for record in records)
    assert {(record.review["judge"], record.review["text"].split("\n")[0]) for record in records} == {
        ("judge", "10 10"),
        ("judge", "1.0"),
    }


def test_the_authors_own_words_are_used_where_they_lie_with_the_questions(root: Path, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(root / "b")
    own = tmp_path / "own"
    for name in ("llava-bench", "mm-vet"):
        (own / name).mkdir(parents=True)
        for path in (root / "b" / name).iterdir():
            (own / name / path.name).symlink_to(path)
    rule = {"llava_bench_conv": {"role": "Assistant", "prompt": "Two numbers, please."}}
    (own / "llava-bench" / "rule.json").write_text(json.dumps(rule))
    (own / "mm-vet" / "judge.txt").write_text("Grade it:\n")
    (wild,) = llava_bench.read_tasks(own / "llava-bench")
    (vet,) = mm_vet.read_tasks(own / "mm-vet")
    assert wild.notes == vet.notes == ()
    assert wild.judging is not None
    assert vet.judging is not None
    words = wild.judging.ask(wild.samples[0], "Blue.\n")
    assert words.startswith(
        "[Context]\nAll is red.\n\n[Question]\nWhich color is 0?\n\n[Assistant 1]\nred\n\n"
    )
    assert "[Assistant 2]\nBlue.\n\n\n[End of Assistant 2]\n\n[System]\nTwo numbers, please." in words
    assert vet.judging.ask(vet.samples[0], "red\nx | y | z | 1.0") == (
        "Grade it:\nWhich color is 0? | red | red x | y | z | 1.0 | "
    )
    (ours,) = tasks_of(root, "mm-vet")
    assert ours.judging is not None
    assert ours.judging.digest != vet.judging.digest
    assert ours.digest == vet.digest  # the model is asked the same


def counts(run: Path) -> Mapping[str, int]:
    with sqlite3.connect(run / LEDGER) as db:
        return dict(db.execute("SELECT state, count(*) FROM requests GROUP BY state").fetchall())


def test_failures_are_retried_then_counted_and_the_score_is_withheld_until_all_are_reviewed(
    root: Path, tmp_path: Path
) -> None:
    tasks = tasks_of(root)
    once = Scripted(lambda _: "It is red.")
    words = r"of 12 answers have no review \(.*unreadable.*same command"
    with serving(settings(root, faults={"refusal": 0.6, "500": 0.2}, seed=5)) as url:
        exam = Exam(tasks, judge=judge_at(url), resamples=20)
        with pytest.raises(UnreviewedError, match=words) as e:
            evaluate(once, exam, tmp_path / "run")
    withheld = [b["withheld"] for b in e.value.results["benchmarks"].values()]
    assert any(withheld)
    assert e.value.results["overall"] is None
    assert sum(e.value.results["judge"]["failures"].values()) == counts(tmp_path / "run")["failed"]
    with pytest.raises(SharecapError, match="unfinished"):
        read_results(tmp_path / "run")
    kept = counts(tmp_path / "run")["done"]
    log = tmp_path / "log.jsonl"
    with serving(settings(root, log=log)) as url:
        evaluate(once, Exam(tasks, judge=judge_at(url), resamples=20), tmp_path / "run")
    assert log.read_text().count("\n") == 12 - kept  # of the reviewed none again
    assert len(once.asked) == 12
    assert read_results(tmp_path / "run")["benchmarks"]["mm-vet"]["scores"]["total"]["value"] == 100


def test_words_without_a_grade_are_drawn_anew_and_never_a_grade(root: Path, tmp_path: Path) -> None:
    with serving(settings(root, faults={"empty": 1.0})) as url:
        exam = Exam(tasks_of(root, "mm-vet"), judge=judge_at(url), resamples=20)
        with pytest.raises(UnreviewedError, match="6 of 6 answers have no review"):
            evaluate(RED, exam, tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / LEDGER) as db:
        rows = db.execute("SELECT error_kind, attempts FROM requests").fetchall()
    assert rows == [("unreadable", 2)] * NUMBER


def test_the_budget_is_a_wall_and_more_money_goes_on(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root, "mm-vet")
    words = tasks[0].judging.ask(tasks[0].samples[0], "It is red.") if tasks[0].judging else ""
    worst = (len(words.encode()) + 64 + 16) / 1e6
    with serving(settings(root)) as url:

        def with_budget(usd: float) -> Exam:
            judge = open_judge(f"{url}#judge", prices=["1,1"], budget_usd=usd, concurrency=1)
            return Exam(tasks, judge=judge, resamples=20)

        with pytest.raises(Stopped, match=r"budget of \$.* reached"):
            evaluate(RED, with_budget(1.1 * worst), tmp_path / "run")
        assert 1 <= counts(tmp_path / "run")["done"] < NUMBER
        evaluate(RED, with_budget(1.0), tmp_path / "run")
        usd = read_results(tmp_path / "run")["judge"]["usd"]
    with sqlite3.connect(tmp_path / "run" / LEDGER) as db:
        assert usd == pytest.approx(db.execute("SELECT sum(cost_usd) FROM requests").fetchone()[0])
    assert 0 < usd < NUMBER * worst


def test_a_judge_that_drifted_is_seen_on_the_recorded_reviews(root: Path, tmp_path: Path) -> None:
    with serving(settings(root)) as url:
        exam = Exam(tasks_of(root), judge=judge_at(url), resamples=20)
        evaluate(RED, exam, tmp_path / "run")
        same = drift(exam, tmp_path / "run", 12)
    assert [one["difference"]["value"] for one in same["benchmarks"].values()] == [0, 0]
    assert [one["changed"] for one in same["benchmarks"].values()] == [0, 0]
    with serving(settings(root, mistakes=1.0)) as url:
        other = Exam(exam.tasks, judge=judge_at(url), resamples=20)
        found = drift(other, tmp_path / "run", 12)
    vet = found["benchmarks"]["mm-vet"]
    assert (vet["n"], vet["changed"], vet["recorded"]["value"]) == (6, 6, 100)
    assert vet["difference"]["value"] == pytest.approx(vet["now"]["value"] - 100)
    assert vet["now"]["value"] < 100
    lines = (tmp_path / "run.drift" / "drift.jsonl").read_text().splitlines()
    assert [json.loads(line)["benchmarks"]["mm-vet"]["changed"] for line in lines] == [0, 6]


def test_another_judge_is_another_evaluation(root: Path) -> None:
    tasks = tasks_of(root)
    mine, other = (
        Exam(tasks, judge=Judge(open_endpoint(f"http://localhost:1/v1#{name}", "judge")))
        for name in ("mine", "other")
    )
    assert run_directory(RED, mine) != run_directory(RED, other)
    assert [*mine.wanted("m")] == [*other.wanted("m")]  # but the answers are the same


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--only", "mm-vet"), 2, "mm-vet is scored by a judge. add --judge"),
        (("--judge-budget", "5"), 2, "no judge to pay"),
        (("--rejudge", "5"), 2, "no judge to pay"),
        (("--judge", "http://127.0.0.1:1/v1"), 2, "names no model"),
        (("--judge", "local:here"), 2, "not a model directory"),
        (("--judge", "batch:http://127.0.0.1:1/v1#m"), 2, "only an endpoint can judge answers"),
        (("--judge", "http://127.0.0.1:1/v1#m", "--judge-budget", "5"), 2, "a budget needs a price"),
        (("--judge", "http://127.0.0.1:1/v1#m", "--judge-price", "cheap"), 2, "not a price"),
        ((), 2, "only benchmarks that a judge scores are here"),
        (("--protocol", "mine"), 2, "unknown protocol 'mine'. choose one of consistent, sharegpt4v"),
        (("--shard", "2/2"), 2, "no shard: '2/2'. give 0/N to N-1/N"),
        (("--judge", "http://127.0.0.1:1/v1#m"), 1, "the judge doesn't answer: cannot connect"),
    ],
)
def test_a_mistake_is_one_clear_line(
    root: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    base = ["eval", "constant:red", "--benchmarks", str(root / "b"), "--to", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*base, *arguments])
    error = done.exception
    assert isinstance(error, SharecapError), done.output
    assert error.exit_code == code
    assert words in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("context.jsonl", '{"image": "001.png"}\n', "caption"),
        ("answers_gpt4.jsonl", '{"question_id": 0, "text": "red"}\n', "nothing for question 1"),
        ("questions.jsonl", '{"question_id": 0, "image": "001.png", "text": "?"}\n', "category"),
        ("rule.json", '["no rule"]', "expected|not the files"),
    ],
)
def test_half_a_benchmark_is_not_asked(
    root: Path, tmp_path: Path, file: str, content: str, words: str
) -> None:
    place = tmp_path / "llava-bench"
    place.mkdir()
    for path in (root / "b" / "llava-bench").iterdir():
        if path.name != file:
            (place / path.name).symlink_to(path)
    (place / file).write_text(content)
    with pytest.raises(SharecapError, match=words):
        find_tasks(tmp_path, judged=True)


def test_open_judge_refuses_a_budget_without_a_price() -> None:
    with pytest.raises(UsageError, match="a budget needs a price"):
        open_judge("http://localhost:1/v1#m", budget_usd=1)
