"""An evaluation from files to results: right at both ends, resumable after a kill, never mixed up."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sharecap import artifact
from sharecap.errors import SharecapError, UsageError
from sharecap.evals.answerers import Ask, Done
from sharecap.evals.exam import Exam
from sharecap.evals.results import ITEMS, by_kind, read_items, read_results, read_run
from sharecap.evals.runner import evaluate, keep_predictions, run_directory
from sharecap.statistics import value
from tests.evals.small import Scripted, knowing, tasks_of, write_benchmarks

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("written"))


def test_what_the_writers_write_the_readers_read_and_a_perfect_answerer_gets_full_marks(
    root: Path, tmp_path: Path
) -> None:
    tasks = tasks_of(root)
    run = evaluate(knowing(tasks), Exam(tasks, resamples=100), tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert results["overall"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    for found in results["benchmarks"].values():
        assert found["scores"][found["headline"]]["value"] == pytest.approx(found["out_of"])
        assert found["unparsed"] == 0
    assert run.metrics["mme"] == 1400  # seven subtasks: position and relation share one
    assert run.metrics["unparsed"] == 0
    assert {task: b["items"] for task, b in results["benchmarks"].items()} == {
        "mme": 32,
        "mmbench": 64,
        "vqav2": 16,
    }


@pytest.mark.parametrize(
    ("text", "chance"),
    [("Yes", (25.0, 0.0, 25.0)), ("A", (0.0, 0.0, 0.0)), ("", (0.0, 0.0, 0.0)), ("three", (0.0, 0.0, 25.0))],
)
def test_a_constant_answer_gets_what_the_rules_give_it(
    root: Path, tmp_path: Path, text: str, chance: tuple[float, float, float]
) -> None:
    tasks = tasks_of(root)
    evaluate(Scripted(lambda _: text), Exam(tasks, resamples=50), tmp_path / "run")
    results = read_results(tmp_path / "run")["benchmarks"]
    found = {t: 100 * b["scores"][b["headline"]]["value"] / b["out_of"] for t, b in results.items()}
    assert tuple(found[task] for task in ("mme", "mmbench", "vqav2")) == chance
    assert read_results(tmp_path / "run")["overall"]["value"] == pytest.approx(sum(chance) / 3)


def test_an_image_has_one_name_in_all_benchmarks(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    evaluate(knowing(tasks), Exam(tasks, resamples=50), tmp_path / "run")
    records = read_run(tmp_path / "run").records
    images = [{r.images for r in rs} for rs in records.values()]
    assert len(images[0]) == 16
    assert images[0] == images[1] == images[2]


def test_kinds_are_averaged_over_the_benchmarks_under_common_names(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    evaluate(knowing(tasks, lambda s: s.kind != "OCR"), Exam(tasks, resamples=50), tmp_path / "run")
    run = read_run(tmp_path / "run")
    found = {kind: value(score) for kind, score in by_kind(run, {"OCR": "text"}).items()}
    assert found["text"] == pytest.approx(200 / 3)
    assert found["count"] == pytest.approx(100)


def test_every_line_tells_what_was_asked_and_answered(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    evaluate(Scripted(lambda _: " No, never. "), Exam(tasks, resamples=50), tmp_path / "run")
    records = read_items(tmp_path / "run" / ITEMS)
    assert [(r.task, r.id) for r in records] == [(t.name, s.id) for t in tasks for s in t.samples]
    first = records[0]
    assert (first.raw, first.parsed, first.reference, first.score) == (" No, never. ", "no", "Yes", 0.0)
    assert first.prompt.endswith("?\nAnswer the question using a single word or phrase.")
    assert (first.kind, first.seconds, len(first.images[0])) == ("existence", 0.5, 64)
    choice = next(r for r in records if r.task == "mmbench")
    assert (choice.parsed, choice.score) == (None, 0.0)


def test_a_question_keeps_its_name_so_that_answers_that_were_paid_for_are_found_again(root: Path) -> None:
    tasks = [replace(task, prompt=lambda sample: f'"Größe" of\n{sample.id}?') for task in tasks_of(root)]
    for key, (task, sample, prompt) in Exam(tasks).wanted("model").items():
        what = ["model", task.digest, sample.id, prompt, task.max_new_tokens, "greedy", "consistent"]
        assert key == hashlib.sha256(json.dumps(what).encode()).hexdigest()


def test_items_stand_in_the_tasks_order_however_the_answers_came(root: Path, tmp_path: Path) -> None:
    class Backwards:
        name, digest = "model", "d"

        def answer(self, asks: Sequence[Ask], done: Done) -> None:
            for i in reversed(range(len(asks))):
                done([(i, "Yes", 0.5)])

    class Forwards(Backwards):
        def answer(self, asks: Sequence[Ask], done: Done) -> None:
            done([(i, "Yes", 0.5) for i in range(len(asks))])

    exam, places = Exam(tasks_of(root), resamples=50), [tmp_path / "back", tmp_path / "forth"]
    back, forth = (
        evaluate(model(), exam, out) for model, out in zip((Backwards, Forwards), places, strict=True)
    )
    assert back.digest == forth.digest
    assert places[0].joinpath(ITEMS).read_bytes() == places[1].joinpath(ITEMS).read_bytes()
    wanted = [(task.name, sample.id) for task in exam.tasks for sample in task.samples]
    assert [(r.task, r.id) for r in read_items(places[0] / ITEMS)] == wanted


def test_a_finished_run_asks_nothing_again(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    first = evaluate(knowing(tasks), Exam(tasks, resamples=50), tmp_path / "run")
    silent = Scripted(lambda _: "")
    assert evaluate(silent, Exam(tasks_of(root), resamples=50), tmp_path / "run") == first
    assert silent.asked == []


def test_another_model_is_asked_everything_anew(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    evaluate(knowing(tasks), Exam(tasks, resamples=50), tmp_path / "run")
    other = Scripted(lambda _: "", digest="e" * 64)
    evaluate(other, Exam(tasks, resamples=50), tmp_path / "run")
    assert len(other.asked) == 112
    assert read_results(tmp_path / "run")["overall"]["value"] == 0


class UnpluggedError(Exception):
    pass


def interrupted(answerer: Scripted, after: int) -> Scripted:
    """The same answerer, which breaks off after so many answers."""
    whole = answerer.reply

    def reply(ask):
        if len(broken.asked) > after:
            raise UnpluggedError
        return whole(ask)

    broken = Scripted(reply, answerer.digest, answerer.name)
    return broken


@pytest.mark.parametrize("tear", ["", '{"task": "mme", "id": "coun', '{"whole": "but without its newline"}'])
def test_a_run_goes_on_after_a_torn_line(root: Path, tmp_path: Path, tear: str) -> None:
    tasks = tasks_of(root)
    out = tmp_path / "run"
    with pytest.raises(UnpluggedError):
        evaluate(interrupted(knowing(tasks), 40), Exam(tasks, resamples=50), out)
    with pytest.raises(SharecapError, match="unfinished"):
        read_run(out)
    with open(out / ITEMS, "a") as f:
        f.write(tear)
    pictures = sorted((out / artifact.STATE / "images").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:20])
    pictures[1].unlink()
    rest = knowing(tasks)
    evaluate(rest, Exam(tasks, resamples=50), out)
    assert len(rest.asked) == 112 - 40
    whole = knowing(tasks)
    evaluate(whole, Exam(tasks, resamples=50), tmp_path / "whole")
    assert read_items(out / ITEMS) == read_items(tmp_path / "whole" / ITEMS)
    assert read_results(out) == read_results(tmp_path / "whole")
    assert not (out / artifact.STATE).exists()


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    out = tmp_path / "run"
    with pytest.raises(UnpluggedError):
        evaluate(interrupted(knowing(tasks), 5), Exam(tasks, resamples=50), out)
    lines = (out / ITEMS).read_text().splitlines()
    (out / ITEMS).write_text("\n".join([lines[0], "{}", *lines[2:], ""]))
    with pytest.raises(SharecapError, match=r"line 2 is damaged.*items\.jsonl"):
        evaluate(knowing(tasks), Exam(tasks, resamples=50), out)


@pytest.mark.parametrize("score", ["high", float("nan"), None])
def test_a_score_that_is_no_number_is_a_damaged_line(root: Path, tmp_path: Path, score: object) -> None:
    tasks = tasks_of(root)
    evaluate(knowing(tasks), Exam(tasks, resamples=50), tmp_path / "run")
    items = tmp_path / "run" / ITEMS
    first, *others = items.read_text().splitlines()
    items.write_text("\n".join([json.dumps({**json.loads(first), "score": score}), *others, ""]))
    with pytest.raises(SharecapError, match=r"line 1 is damaged.*items\.jsonl"):
        read_run(tmp_path / "run")


KILLED = """
import os, signal, sys
from pathlib import Path
from sharecap.evals.exam import Exam
from sharecap.evals.runner import evaluate
from tests.evals.small import knowing, tasks_of
root, out, after, log = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
tasks = tasks_of(root)
answerer = knowing(tasks)
whole = answerer.reply
def reply(ask):
    if len(answerer.asked) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as f:
        f.write(f"{ask.image_ids} {ask.text!r}\\n")
    return whole(ask)
