"""Benchmarks in their official folders: read with pictures, asked in the paper's words, scored at once."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError
from sharecap.evals.exam import Exam
from sharecap.evals.inventory import SOURCES, take_stock
from sharecap.evals.results import read_results
from sharecap.evals.runner import evaluate
from sharecap.evals.suite import FOLDERS, JUDGED, find_tasks
from sharecap.evals.task import Task
from sharecap.scenes.benchmark_files import Question, write_mmbench
from tests.evals.scored import lines, whole
from tests.evals.small import knowing, pictures, write_benchmarks

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
TEN = [{"answer": "red", "answer_confidence": "yes"}] * 10


def put(image: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, place)


def seed_bench(root: Path, image: Path) -> str:
    put(image, root / "SEED-Bench-image" / "11_22")
    row = {"question": "Which?", "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w"}
    asked = [
        {**row, "question_id": "7", "data_id": "11_22", "answer": "B", "question_type_id": 1},
        {**row, "question_id": "v8", "data_id": "clip.mp4", "answer": "A", "question_type_id": 10},
    ]
    whole(root / "SEED-Bench.json", {"questions": asked})
    return f"Which?\nA. x\nB. y\nC. z\nD. w\n{LETTER}"


def qbench(root: Path, image: Path) -> str:
    put(image, root / "images" / "a.png")
    row = {"question": "How?", "img_path": "a.png", "candidates": ["High", "Low"], "correct_ans": "Low"}
    whole(root / "llvisionqa_dev.json", [row])
    return "How?\nChoose between one of the options as follows:\nA. High\nB. Low"


def scienceqa(root: Path, image: Path) -> str:
    put(image, root / "images" / "test" / "1" / "image.png")
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "Look."}
    whole(root / "problems.json", {"1": {**row, "image": "image.png"}, "2": {**row, "image": None}})
    whole(root / "pid_splits.json", {"test": ["1", "2"]})
    return f"Context: Look.\nWhich?\nA. x\nB. y\n{LETTER}"


def vizwiz(root: Path, image: Path) -> str:
    put(image, root / "val" / "VizWiz_val_00000000.png")
    whole(root / "val.json", [{"image": "VizWiz_val_00000000.png", "question": "What?", "answers": TEN}])
    return f"What?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"


def textvqa(root: Path, image: Path) -> str:
    put(image, root / "train_images" / "abc.png")
    row = {"question_id": 1, "image_id": "abc", "question": "What?", "answers": ["red"] * 10}
    whole(root / "TextVQA_0.5.1_val.json", {"data": [row]})
    return f"What?\n{SHORT}"


def gqa(root: Path, image: Path) -> str:
    put(image, root / "images" / "n1.png")
    whole(
        root / "testdev_balanced_questions.json",
        {"1": {"question": "Is it?", "answer": "no", "imageId": "n1"}},
    )
    return f"Is it?\n{SHORT}"


def pope(root: Path, image: Path) -> str:
    put(image, root / "val2014" / "COCO_val2014_000000000001.png")
    row = {"image": "COCO_val2014_000000000001.png", "text": "Is there a dog in the image?", "label": "yes"}
    (root / "coco").mkdir()
    lines(root / "coco" / "coco_pope_random.json", [row])
    return f"Is there a dog in the image?\n{SHORT}"


def mmstar(root: Path, image: Path) -> str:
    code = base64.b64encode(image.read_bytes()).decode()
    root.mkdir()
    (root / "MMStar.tsv").write_text(f"index\tquestion\tanswer\timage\n0\tWhich? A: x, B: y\tB\t{code}\n")
    return "Which? A: x, B: y"


def detailed_captions(root: Path, image: Path) -> str:
    put(image, root / "images" / "1.png")
    lines(root / "mine.jsonl", [{"id": "1", "image": "1.png", "references": ["A red dog."]}])
    return "Describe this image in detail."


WRITERS: dict[str, Callable[[Path, Path], str]] = {
    **{"seed-bench": seed_bench, "qbench": qbench, "scienceqa": scienceqa, "vizwiz": vizwiz},
    **{"textvqa": textvqa, "gqa": gqa, "pope": pope, "mmstar": mmstar},
    "detailed-captions": detailed_captions,
}


def written(name: str, directory: Path) -> tuple[Task, str]:
    (image,) = pictures(directory / "drawn", 1)
    prompt = WRITERS[name](directory / "b" / name, image)
    ((task,), missing) = find_tasks(directory / "b")
    assert missing == []
    return task, prompt


@pytest.mark.parametrize("name", WRITERS)
def test_the_question_is_asked_in_the_papers_words_about_its_picture(name: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    task, prompt = written(name, tmp_path)
    (sample,) = task.samples
    assert (task.name, task.prompt(sample)) == (name, prompt)
    (image,) = sample.images
    content = image if isinstance(image, bytes) else image.read_bytes()
    assert content == (tmp_path / "drawn" / "0.png").read_bytes()


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"mmstar"}))
def test_a_missing_picture_stops_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    WRITERS[name](tmp_path / "b" / name, pictures(tmp_path / "drawn", 1)[0])
    for picture in [*tmp_path.glob("b/**/*.png"), *tmp_path.glob("b/**/11_22")]:
        picture.unlink()
    with pytest.raises(SharecapError, match="image of a question is missing"):
        find_tasks(tmp_path / "b")


def test_a_table_without_pictures_is_named_by_its_row(tmp_path: Path) -> None:
    (tmp_path / "mmstar").mkdir()
    (tmp_path / "mmstar" / "MMStar.tsv").write_text("index\tquestion\tanswer\n5\t?\tB\n")
    with pytest.raises(SharecapError, match="row 5 has no image"):
        find_tasks(tmp_path)


def test_all_benchmarks_are_asked_and_scored_in_one_call(tmp_path: Path) -> None:
    root = write_benchmarks(tmp_path / "three")
    for number, name in enumerate(WRITERS, 1):
        WRITERS[name](root / name, pictures(tmp_path / f"drawn{number}", number)[-1])
    tasks, _ = find_tasks(root)
    assert {task.name for task in tasks} == set(FOLDERS) - set(JUDGED)
    evaluate(knowing(tasks), Exam(tasks, resamples=20), tmp_path / "run")
    for name, found in read_results(tmp_path / "run")["benchmarks"].items():
        assert found["scores"][found["headline"]]["value"] == pytest.approx(found["out_of"]), name
        assert found["unparsed"] == 0


def test_stock_is_taken_with_versions_problems_and_where_the_rest_is(tmp_path: Path) -> None:
    (image,) = pictures(tmp_path / "drawn", 1)
    root = tmp_path / "b"
    for name in ("pope", "gqa"):
        WRITERS[name](root / name, image)
    (root / "gqa" / "images" / "n1.png").unlink()
    stock = {entry.benchmark: entry for entry in take_stock(root)}
    assert set(stock) == set(FOLDERS) == set(SOURCES)
    assert (stock["pope"].questions, stock["pope"].pictures) == (1, 1)
    assert stock["pope"].version == "not a known version, which has 8,910 or 9,000"
    assert stock["gqa"].problem.startswith("image of a question is missing")
    assert stock["mme"].problem == f"not there; given out at {SOURCES['mme']}"
    done = CliRunner().invoke(app, ["benchmarks", "check", str(root)])
    as_json = CliRunner().invoke(app, ["benchmarks", "check", str(root), "--json"])
    assert [entry["benchmark"] for entry in json.loads(as_json.stdout)] == list(stock)
    assert f"pope: 1 questions about 1 pictures ({stock['pope'].version})" in done.stdout
    assert isinstance(done.exception, SharecapError)
    assert str(done.exception) == f"gqa: there, and not whole: {root}"
    WRITERS["gqa"](root / "gqa", image)
    assert CliRunner().invoke(app, ["benchmarks", "check", str(root)]).exit_code == 0


def test_a_picture_that_is_none_is_told_by_the_stock(tmp_path: Path) -> None:
    (image,) = pictures(tmp_path / "drawn", 1)
    question = Question("q", image, "count", "How many?", "one", ("one", "two"))
    for place, problem in (("whole", ""), ("broken", "its picture is none")):
        WRITERS["pope"](tmp_path / place / "pope", image)  # a file
        write_mmbench([question], tmp_path / place / "mmbench" / "mmbench_dev.tsv")  # a cell of a table
        found = [
            entry for entry in take_stock(tmp_path / place) if (tmp_path / place / entry.benchmark).exists()
        ]
        assert len(found) == 2
        assert all(problem in entry.problem and bool(problem) == bool(entry.problem) for entry in found)
        image.write_bytes(b"no picture" * 9)


def test_files_of_another_make_cost_their_benchmark_one_line_and_no_other(tmp_path: Path) -> None:
    pope(tmp_path / "pope", pictures(tmp_path / "drawn", 1)[0])
    for name in ("vizwiz", "gqa", "scienceqa", "seed-bench"):
        (tmp_path / name).mkdir()
        whole(tmp_path / name / ("problems.json" if name == "scienceqa" else "val.json"), {"questions": 7})
    stock = {entry.benchmark: entry for entry in take_stock(tmp_path)}
    assert not stock["pope"].problem
    for name in ("vizwiz", "gqa", "scienceqa", "seed-bench"):
        assert stock[name].problem
        assert "\n" not in stock[name].problem


@pytest.mark.parametrize(("questions", "version"), [(2910, "old form"), (3000, "new form")])
def test_the_two_releases_of_popes_random_split_are_told_apart(
    tmp_path: Path, questions: int, version: str
) -> None:
    pope(tmp_path / "pope", pictures(tmp_path / "drawn", 1)[0])
    (file,) = tmp_path.glob("pope/coco/*.json")
    row = file.read_text()
    for split in ("random", "popular", "adversarial"):
        (file.parent / f"coco_pope_{split}.json").write_text(row * (questions if split == "random" else 3000))
    assert version in next(e.version for e in take_stock(tmp_path) if e.benchmark == "pope")
