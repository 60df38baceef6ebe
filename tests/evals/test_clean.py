"""The clean part of a benchmark: what a training dataset holds is left out, what is unknown is refused."""

import json
from pathlib import Path

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.clean import clean_lines, clean_models
from sharecap.evals.comparison import Model
from sharecap.evals.exam import Exam
from sharecap.evals.results import read_run
from sharecap.evals.runner import evaluate
from sharecap.images.add import add
from sharecap.images.overlap import find_overlap, seen_images
from sharecap.scenes.benchmark_files import Question, YesNoPair, write_mmbench, write_mme
from tests.evals.small import Scripted, image_ids, knowing, tasks_of
from tests.evals.test_cli import sharecap
from tests.images.test_duplicates import scene

NUMBER, TRAINED = 12, 4
"""Pictures of the benchmarks, and how many of them the dataset holds: two as they are, two smaller."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`benchmarks/` (MME, MMBench), `d` with some of their pictures, `runs/` of two models."""
    root = tmp_path_factory.mktemp("clean")
    for folder in ("drawn", "photos"):
        (root / folder).mkdir()
    files = [root / "drawn" / f"{i}.png" for i in range(NUMBER)]
    for i, file in enumerate(files):
        scene(i).save(file)
    for i in range(TRAINED):
        scene(i, *([100] if i >= 2 else [])).save(root / "photos" / f"{i}.png")
    scene(99).save(root / "photos" / "other.png")
    add([root / "photos"], root / "d")
    write_mme((YesNoPair(f, "color", "Is it?", "Is it not?") for f in files), root / "benchmarks" / "mme")
    questions = [Question(f"q{i}", f, "color", "Which?", "red", ("red", "blue")) for i, f in enumerate(files)]
    write_mmbench(questions, root / "benchmarks" / "mmbench" / "dev.tsv")
    tasks = tasks_of(root / "benchmarks")
    trained = {image_ids(sample) for task in tasks for sample in task.samples[:TRAINED]}
    mme, _ = tasks
    known = {image_ids(s) for s in mme.samples[: 2 * TRAINED]}
    assert trained <= known
    for name, answerer in (
        ("trained", knowing(tasks, lambda s: image_ids(s) in known)),  # knows what it was trained on, no more
        ("other", knowing(tasks)),
    ):
        evaluate(Scripted(answerer.reply, name * 8, name), Exam(tasks, resamples=50), root / "runs" / name)
    return root


def models(place: Path, *names: str) -> list[Model]:
    return [Model(name, (read_run(place / "runs" / name),)) for name in names]


def test_the_clean_score_leaves_out_copies_and_what_looks_like_them(place: Path) -> None:
    find_overlap(place / "d", [place / "benchmarks"])
    found = clean_models(models(place, "trained", "other"), seen_images(place / "d"))
    scores = {(one.model, one.benchmark): one for one in found.scores}
    mme = scores["trained", "mme"]
    assert (mme.items, mme.clean_items) == (2 * NUMBER, 2 * (NUMBER - TRAINED))
    assert mme.score.a.value == pytest.approx(200 * TRAINED / NUMBER)
    assert mme.score.b.value == 0
    mmbench = scores["trained", "mmbench"]
    assert (mmbench.items, mmbench.clean_items) == (2 * NUMBER, 2 * (NUMBER - TRAINED))
    assert mmbench.score.difference.value == pytest.approx(100 * TRAINED / NUMBER)
    assert scores["other", "mme"].score.difference.value == 0
    (between,) = found.comparisons
    assert between.benchmarks["mme"]["total"].difference.value == pytest.approx(-200)
    assert "trained, mme total (of 200): whole 66.67" in "\n".join(clean_lines(found))


def test_pictures_that_nobody_looked_at_are_not_taken_for_clean(place: Path) -> None:
    find_overlap(place / "d", [place / "benchmarks" / "mme" / "color" / "000000.png"])
    with pytest.raises(SharecapError, match="11 of 12 pictures of mme were not compared with the dataset"):
        clean_models(models(place, "other"), seen_images(place / "d"))


def test_a_dataset_that_was_not_compared_or_has_changed_says_so(place: Path, tmp_path: Path) -> None:
    add([place / "photos"], tmp_path / "new")
    with pytest.raises(SharecapError, match="not compared with any benchmark yet"):
        seen_images(tmp_path / "new")
    find_overlap(tmp_path / "new", [place / "benchmarks"])
    assert sum(seen_images(tmp_path / "new").values()) == TRAINED
    add([place / "drawn" / "7.png"], tmp_path / "new")
    with pytest.raises(SharecapError, match="has changed since it was compared"):
        seen_images(tmp_path / "new")


def test_where_nothing_is_clean_there_is_no_score(place: Path, tmp_path: Path) -> None:
    add([place / "drawn"], tmp_path / "all")
    find_overlap(tmp_path / "all", [place / "benchmarks"])
    with pytest.raises(SharecapError, match="holds every picture of mme: nothing is clean"):
        clean_models(models(place, "other"), seen_images(tmp_path / "all"))


def test_the_commands_print_the_clean_score_beside_the_whole(place: Path) -> None:
    find_overlap(place / "d", [place / "benchmarks"])
    runs = [place / "runs" / name for name in ("other", "trained")]
    done = sharecap("compare", *runs, "--seen", place / "d", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["clean_items"] for one in found["clean"]} == {2 * (NUMBER - TRAINED)}
    assert found["clean_comparisons"][0]["benchmarks"]["mme"]["total"]["difference"]["value"] == 200
    done = sharecap("compare", runs[1], "--seen", place / "d")
    assert done.returncode == 0, done.stderr
    assert "without the pictures that the dataset holds:" in done.stdout
    assert "trained, mme total (of 200): whole 66.67" in done.stdout
