"""Which benchmarks a hub has, and how its rows become the files that the benchmark itself gives out.

Columns are those of the copies that lmms-eval reads (its task files name them; release 0.7.3 calls their
owner lmms-lab-encoder, older ones lmms-lab), and of the authors' own sets for MMStar, Q-Bench and DetailCaps.
A row of another make raises; names from a hub never lead out of the folder.
"""

import base64
import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.evals.benchmarks import llava_bench, mmbench, pope

Row = Mapping[str, Any]
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class HubSet:
    """Where a hub keeps a benchmark, and how its rows become the benchmark's own files."""

    repository: str
    config: str | None
    split: str
    write: Callable[[Iterable[Row], Path], None]
    pictures: str = ""  # config of the pictures (`id`, `image`), where rows only name theirs (`imageId`)
    folder: str = ""  # below the benchmarks' directory; "": the benchmark's name
    taken: Callable[[Path], bool] | None = None  # is it in its folder already; None: if there is a folder


class _Pictures:
    """Writes pictures into a folder; those of one name once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.names: dict[str, str] = {}  # as asked -> the file's

    def add(self, name: Any, cell: Any) -> str:
        """Keep the picture in a cell under this name, which gets a suffix if it has none; the file's name."""
        asked = str(name)
        if asked not in self.names:
            content = _bytes_of(cell)
            suffix = ".jpg" if content.startswith(b"\xff\xd8") else ".png"
            file = asked if asked.lower().endswith(SUFFIXES) else f"{asked}{suffix}"
            (self.folder / _plain(file)).write_bytes(content)
            self.names[asked] = file
        return self.names[asked]


def _plain(name: str) -> str:
    """A file's name that stays in its folder; `ValueError` for any other."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"a file called {name!r}")
    return name


def _bytes_of(cell: Any) -> bytes:
    content = cell["bytes"]
    if not isinstance(content, bytes) or not content:
        raise ValueError("a row without a picture")
    return content


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _lines(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _columns(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _mme(rows: Iterable[Row], folder: Path) -> None:
    """A picture and a text of two lines per pair."""
    for row in rows:
        subtask, stem = _plain(str(row["category"])), Path(str(row["question_id"])).stem
        place = folder / subtask
        place.mkdir(exist_ok=True)
        (place / f"{stem}.png").write_bytes(_bytes_of(row["image"]))
        with open(place / f"{stem}.txt", "a", encoding="utf-8") as f:
            f.write(f"{row['question']}\t{row['answer']}\n")


def _mmbench(name: str) -> Callable[[Iterable[Row], Path], None]:
    """The table, with pictures in base64."""
    header = ["index", "question", "hint", *"ABCD", "answer", "category", "l2-category", "image", "split"]

    def write(rows: Iterable[Row], folder: Path) -> None:
        with open(folder / name, "w", encoding="utf-8", newline="") as f:
            table = csv.DictWriter(f, header, delimiter="\t", restval="", extrasaction="ignore")
            table.writeheader()
            for row in rows:
                code = base64.b64encode(_bytes_of(row["image"])).decode()
                told = {name: value for name, value in row.items() if value not in (None, "nan")}
                table.writerow(told | {"image": code, "l2-category": row.get("L2-category", "")})

    return write


def _has_mmbench(folder: Path, *, chinese: bool) -> bool:
    """Both languages lie in one folder."""
    return any(mmbench.is_chinese(file) == chinese for file in folder.glob("*.tsv"))


def _mmstar(rows: Iterable[Row], folder: Path) -> None:
    """One Parquet file, as the authors have it."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    flat = [{**row, "image": _bytes_of(row["image"])} for row in rows]
    parquet.write_table(pa.Table.from_pylist(flat), folder / "MMStar.parquet")


def _pope(rows: Iterable[Row], folder: Path) -> None:
    """A file of JSON lines a split, and COCO's pictures."""
    pictures, splits = _Pictures(folder / "val2014"), dict[str, list[Row]]()
    for row in rows:
        if row["category"] not in pope.SPLITS:
            raise ValueError(f"a split called {row['category']!r}")
        some = splits.setdefault(row["category"], [])
        name = pictures.add(row["image_source"], row["image"])
        label = str(row["answer"]).strip().lower()
        some.append({"question_id": len(some) + 1, "image": name, "text": row["question"], "label": label})
    for split, some in splits.items():
        _lines(folder / f"coco_pope_{split}.json", some)