answerer.reply = reply
evaluate(answerer, Exam(tasks, resamples=50), out)
"""


def test_a_killed_run_loses_no_answer_and_asks_none_twice(root: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"}
    for after in (30, 1000):
        command = [sys.executable, "-c", KILLED, str(root), str(out), str(after), str(log)]
        code = subprocess.run(command, env=environment, check=False).returncode
        assert code == (-signal.SIGKILL if after == 30 else 0)
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 112
    assert artifact.read(out).metrics["overall"] == 100.0


def test_questions_that_changed_are_asked_again(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks"
    shutil.copytree(root, copy)
    tasks = tasks_of(copy)
    with pytest.raises(UnpluggedError):
        evaluate(interrupted(knowing(tasks), 50), Exam(tasks, resamples=50), tmp_path / "run")
    text = next((copy / "mme" / "count").glob("*.txt"))
    text.write_text(text.read_text().replace("Is it odd?", "Is it even?"))
    tasks = tasks_of(copy)
    again = knowing(tasks)
    evaluate(again, Exam(tasks, resamples=50), tmp_path / "run")
    assert any("even" in ask.text for ask in again.asked)
    assert len(again.asked) == 112


def test_an_image_that_changed_is_asked_about_again(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks"
    shutil.copytree(root, copy)
    before = [task.digest for task in tasks_of(copy)]
    image = next((copy / "mme" / "count").glob("*.png"))
    Image.new("RGB", (8, 8), "pink").save(image)
    after = [task.digest for task in tasks_of(copy)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]


def test_results_are_plain_json_with_all_that_a_report_needs(root: Path, tmp_path: Path) -> None:
    tasks = tasks_of(root)
    evaluate(Scripted(lambda _: "No"), Exam(tasks, missing=["other"], resamples=50), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["missing"] == ["other"]
    assert results["model"] == "scripted"
    assert results["benchmarks"]["mme"]["notes"][0].startswith("7 of 14 subtasks are not there")
    assert set(results["kinds"]) >= {"count", "color", "OCR"}


def test_other_questions_never_empty_a_run_that_is_there(tmp_path: Path) -> None:
    tasks = tasks_of(write_benchmarks(tmp_path / "b", 2))
    answerer, out = knowing(tasks), tmp_path / "run"
    assert run_directory(answerer, Exam(tasks), out) == out
    evaluate(answerer, Exam(tasks), out)
    assert run_directory(answerer, Exam(tasks), out) == out
    with pytest.raises(UsageError, match="another eval"):
        run_directory(answerer, Exam(tasks[:1]), out)
    with pytest.raises(UsageError, match="another eval"):
        keep_predictions("elsewhere", read_items(out / ITEMS), out)
    assert run_directory(answerer, Exam(tasks)) != run_directory(answerer, Exam(tasks[:1]))
    assert len(read_items(out / ITEMS)) == sum(len(task.samples) for task in tasks)
