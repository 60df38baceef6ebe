"""The paper's eleven axes over scenes: the truth gets full marks, and a run survives being killed."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharecap.evals.exam import Exam
from sharecap.evals.inventory import take_stock
from sharecap.evals.judge import LEDGER, open_judge
from sharecap.evals.results import ITEMS, read_results
from sharecap.evals.runner import evaluate
from sharecap.evals.suite import JUDGED, find_tasks
from sharecap.evals.task import Sample
from sharecap.scenes.reviewer import review, share
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.whole_exam import draw_exam
from sharecap.scenes.world import WorldSpec
from tests.evals.small import Scripted, image_ids, right_answer

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = {
    *("mme", "mmbench", "mmbench-cn", "seed-bench", "qbench", "scienceqa", "vqav2", "vizwiz"),
    *("llava-bench", "mm-vet"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exam")
    draw_exam(directory, WorldSpec(seed=8), 20)
    return directory


@pytest.fixture(scope="module")
def judge(place: Path) -> Iterator[str]:
    settings = Settings(truth=(place / "world" / "truth.jsonl",), latency_ms=20, log=place / "log.jsonl")
    with serving(settings) as url:
        yield f"{url}#judge"


def test_the_files_are_read_as_the_real_ones_are(place: Path) -> None:
    stock = {entry.benchmark: entry for entry in take_stock(place / "benchmarks")}
    assert {name for name, entry in stock.items() if not entry.problem} == BENCHMARKS
    assert (stock["llava-bench"].questions, stock["llava-bench"].version) == (60, "whole")
    tasks, _ = find_tasks(place / "benchmarks", judged=True)
    mme = next(task for task in tasks if task.name == "mme")
    assert "numerical_calculation" in {sample.kind for sample in mme.samples}
    answers = next(task for task in tasks if task.name == "vizwiz").samples
    assert any(sample.reference == ["unanswerable"] * 10 for sample in answers)


def test_whoever_knows_the_truth_gets_full_marks_on_all_eleven_axes(
    place: Path, judge: str, tmp_path: Path
) -> None:
    tasks, _ = find_tasks(place / "benchmarks", judged=True)
    samples = [(task, sample) for task in tasks for sample in task.samples]
    known = {(task.prompt(s), image_ids(s)): _truth(task.name, s) for task, s in samples}
    knowing = Scripted(lambda ask: known[ask.text, ask.image_ids])
    evaluate(knowing, Exam(tasks, judge=open_judge(judge), resamples=20), tmp_path / "run")
    found = read_results(tmp_path / "run")["benchmarks"]
    assert set(found) == BENCHMARKS
    assert {"perception", "cognition"} <= set(found["mme"]["scores"])
    for name, one in found.items():
        assert one["scores"][one["headline"]]["value"] == pytest.approx(one["out_of"]), name


def _truth(benchmark: str, sample: Sample) -> str:
    """The right answer; where a judge reads it, in words."""
    return right_answer(sample).replace("<AND>", ", ") if benchmark in JUDGED else right_answer(sample)


def test_the_reviewer_grades_by_the_truth_and_errs_at_its_rate() -> None:
    assert share("There are three.", "3") == share("It is red, and three", "red<AND>three") == 1
    assert share("It is red.", "red<AND>three") == 0.5
    assert share("four", "5<OR>four") == 1
    assert share("blue", "red") == 0
    assert review("Describe the picture.", random.Random(0)) is None
    table = "Question | Truth | Answer | Correctness\nWhat? | red | It is red. | "
    assert review(table, random.Random(0)) == "1.0"
    drawn = [review(table, random.Random(i), mistakes=0.3) for i in range(400)]
    assert 0.2 < sum(text != "1.0" for text in drawn) / 400 < 0.4


ALL = """
import sys
from dataclasses import replace
from pathlib import Path
from sharecap.evals.answerers import LocalModel
from sharecap.evals.exam import Exam
from sharecap.evals.judge import open_judge
from sharecap.evals.runner import evaluate
from sharecap.evals.suite import find_tasks
benchmarks, judge, out, *models = sys.argv[1:]
tasks = [replace(task, max_new_tokens=2) for task in find_tasks(Path(benchmarks), judged=True)[0]]
for model in models:
    exam = Exam(tasks, judge=open_judge(judge, concurrency=2), resamples=20)
    evaluate(LocalModel(Path(model), batch_size=16), exam, Path(out) / Path(model).name)
"""


def _answers(out: Path) -> int:
    return (out / ITEMS).read_text(encoding="utf-8").count("\n") if (out / ITEMS).exists() else 0


def _reviews(out: Path) -> int:
    if not (out / LEDGER).exists():
        return 0
    try:
        with sqlite3.connect(out / LEDGER) as db:
            return int(db.execute("SELECT count(*) FROM requests WHERE state = 'done'").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_two_models_killed_while_answering_and_while_reviewed_end_as_if_never_killed(
    place: Path, judge: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from sharecap.model.folder import save
    from tests.model.tiny import tiny_llava

    for name in ("short", "detailed"):
        save(tiny_llava(tmp_path / f"parts-{name}"), tmp_path / name)
        (tmp_path / name / "made-for.txt").write_text(name)
    models = [tmp_path / "short", tmp_path / "detailed"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"}

    def command(out: Path) -> list[str]:
        return [sys.executable, "-c", ALL, str(place / "benchmarks"), judge, str(out), *map(str, models)]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True)
    before = (place / "log.jsonl").read_text().count("\n")
    killed = tmp_path / "killed"
    for seen, enough in (
        (lambda: _reviews(killed / "short"), 10),
        (lambda: _answers(killed / "detailed"), 200),
    ):
        process = subprocess.Popen(command(killed), env=environment)
        while process.poll() is None and seen() < enough:
            time.sleep(0.01)
        assert process.poll() is None, "it was to be killed in the middle"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(killed), env=environment, check=True)
    for name in ("short", "detailed"):
        assert read_results(killed / name) == read_results(tmp_path / "whole" / name)
        items = [_items(out / name) for out in (killed, tmp_path / "whole")]
        assert items[0] == items[1]
        assert {row["task"] for row in items[0]} == BENCHMARKS
    asked = (place / "log.jsonl").read_text().count("\n") - before
    reviews = _reviews(killed / "short") + _reviews(killed / "detailed")
    assert reviews <= asked <= reviews + 2  # what was in flight at the one kill among the reviews


def _items(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / ITEMS).read_text(encoding="utf-8").splitlines()]
    return [row | {"seconds": 0} for row in rows]
