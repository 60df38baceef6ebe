"""Recorded predictions of other people's models give the figures that the benchmarks' own scorers give."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sharecap.evals.benchmarks import vizwiz
from sharecap.evals.results import Run, one_benchmark, summary
from sharecap.evals.suite import read_predictions
from sharecap.evals.task import SHORT_ANSWER, grade
from tests.evals.small import PARITY

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no recorded predictions at {PARITY}")


@pytest.fixture(scope="module")
def expected() -> Any:
    return json.loads((PARITY / "expected.json").read_text())


def scored(
    benchmark: str,
    predictions: str | Path | Sequence[str],
    labels: str | None = None,
    rule: str | None = None,
) -> dict[str, Any]:
    """What `sharecap score --json` prints, with few resamples."""
    names = [predictions] if isinstance(predictions, str | Path) else predictions
    paths = [PARITY / name for name in names]
    task, answers = read_predictions(benchmark, paths, PARITY / labels if labels else None, rule)
    records = grade(task, answers, paths[0])
    return one_benchmark(summary(Run("recorded", {task.name: records}), resamples=50), task.notes)


def test_mme_perception_and_cognition_match(expected: Any) -> None:
    found = scored("mme", "mme/lavin")
    case = expected["mme"]["cases"]["mme/lavin/*.txt"]
    for name in ("perception", "cognition"):
        assert found["sub"][name] == pytest.approx(case[name], abs=expected["mme"]["tolerance"])
    assert found["score"] == pytest.approx(case["perception"] + case["cognition"])
    assert (found["n"], found["notes"]) == (2374, [])


def test_llavas_mme_answers_score_as_their_converted_files_do(tmp_path: Path) -> None:
    """The converter's way: JSON lines by image and question, truths from elsewhere."""
    lines = []
    for file in sorted((PARITY / "mme" / "lavin").glob("*.txt")):
        for line in file.read_text().splitlines():
            image, question, _, response = line.split("\t")
            asked = question.replace("Please answer yes or no.", "").strip() + f"\n{SHORT_ANSWER}"
            lines.append({"question_id": f"{file.stem}/{image}", "prompt": asked, "text": response})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert scored("mme", tmp_path / "a.jsonl", "mme/lavin")["sub"] == scored("mme", "mme/lavin")["sub"]


@pytest.mark.parametrize("labels", ["pope", "without the question file"])
def test_pope_matches_in_every_split(expected: Any, labels: str, tmp_path: Path) -> None:
    if labels != "pope":
        for file in (PARITY / "pope").glob("coco_pope_*.json"):
            (tmp_path / file.name).symlink_to(file)
    place = labels if labels == "pope" else str(tmp_path)
    found = scored("pope", "pope/llava-v1.5-13b_answers.jsonl", place)
    case = expected["pope"]["cases"]["pope/llava-v1.5-13b_answers.jsonl"]
    assert found["score"] == pytest.approx(case["mean_f1"], abs=expected["pope"]["tolerance"])
    for split in ("adversarial", "random", "popular"):
        for name in ("acc", "precision", "recall", "f1", "yes_ratio"):
            assert found["sub"][f"{split}: {name}"] == pytest.approx(case[split][name], abs=1e-9)
        counts = ", ".join(f"{name} {case[split][name]:,}" for name in ("TP", "FP", "TN", "FN"))
        assert f"{split}: {counts}" in found["notes"]


@pytest.mark.parametrize(
    ("rule", "lower", "name"),
    [
        (None, False, None),
        ("server-raw", False, "official VQA code on raw text"),
        ("server-raw", True, "official VQA code, lower-cased predictions"),
        ("server", False, "official VQA code, predictions normalised first"),
    ],
)
@pytest.mark.parametrize(
    "file", ["llava-v1.5-13b_answers.jsonl", "llava-v1.5-13b_vqaformat_predictions.json"]
)
def test_textvqa_accuracy_matches_under_every_rule(
    expected: Any, file: str, rule: str | None, lower: bool, name: str | None
) -> None:
    folder = PARITY / "textvqa"
    task, answers = read_predictions("textvqa", [folder / file], folder, rule)
    if lower:
        answers = {question: answer.lower() for question, answer in answers.items()}
    records = grade(task, answers, Path(file))
    case = expected["textvqa"]["cases"]["textvqa/llava-v1.5-13b_answers.jsonl"]
    wanted = expected["textvqa"]["same predictions under other normalisations"].get(name, case["accuracy"])
    assert len(records) == case["n"]
    found = one_benchmark(summary(Run("recorded", {task.name: records}), resamples=5))
    assert found["score"] == pytest.approx(wanted, abs=expected["textvqa"]["tolerance"])


def test_answers_without_ids_keep_their_score(tmp_path: Path) -> None:
    """VizWiz's entries have none; told apart by position, nothing changes."""
    content = json.loads((PARITY / "textvqa" / "val_annotations_vqa_format.json").read_text())
    for annotation in content["annotations"]:
        annotation["answers"] = [{"answer": a["answer"]} for a in annotation["answers"]]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    found = scored(
        "textvqa",
        "textvqa/llava-v1.5-13b_vqaformat_predictions.json",
        str(tmp_path / "annotations.json"),
    )
    assert found["score"] == pytest.approx(61.254, abs=1e-6)


