"""Label files: in a folder, with other capitals, with no more columns than scoring reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.suite import read_folder
from tests.evals.scored import lines, scored, sheet, whole


@pytest.mark.parametrize("benchmark", ["mmbench", "mmstar"])
def test_a_table_s_header_may_have_capitals(tmp_path: Path, benchmark: str) -> None:
    header = ["Index", "Question", "A", "B", "Answer", "Prediction"]
    rows = [[1, "?", "x", "y", "B", "B"]]
    assert scored(benchmark, sheet(tmp_path / "p.xlsx", [header, *rows]))["score"] == 100


def test_a_folder_with_the_one_file_of_labels_is_labels(tmp_path: Path) -> None:
    table = "index\tquestion\tA\tB\tanswer\n1\t?\tx\ty\tB\n"
    vet = {"imagename": "a.png", "question": "?", "answer": "x", "capability": ["ocr"]}
    files: dict[str, tuple[str, Any]] = {
        "mmbench": ("mmbench_dev.tsv", table),
        "mmbench-cn": ("mmbench_dev_cn.tsv", table),
        "mmstar": ("MMStar.tsv", table),
        "seed-bench": ("SEED-Bench.json", {"questions": [{"question_id": "1", "answer": "B"}]}),
        "qbench": (
            "llvisionqa_dev.json",
            [{"question": "?", "img_path": "1", "candidates": ["x", "y"], "correct_ans": "y"}],
        ),
        "gqa": ("testdev_balanced_questions.json", {"1": {"question": "?", "answer": "b"}}),
        "mm-vet": ("mm-vet.json", {"1": vet}),
    }
    said = lines(tmp_path / "p.jsonl", [{"question_id": "1", "text": "B"}])
    for name, (file, content) in files.items():
        place = tmp_path / "labels" / ("mmbench" if name == "mmbench-cn" else name)
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(content if isinstance(content, str) else json.dumps(content))
        path = whole(tmp_path / "g.json", {"1": {"score": [1.0]}}) if name == "mm-vet" else said
        assert scored(name, path, place)["score"] == 100, name
        (place / file).with_stem(f"other_{(place / file).stem}").write_text("{}")
        with pytest.raises(SharecapError, match=r"^2 (files|tables)"):
            scored(name, path, place)
        (place / file).with_stem(f"other_{(place / file).stem}").unlink()


def test_labels_need_no_more_than_is_scored(tmp_path: Path) -> None:
    vet = {"1": {"capability": ["ocr"]}}
    files: dict[str, Path] = {
        "mmbench": sheet(tmp_path / "mmb.xlsx", [["index", "A", "B", "answer"], [1, "x", "y", "B"]]),
        "mmstar": sheet(tmp_path / "mmstar.xlsx", [["index", "answer"], [1, "B"]]),
        "qbench": whole(tmp_path / "q", [{"img_path": "1", "candidates": ["a", "b"], "correct_ans": "b"}]),
        "gqa": whole(tmp_path / "gqa.json", {"1": {"answer": "b"}}),
        "mm-vet": whole(tmp_path / "vet.json", vet),
        "llava-bench": lines(tmp_path / "questions.jsonl", [{"question_id": 1}]),
    }
    said = {"question_id": "1", "text": "B", "tuple": [5, 5]}
    path = lines(tmp_path / "p.jsonl", [said])
    grades = whole(tmp_path / "g.json", {"1": {"score": [1.0]}})
    for name, labels in files.items():
        assert scored(name, grades if name == "mm-vet" else path, labels)["score"] == 100, name


@pytest.mark.parametrize("name", ["mmstar", "gqa", "qbench", "mm-vet", "llava-bench"])
def test_what_is_asked_needs_its_words(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    (place / "MMStar.tsv").write_text("index\tanswer\n1\tB\n")
    lines(place / "questions.jsonl", [{"question_id": 1, "image": "1.jpg"}])
    contents = {
        "gqa": {"1": {"answer": "b"}},
        "qbench": [{"img_path": "1", "candidates": ["a", "b"], "correct_ans": "b"}],
        "mm-vet": {"1": {"capability": ["ocr"], "imagename": "1.jpg", "answer": "x"}},
    }
    whole(place / "val_questions.json", contents.get(name))
    with pytest.raises(SharecapError, match=r"question|text"):
        read_folder(name, place)