def _scienceqa(rows: Iterable[Row], folder: Path) -> None:
    """`problems.json` and its split. The copy has no problem ids: a row's number stands for each."""
    problems = {}
    for number, row in enumerate(rows):
        place = folder / "images" / "test" / str(number)
        image = _Pictures(place).add("image", row["image"])
        told = _columns(row, "question", "choices", "answer", "hint")
        more = {name: row[name] for name in ("subject", "topic", "category", "skill", "grade") if name in row}
        problems[str(number)] = {**told, **more, "image": image, "split": "test"}
    _json(folder / "problems.json", problems)
    _json(folder / "pid_splits.json", {"test": list(problems)})


def _seed_bench(rows: Iterable[Row], folder: Path) -> None:
    """The questions about pictures; videos are left out, as an evaluation leaves them."""
    pictures, questions = _Pictures(folder / "SEED-Bench-image"), []
    options = ("choice_a", "choice_b", "choice_c", "choice_d")
    for row in rows:
        if row["data_type"] == "image":
            (image,) = row["image"]
            pictures.add(row["data_id"], image)
            told = ("question_id", "question_type_id", "data_type", "data_id", "question", *options, "answer")
            questions.append(_columns(row, *told))
    _json(folder / "SEED-Bench.json", {"questions": questions})


def _textvqa(rows: Iterable[Row], folder: Path) -> None:
    """TextVQA's own file of the validation split."""
    pictures, data = _Pictures(folder / "train_images"), []
    for row in rows:
        pictures.add(row["image_id"], row["image"])
        data.append(_columns(row, "question_id", "image_id", "question", "answers"))
    _json(folder / "TextVQA_0.5.1_val.json", {"data": data})


def _vizwiz(rows: Iterable[Row], folder: Path) -> None:
    """The official list of the validation split."""
    pictures, listed = _Pictures(folder / "val"), []
    for row in rows:
        name = pictures.add(row["question_id"], row["image"])
        kind = {"answer_type": row["category"]} if row.get("category") in _ANSWER_TYPES else {}
        people = [{"answer": answer} for answer in row["answers"]]
        listed.append({"image": name, "question": row["question"], "answers": people, **kind})
    _json(folder / "val.json", listed)


_ANSWER_TYPES = ("unanswerable", "other", "yes/no", "number")


def _vqav2(rows: Iterable[Row], folder: Path) -> None:
    """Question and annotation file of the validation split, and COCO's pictures."""
    pictures, questions, annotations = _Pictures(folder / "val2014"), [], []
    for row in rows:
        pictures.add(f"COCO_val2014_{int(row['image_id']):012d}", row["image"])
        questions.append(_columns(row, "question_id", "image_id", "question"))
        told = ("question_id", "image_id", "question_type", "answer_type", "answers")
        annotations.append(_columns(row, *told))
    about = {"data_type": "mscoco", "data_subtype": "val2014"}
    _json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**about, "questions": questions})
    _json(folder / "v2_mscoco_val2014_annotations.json", {**about, "annotations": annotations})


def _gqa(rows: Iterable[Row], folder: Path) -> None:
    """The balanced testdev questions by id."""
    pictures, questions = _Pictures(folder / "images"), {}
    for row in rows:
        pictures.add(row["imageId"], row["image"])
        told = _columns(row, "imageId", "question", "answer")
        questions[str(row["id"])] = told | {"types": dict(row["types"]) if row.get("types") else {}}
    _json(folder / "testdev_balanced_questions.json", questions)


def _mm_vet(rows: Iterable[Row], folder: Path) -> None:
    """`mm-vet.json`. A picture of several questions gets one name, that of the first."""
    pictures, first, found = _Pictures(folder / "images"), dict[bytes, str](), {}
    for row in rows:
        name = first.setdefault(_bytes_of(row["image"]), str(row["question_id"]))
        needs = row["capability"]
        needs = [c.strip() for c in needs.split(",")] if isinstance(needs, str) else list(needs)
        told = _columns(row, "question", "answer") | {"capability": needs}
        found[str(row["question_id"])] = told | {"imagename": pictures.add(name, row["image"])}
    _json(folder / "mm-vet.json", found)


