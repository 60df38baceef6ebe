"""docs/score-a-model.md: its commands run as they stand, on small files of each form."""

import json
import re
import shlex
from contextlib import chdir
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.evals.suite import MEASURES
from tests.evals.scored import lines, whole

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "score-a-model.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page's commands name."""
    place = tmp_path_factory.mktemp("page")
    for name, answer in (("mme_results", "Yes"), ("other_results", "No")):
        (place / name).mkdir()
        rows = [f"{i}.jpg\tIs it {truth}?\t{truth}\t{answer}\n" for i in range(9) for truth in ("Yes", "No")]
        (place / name / "count.txt").write_text("".join(rows))
    for name in ("textvqa", "pope"):
        (place / name).mkdir()
    row = {"image_id": "i", "question": "what?", "answers": [{"answer": "red"}] * 10}
    whole(place / "textvqa" / "annotations.json", {"annotations": [{"question_id": 1, **row}]})
    whole(place / "textvqa" / "questions.json", {"questions": [{"question_id": 1, **row}]})
    lines(place / "answers.jsonl", [{"question_id": "i", "prompt": "what?\nShort.", "text": "Red"}])
    for split in ("adversarial", "random", "popular"):
        asked = [{"image": "a.jpg", "text": f"Is there a {split} {i}?", "label": "yes"} for i in range(2)]
        lines(place / "pope" / f"coco_pope_{split}.json", asked)
    said = [
        {"question_id": 1, "prompt": f"Is there a {split} {i}?\n", "text": "Yes"}
        for split in ("adversarial", "random", "popular")
        for i in range(2)
    ]
    lines(place / "pope_answers.jsonl", said)
    for run in (1, 2):
        reviews = [{"question_id": i, "category": "llava_bench_conv", "content": "8 6\n"} for i in range(4)]
        lines(place / f"review{run}.jsonl", reviews)
    lines(place / "questions.jsonl", [{"question_id": i, "image": f"{i}.jpg", "text": "?"} for i in range(4)])
    vet = {"imagename": "a.png", "question": "?", "answer": "x", "capability": ["ocr"]}
    whole(place / "mm-vet.json", {"v1_0": vet})
    whole(place / "grades.json", {"v1_0": {"content": ["0.5"], "score": [0.5]}})
    (place / "benchmarks").mkdir()
    lines(place / "vizwiz_answers.jsonl", [{"question_id": 1, "text": "Tea"}])
    lines(place / "seed.jsonl", [{"question_id": "1", "losses": [0.2, 0.1]}])
    lines(place / "seed_labels.jsonl", [{"question_id": "1", "answer": "B"}])
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_runs_in_its_order(folder: Path, command: str) -> None:
    with chdir(folder):
        done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.exception
    if "--json" in command:
        found = json.loads(done.stdout)
        assert set(found) >= {name for name in re.findall(r"`(\w+)`", told_json()) if name != "json"}


def told_json() -> str:
    """The sentence of the page that lists the fields."""
    return PAGE.split("`--json` prints one object:")[1].split("POPE's")[0]


def test_the_page_names_every_benchmark_that_can_be_scored() -> None:
    rows = {
        name
        for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`([\w-]+)`", row)
    }
    assert set(MEASURES) <= rows
