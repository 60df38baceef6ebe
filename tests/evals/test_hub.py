"""Benchmarks from a hub: written as their readers want them, or one clear line and nothing left behind.

The hub's copies are stood in for by small ones of the same columns, read by the real `datasets` from disk.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError, UsageError
from sharecap.evals.hub import from_hub, get
from sharecap.evals.hub_sets import SETS, HubSet
from sharecap.evals.suite import read_folder
from sharecap.evals.task import OPTION_LETTER, Sample

datasets = pytest.importorskip("datasets")


def drawn(shade: int, form: str = "png") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, format=form)
    return out.getvalue()


JPEG, PNG = drawn(1, "jpeg"), drawn(2)
CHOICE = {"question": "Which?", "hint": "nan", "A": "x", "B": "y", "C": "nan", "D": "nan", "answer": "B"}
MMBENCH = {
    "index": 7,
    **CHOICE,
    "category": "c",
    "source": "s",
    "L2-category": "l",
    "comment": "nan",
    "split": "dev",
}
SEED = {f"choice_{letter}": letter for letter in "abcd"} | {"answer": "C", "question": "What?"}
TEN = ["red"] * 7 + ["Two"] * 3

ROWS: dict[str, list[dict[str, Any]]] = {
    "mme": [
        {"question_id": "count/1.png", "category": "count", "question": "One? Please", "answer": "Yes"},
        {"question_id": "count/1.png", "category": "count", "question": "Two? Please", "answer": "No"},
    ],
    "mmbench": [MMBENCH],
    "mmbench-cn": [MMBENCH],
    "mmstar": [{"index": 0, "question": "Which?\nOptions: A: x, B: y", "answer": "A", "category": "c"}],
    "pope": [
        {"id": str(i), "question_id": str(i % 2), "question": f"Is there a {split} dog?", "answer": "no"}
        | {"image_source": "COCO_val2014_000000000007", "category": split}
        for i, split in enumerate(("adversarial", "popular", "random"))
    ],
    "scienceqa": [
        {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "Look.", "task": "closed choice"}
        | {"grade": "grade2", "subject": "natural science", "topic": "t", "category": "c", "skill": "s"}
        | {"lecture": "", "solution": ""}
    ],
    "seed-bench": [
        {
            **SEED,
            "data_id": "1_2",
            "data_type": "image",
            "question_id": "10",
            "question_type_id": 1,
            "segment": None,
        },
        {
            **SEED,
            "data_id": "v",
            "data_type": "video",
            "question_id": "v1",
            "question_type_id": 10,
            "segment": None,
        },
    ],
    "textvqa": [
        {"image_id": "0a", "question_id": 34602, "question": "what is said?", "answers": TEN}
        | {"ocr_tokens": ["RED"], "set_name": "val", "image_classes": ["Sign"]}
    ],
    "vizwiz": [
        {"question_id": "VizWiz_val_00000000", "question": "What is it?", "answers": TEN, "category": "other"}
    ],
    "vqav2": [
        {"question_type": "what", "multiple_choice_answer": "red", "image_id": 42, "answer_type": "other"}
        | {"question_id": 42000 + i, "question": "What?"}
        | {
            "answers": [
                {"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(TEN, 1)
            ]
        }
        for i in range(2)
    ],
    "gqa": [
        {"id": "201", "imageId": "n1", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes."}
        | {
            "isBalanced": True,
            "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"},
        }
    ],
    "mm-vet": [
        {"question_id": f"v1_{i}", "question": "What is x?", "answer": "1<AND>2", "image_source": "web"}
        | {"capability": "ocr,math"}
        for i in range(2)
    ],
    "llava-bench": [
        {
            "question_id": i,
            "question": "What?",
            "caption": "A street.",
            "gpt_answer": "It is.",
            "category": "conv",
        }
        | {"image_id": "001.jpg"}
        for i in range(2)
    ],
    "detailed-captions": [
        {"image": "sa_1.jpg", "source": "SAM"}
        | {f"GT_Caption_{model}": f"A {model} dog." for model in ("GPT4O", "GPT4V", "Gemini15Pro")}
    ],
    "qbench": [
        {"id": "00001", "question": "Is it sharp?", "option0": "Yes", "option1": "No", "option2": "N/A"}
        | {"option3": "N/A", "question_type": 0, "question_concern": 1, "correct_choice": "B"}
    ],
}
"""The columns of each set, without its picture."""

PROMPTS = {
    "pope": "Is there a adversarial dog?\nAnswer the question using a single word or phrase.",
    "scienceqa": "Context: Look.\nWhich?\nA. x\nB. y\n" + OPTION_LETTER,
    "seed-bench": "What?\nA. a\nB. b\nC. c\nD. d\n" + OPTION_LETTER,
    "qbench": "Is it sharp?\nChoose between one of the options as follows:\nA. Yes\nB. No",
    "mmbench": "Which?\nA. x\nB. y\n" + OPTION_LETTER,
    "mmbench-cn": "Which?\nA. x\nB. y\n请直接回答选项字母。",
}
REFERENCES = {
    "scienceqa": "B",
    "seed-bench": "C",
    "textvqa": TEN,
    "vizwiz": TEN,
    "vqav2": TEN,
    "gqa": "yes",
    "mm-vet": "1<AND>2",
    "detailed-captions": ["A GPT4O dog.", "A GPT4V dog.", "A Gemini15Pro dog."],
    "llava-bench": {"context": "A street.", "answer": "It is."},
}


def on_disk(name: str, place: Path, rows: Iterable[Mapping[str, Any]], content: bytes = PNG) -> HubSet:
    """The set as a copy on disk, pictures as features of their own kind."""
    image = {"bytes": content, "path": "0.png"}
    many = name == "seed-bench"
    pictured = [{**row, "image": [image] if many else image} for row in rows]
    if name == "detailed-captions":  # the picture's name is under `image`
        pictured = [{**row, "binary": content} for row in rows]
    pieces = {"": pictured}
    if SETS[name].pictures:
        pieces = {
            "": list(rows),
            SETS[name].pictures: [{"id": row["imageId"], "image": image} for row in rows],
        }
    place.mkdir(parents=True)
    for config, some in pieces.items():
        found = datasets.Dataset.from_list(some)
        if "image" in found.column_names and name != "detailed-captions":
            feature = datasets.List(datasets.Image()) if many else datasets.Image()
            found = found.cast_column("image", feature)
        found.to_parquet(place / f"{config or 'rows'}.parquet")
    configs = [(SETS[name].config or "default", "rows"), *[(c, c) for c in pieces if c]]
    lines = [
        f"- config_name: {config}\n  data_files:\n  - split: {SETS[name].split}\n    path: {file}.parquet\n"
        for config, file in configs
    ]
    (place / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")
    return replace(SETS[name], repository=str(place))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def samples_of(name: str, folder: Path) -> list[Sample]:
    tasks = {task.name: task for task in read_folder(folder.name, folder)}
    return list(tasks[name].samples)


@pytest.mark.parametrize("name", SETS)
def test_what_a_hub_has_is_written_as_the_readers_want_it(name: str, tmp_path: Path) -> None:
    content = JPEG if name in ("pope", "gqa", "llava-bench") else PNG
    there = on_disk(name, tmp_path / "hub", ROWS[name], content)

    def load(wanted: HubSet) -> Any:
        return from_hub(replace(there, config=wanted.config))

    folder = get(name, tmp_path / "b", load)
    assert folder == tmp_path / "b" / (SETS[name].folder or name)
    (task,) = read_folder(folder.name, folder)
    images = sum(row.get("data_type") != "video" for row in ROWS[name])
    assert (task.name, len(task.samples)) == (name, images)
    for sample in task.samples:  # byte for byte: one picture keeps one digest in all benchmarks
        (image,) = sample.images
        assert (image if isinstance(image, bytes) else image.read_bytes()) == content
    first = task.samples[0]
    assert task.prompt(first) == PROMPTS.get(name, task.prompt(first))
    assert first.reference == REFERENCES.get(name, first.reference)
    with pytest.raises(UsageError, match="there already"):
        get(name, tmp_path / "b", load)


def test_questions_about_one_picture_keep_it_in_common(tmp_path: Path) -> None:
    for name in ("pope", "vqav2", "mm-vet", "llava-bench"):
        rows = [{**row, "image": {"bytes": PNG}} for row in ROWS[name]]
        folder = get(name, tmp_path, lambda _, rows=rows: rows)  # type: ignore[misc]
        assert len({sample.image_name for sample in samples_of(name, folder)}) == 1, name
    rows = [{**row, "image": {"bytes": drawn(i)}} for i, row in enumerate(ROWS["mm-vet"])]
    folder = get("mm-vet", tmp_path / "other", lambda _: rows)
    assert len({sample.image_name for sample in samples_of("mm-vet", folder)}) == 2


def test_pictures_of_one_last_name_in_two_folders_are_two(tmp_path: Path) -> None:
    (row,) = ROWS["detailed-captions"]
    rows = [{**row, "image": f"{place}/1.png", "binary": drawn(i)} for i, place in enumerate(("cc", "sam"))]
    samples = samples_of("detailed-captions", get("detailed-captions", tmp_path, lambda _: rows))
    for i, sample in enumerate(samples):
        (image,) = sample.images
        assert isinstance(image, Path)
        assert image.read_bytes() == drawn(i)


def test_both_languages_of_mmbench_come_into_one_folder(tmp_path: Path) -> None:
    rows = [{**MMBENCH, "image": {"bytes": PNG}}]
    for first, second in (("mmbench", "mmbench-cn"), ("mmbench-cn", "mmbench")):
        place = tmp_path / first
        assert get(first, place, lambda _: rows) == get(second, place, lambda _: rows) == place / "mmbench"
        assert {task.name for task in read_folder("mmbench", place / "mmbench")} == {"mmbench", "mmbench-cn"}
        with pytest.raises(UsageError, match="there already"):
            get(first, place, lambda _: rows)
    digest = hashlib.sha256((place / "mmbench" / "mmbench_dev.tsv").read_bytes()).hexdigest()
    with pytest.raises(SharecapError, match="hub's rows"):
        get("mmbench", tmp_path / "third", lambda _: [{"question": "?"}])
    assert hashlib.sha256((place / "mmbench" / "mmbench_dev.tsv").read_bytes()).hexdigest() == digest


def astray(name: str) -> list[dict[str, Any]]:
    """Rows whose names lead out of the folder."""
    names = ("category", "image_source", "image_id", "question_id", "imageId", "data_id", "id")
    outside = {key: "../../x" for key in names if key in ROWS[name][0]}
    image: Any = {"bytes": PNG}
    return [{**ROWS[name][0], **outside, "image": [image] if name == "seed-bench" else image}]


@pytest.mark.parametrize("name", SETS)
def test_rows_of_another_make_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    good = {"image": {"bytes": PNG}}
    strange: list[list[Any]] = [
        [{"question": "?"}],
        [{"image": None}],
        [],
        [{**ROWS[name][0], "image": {"bytes": b""}}],
    ]
    strange += [
        [{**good, **dict.fromkeys(ROWS[name][0])}],
        [{**row, **good, "question": None, "id": None, "image_id": None} for row in ROWS[name][:1]],
    ]
    for rows in strange:
        with pytest.raises(SharecapError) as e:
            get(name, tmp_path / "b", lambda _, rows=rows: rows)  # type: ignore[misc]
        assert "\n" not in str(e.value)
        assert list((tmp_path / "b").iterdir()) == []
    try:
        get(name, tmp_path / "b", lambda _: astray(name))
    except SharecapError:
        assert list((tmp_path / "b").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"b"}  # nothing beside, nothing above
    assert not list(tmp_path.parent.glob("x*"))


def test_without_a_hub_and_for_what_no_hub_has_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach\n the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for name, words in (
        ("mme", r"cannot be fetched from the hub \(Couldn't reach the hub\): lmms-lab/MME. copy the"),
        ("gqa", r"cannot be fetched from the hub \(Couldn't reach the hub\): lmms-lab/GQA. copy the"),
        ("vqa", "unknown benchmark 'vqa'. choose from mme, mmbench, mmbench-cn, seed-bench"),
    ):
        done = CliRunner().invoke(app, ["benchmarks", "get", name, str(tmp_path / "b")])
        assert isinstance(done.exception, SharecapError)
        assert re.search(words, str(done.exception))