def test_scienceqa_matches_with_the_truth_inside_and_beside(expected: Any, tmp_path: Path) -> None:
    case = expected["scienceqa"]["cases"]["scienceqa/llava-v1.5-13b_output.json"]
    inside = "scienceqa/llava-v1.5-13b_output.json"
    content = json.loads((PARITY / inside).read_text())
    rows = content["correct"] + content["incorrect"]
    (tmp_path / "result.json").write_text(
        json.dumps({"outputs": {r["question_id"]: r["pred"] for r in rows}})
    )
    for found in (scored("scienceqa", inside), scored("scienceqa", tmp_path / "result.json", inside)):
        assert found["score"] == pytest.approx(case["image_accuracy"], abs=1e-9)
        assert found["sub"]["accuracy"] == pytest.approx(case["accuracy"], abs=1e-9)
        assert (found["n"], found["failed"]) == (case["image_n"], 5)


def test_seed_bench_counts_every_question_once(expected: Any) -> None:
    found = scored("seed-bench", "seed_bench/llava-v1.5-13b_upload.jsonl", "seed_bench/labels.jsonl")
    (case,) = expected["seed_bench"]["cases"].values()
    image, video = case.values()
    assert found["score"] == pytest.approx(image["accuracy"], abs=1e-9)
    assert found["sub"]["video"] == pytest.approx(video["accuracy"], abs=1e-9)
    assert found["n"] == image["n"]
    assert "1,252 predictions are for questions that these labels lack" in found["notes"][0]


def test_mmbench_circular_accuracy_matches(expected: Any) -> None:
    case = expected["mmbench"]["cases"]["mmbench/dev_half_llava-v1.5-13b.xlsx"]
    found = scored("mmbench", "mmbench/dev_half_llava-v1.5-13b.xlsx")
    assert found["n"] == case["groups"]
    assert found["score"] == pytest.approx(case["circular_accuracy"], abs=expected["mmbench"]["tolerance"])
    assert found["notes"] == [f"{case['rows']:,} passes over {case['groups']} questions"]


@pytest.mark.parametrize("runs", [1, 3])
def test_mm_vet_matches_over_all_and_per_capability(expected: Any, runs: int) -> None:
    name = f"mm_vet/llava-v1.5-7b_gpt-4-grade-{runs}runs.json"
    case = expected["mm_vet"]["cases"][name]
    found = scored("mm-vet", name, "mm_vet/mm-vet.json")
    assert found["score"] == pytest.approx(case["total"], abs=1e-3)
    for capability, value in case.get("capabilities", {}).items():
        assert found["sub"][capability] == pytest.approx(value, abs=0.1)
    assert scored("mm-vet", name)["score"] == found["score"]


def test_llava_bench_runs_are_averaged_as_published(expected: Any) -> None:
    files = [f"llava_bench/llava-v1.5-7b-eval{run}.jsonl" for run in (1, 2, 3)]
    for file, case in zip(files, expected["llava_bench"]["cases"].values(), strict=True):
        found = scored("llava-bench", file)
        assert {name: round(figure, 1) for name, figure in found["sub"].items()} == case
    for all_runs in (scored("llava-bench", files), scored("llava-bench", "llava_bench")):
        assert all_runs["score"] == pytest.approx(expected["llava_bench"]["mean_of_3"], abs=0.05)
        assert all_runs["n"] == 60


def test_chair_matches_for_every_recorded_model(expected: Any) -> None:
    for name, case in expected["chair"]["cases"].items():
        found = scored("chair", f"chair/captions/{name}.json", "chair")
        for metric in ("CHAIRi", "CHAIRs", "Recall", "avg_words"):
            assert found["sub"][metric] == pytest.approx(case[metric], abs=1e-3)
        assert found["n"] == case["n"]


def test_caption_metrics_match_pycocoevalcaps(expected: Any) -> None:
    pytest.importorskip("pycocoevalcap")
    ((_, case),) = expected["coco_caption"]["cases"].items()
    found = scored("coco-caption", "coco_caption/cococap_fixture.json")
    assert found["n"] == case["n"]
    assert found["sub"] == pytest.approx({k: v for k, v in case.items() if k != "n"}, abs=1e-6)
    assert found["sub_ci95"]["Bleu_4"] is None
    assert found["ci95"][0] < found["score"] < found["ci95"][1]


def test_qbench_constants_match(expected: Any, tmp_path: Path) -> None:
    case = expected["qbench"]["constant answers on the dev labels"]
    asked = json.loads((PARITY / "qbench" / "llvisionqa_dev.json").read_text())
    for letter in "ABCD":
        rows = [{"img_path": row["img_path"], "response": letter} for row in asked]
        (tmp_path / "p.json").write_text(json.dumps(rows))
        found = scored("qbench", tmp_path / "p.json", "qbench/llvisionqa_dev.json")
        assert found["score"] == pytest.approx(case[f"qbench_dev_always_{letter}"], abs=1e-9)
        if letter == "A":
            for label in ("type", "concern"):
                by_label = {k.split(" ")[1][0]: v for k, v in found["sub"].items() if k.startswith(label)}
                assert by_label == pytest.approx(case[f"qbench_dev_always_A_by_{label}"])


def test_the_vizwiz_upload_file_is_made_from_the_answers() -> None:
    folder = PARITY / "vizwiz"
    wanted = json.loads((folder / "llava-v1.5-13b_test_upload.json").read_text())
    assert vizwiz.upload(folder / "llava-v1.5-13b_test_answers.jsonl") == wanted
    assert len(wanted) == 8000