def _llava_bench(rows: Iterable[Row], folder: Path) -> None:
    """Questions, contexts and GPT-4's answers; the authors' `rule.json` is not in the copy."""
    pictures, questions, contexts, answers = _Pictures(folder / "images"), [], dict[str, str](), []
    for row in rows:
        name = pictures.add(row["image_id"], row["image"])
        category = llava_bench.CATEGORY + str(row["category"]).removeprefix(llava_bench.CATEGORY)
        said = {"question_id": row["question_id"], "category": category}
        questions.append({**said, "image": name, "text": row["question"]})
        contexts[name] = row["caption"]
        answers.append({**said, "text": row["gpt_answer"]})
    _lines(folder / "questions.jsonl", questions)
    _lines(folder / "context.jsonl", [{"image": name, "caption": told} for name, told in contexts.items()])
    _lines(folder / "answers_gpt4.jsonl", answers)


def _detailed_captions(rows: Iterable[Row], folder: Path) -> None:
    """Three models' descriptions as references; JSON lines of our own, since the set is given out as rows."""
    pictures, listed = _Pictures(folder / "images"), []
    for row in rows:
        own = str(row["image"]).replace("/", "_")  # pictures of two sources may have the same last name
        name = pictures.add(own, {"bytes": row["binary"]})
        told = [row[f"GT_Caption_{model}"] for model in ("GPT4O", "GPT4V", "Gemini15Pro")]
        listed.append({"id": row["image"], "image": name, "references": told})
    _lines(folder / "detailcaps.jsonl", listed)


def _qbench(rows: Iterable[Row], folder: Path) -> None:
    """The official list of the split with answers."""
    pictures, listed = _Pictures(folder / "images"), []
    for row in rows:
        options = [row[f"option{i}"] for i in range(4) if row[f"option{i}"] not in (None, "N/A")]
        right = row["correct_choice"]
        listed.append(
            {
                "img_path": pictures.add(row["id"], row["image"]),
                "question": row["question"],
                "candidates": options,
                "correct_ans": right if right in options else options["ABCD".index(right)],
                "type": row["question_type"],
                "concern": row["question_concern"],
            }
        )
    _json(folder / "llvisionqa_dev.json", listed)


SETS: Mapping[str, HubSet] = {
    "mme": HubSet("lmms-lab/MME", None, "test", _mme),
    "mmbench": HubSet(
        "lmms-lab/MMBench",
        "en",
        "dev",
        _mmbench("mmbench_dev.tsv"),
        taken=lambda folder: _has_mmbench(folder, chinese=False),
    ),
    "mmbench-cn": HubSet(
        "lmms-lab/MMBench",
        "cn",
        "dev",
        _mmbench("mmbench_dev_cn.tsv"),
        folder="mmbench",
        taken=lambda folder: _has_mmbench(folder, chinese=True),
    ),
    "seed-bench": HubSet("lmms-lab/SEED-Bench", None, "test", _seed_bench),
    "qbench": HubSet("q-future/Q-Bench-HF", None, "dev", _qbench),
    "scienceqa": HubSet("lmms-lab/ScienceQA", "ScienceQA-IMG", "test", _scienceqa),
    "vqav2": HubSet("lmms-lab/VQAv2", None, "validation", _vqav2),
    "vizwiz": HubSet("lmms-lab/VizWiz-VQA", None, "val", _vizwiz),
    "textvqa": HubSet("lmms-lab/textvqa", None, "validation", _textvqa),
    "gqa": HubSet(
        "lmms-lab/GQA",
        "testdev_balanced_instructions",
        "testdev",
        _gqa,
        pictures="testdev_balanced_images",
    ),
    "pope": HubSet("lmms-lab/POPE", None, "test", _pope),
    "mmstar": HubSet("Lin-Chen/MMStar", None, "val", _mmstar),
    "detailed-captions": HubSet(
        "foundation-multimodal-models/DetailCaps-4870", None, "test", _detailed_captions
    ),
    "llava-bench": HubSet("lmms-lab/llava-bench-in-the-wild", None, "train", _llava_bench),
    "mm-vet": HubSet("lmms-lab/MMVet", None, "test", _mm_vet),
}
"""What can be fetched."""
