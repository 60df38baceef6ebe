"""Other engines' files: VLMEvalKit's tables and lmms-eval's logs become the same records, truth and all."""

from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import llava_bench, mm_vet
from tests.evals.scored import lines, scored, sheet, whole

CHOICE = {"question": "Which?", "A": "red", "B": "blue", "C": "", "answer": "B"}
NO_PICTURES = "pictures aren't named in this file: intervals take every question for an image of its own"


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A spreadsheet as VLMEvalKit writes it."""
    return sheet(path, [list(rows[0]), *(list(row.values()) for row in rows)])


def log(path: Path, docs: list[tuple[dict[str, Any], str]], **more: Any) -> Path:
    """A sample log as lmms-eval writes it: pictures are not in it."""
    return lines(
        path,
        [
            {"doc_id": i, "doc": doc, "target": "", "resps": [[text]], "filtered_resps": ["?"], **more}
            for i, (doc, text) in enumerate(docs)
        ],
    )


@pytest.mark.parametrize("benchmark", ["seed-bench", "qbench", "scienceqa"])
def test_a_table_of_multiple_choice_holds_its_truth(tmp_path: Path, benchmark: str) -> None:
    rows = [{"index": i, **CHOICE, "category": "c", "prediction": p} for i, p in enumerate("BBA")]
    found = scored(benchmark, table(tmp_path / "model_X.xlsx", rows))
    assert found["score"] == pytest.approx(200 / 3)
    assert NO_PICTURES in found["notes"]
    if benchmark == "scienceqa":
        assert found["metric"] == "image_accuracy"


def test_mmes_pairs_are_made_by_picture_in_table_and_log(tmp_path: Path) -> None:
    asked = [("a.jpg", "Yes"), ("a.jpg", "No"), ("b.jpg", "Yes"), ("b.jpg", "No")]
    said = ["Yes", "No", "Yes", "Yes"]
    rows = [
        {"index": i, "category": "count", "image_path": f"count/{image}", "question": f"Is it {truth}?"}
        | {"answer": truth, "prediction": text}
        for i, ((image, truth), text) in enumerate(zip(asked, said, strict=True))
    ]
    docs = [
        ({"question_id": f"count/{image}", "category": "count", "question": f"Is it {t}?", "answer": t}, text)
        for (image, t), text in zip(asked, said, strict=True)
    ]
    for path in (table(tmp_path / "m.xlsx", rows), log(tmp_path / "l.jsonl", docs)):
        found = scored("mme", path)
        assert found["score"] == 75 + 50
        assert NO_PICTURES not in found["notes"]
    with pytest.raises(SharecapError, match=r"do not have two answers each \(first: b.jpg, 1\)"):
        scored("mme", table(tmp_path / "odd.xlsx", rows[:3]))
    with pytest.raises(SharecapError, match="'colour' is not a subtask"):
        scored("mme", table(tmp_path / "sub.xlsx", [{**row, "category": "colour"} for row in rows]))


def test_popes_rows_count_in_each_split_that_they_name(tmp_path: Path) -> None:
    rows = [
        {
            "index": 0,
            "question": "Is there?",
            "answer": "Yes",
            "category": "random,popular",
            "prediction": "Yes",
        },
        {"index": 1, "question": "Is there?", "answer": "No", "category": "random", "prediction": "Yes"},
        {"index": 2, "question": "Is there?", "answer": "No", "category": "popular", "prediction": "No"},
    ]
    found = scored("pope", table(tmp_path / "m.xlsx", rows))
    assert found["sub"]["random: f1"] == pytest.approx(2 / 3)
    assert found["sub"]["popular: f1"] == 1
    docs = [
        ({"question_id": "1", "question": "?", "answer": "yes", "category": c, "image_source": "v1"}, "Yes")
        for c in ("random", "adversarial")
    ]
    assert scored("pope", log(tmp_path / "l.jsonl", docs))["score"] == 1
    with pytest.raises(SharecapError, match="split 'easy'"):
        scored("pope", table(tmp_path / "bad.xlsx", [{**rows[0], "category": "easy"}]))


@pytest.mark.parametrize("benchmark", ["vqav2", "textvqa", "vizwiz"])
def test_peoples_answers_are_read_as_a_list_and_as_python_writes_one(tmp_path: Path, benchmark: str) -> None:
    rows = [{"index": 1, "question": "?", "answer": str(["red"] * 10), "prediction": "Red."}]
    docs = [({"question_id": 1, "question": "?", "answers": [{"answer": "red"}] * 10}, "Red.")]
    for path in (table(tmp_path / "m.xlsx", rows), log(tmp_path / "l.jsonl", docs)):
        assert scored(benchmark, path)["score"] == 100
    for answer in ("__import__('os')", "[]", "[" * 5000):
        with pytest.raises(SharecapError, match="item 1 has no list of people's answers"):
            scored(benchmark, table(tmp_path / "bad.xlsx", [{**rows[0], "answer": answer}]))


def test_scienceqas_log_has_no_ids_and_counts_instead(tmp_path: Path) -> None:
    docs = [
        ({"question": "What?", "choices": ["x", "y"], "answer": 1, "hint": "", "subject": "s"}, t)
        for t in "BA"
    ]
    found = scored("scienceqa", log(tmp_path / "l.jsonl", docs))
    assert (found["metric"], found["score"], found["sub"]["subject: s"]) == ("accuracy", 50, 50)


def test_logs_of_gqa_seed_and_mmbench_are_scored_as_their_own_files_are(tmp_path: Path) -> None:
    docs: list[tuple[dict[str, Any], str]] = [({"id": "7", "question": "?", "answer": "red"}, "Red.")]
    assert scored("gqa", log(tmp_path / "g.jsonl", docs))["score"] == 100
    seed = {"question": "?", "choice_a": "x", "choice_b": "y", "answer": "B", "question_type_id": 3}
    docs = [({**seed, "question_id": "1", "data_type": "image"}, "B"), ({**seed, "question_id": "2"}, "A")]
    assert scored("seed-bench", log(tmp_path / "s.jsonl", docs))["sub"]["type 3"] == 50
    copies = [({**CHOICE, "index": i, "L2-category": "l", "hint": "nan"}, "B") for i in (5, 1_000_005)]
    found = scored("mmbench", log(tmp_path / "m.jsonl", copies))
    assert (found["score"], found["n"], found["sub"]["l2-category: l"]) == (100, 1, 100)


def test_a_judges_failure_is_no_zero(tmp_path: Path) -> None:
    rows = [
        {"index": i, "question": "?", "answer": "x", "category": "ocr,math", "score": 0.5, "log": "Succeed"}
        for i in range(mm_vet.ITEMS)
    ]
    assert scored("mm-vet", table(tmp_path / "v.xlsx", rows))["sub"]["math"] == 50
    rows[0] |= {"score": 0.0, "log": "All 5 retries failed.\n"}
    assert scored("mm-vet", table(tmp_path / "f.xlsx", rows))["withheld"] == "1 of 218 grades can't be read"
    with pytest.raises(SharecapError, match="100 of mm-vet's 218 questions are here"):
        scored("mm-vet", table(tmp_path / "p.xlsx", rows[:100]))


def test_reviews_are_read_from_both_engines(tmp_path: Path) -> None:
    rows = [
        {"index": i, "question": "?", "category": "conv", "gpt4_score": 8, "score": 6}
        for i in range(llava_bench.ITEMS)
    ]
    assert scored("llava-bench", table(tmp_path / "v.xlsx", rows))["score"] == 75
    docs: list[tuple[dict[str, Any], str]] = [
        ({"question_id": i, "question": "?", "category": "conv"}, "x") for i in range(llava_bench.ITEMS)
    ]
    review = {"review": "8 6\nBecause.", "scores": [8, 6]}
    assert scored("llava-bench", log(tmp_path / "l.jsonl", docs, gpt_eval_llava_all=review))["score"] == 75
    failed = log(tmp_path / "f.jsonl", docs, gpt_eval_llava_all={"review": "Failed.", "scores": [-1, -1]})
    assert scored("llava-bench", failed)["withheld"].startswith("60 of 60 reviews")
    rows[3] |= {"gpt4_score": -1, "score": -1}
    assert scored("llava-bench", table(tmp_path / "w.xlsx", rows))["withheld"].startswith("1 of 60 reviews")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "E"}, "item 0: the answer 'E' is none of the options A/B"),
        ({"answer": ""}, "item 0: the answer '' is none of the options A/B"),
    ],
)
def test_a_truth_that_is_no_option_is_one_line(tmp_path: Path, change: dict[str, str], words: str) -> None:
    rows = [{"index": 0, **CHOICE, **change, "prediction": "A"}]
    with pytest.raises(SharecapError, match=words):
        scored("qbench", table(tmp_path / "m.xlsx", rows))


def test_an_id_twice_or_a_row_cut_short_is_named(tmp_path: Path) -> None:
    row = {"index": 0, **CHOICE, "prediction": "A"}
    with pytest.raises(SharecapError, match="item 0 appears twice"):
        scored("seed-bench", table(tmp_path / "m.xlsx", [row, row]))
    docs = [({"id": "1", "question": "?", "answer": "x"}, "x"), ({"id": "2", "question": "?"}, "x")]
    with pytest.raises(SharecapError, match="row 2 lacks answer"):
        scored("gqa", log(tmp_path / "l.jsonl", docs))


def test_captions_of_coco_go_by_the_number_in_their_file_name(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("dog, puppy\ncat\n")
    whole(tmp_path / "coco_objects.json", {"42": ["dog"]})
    docs: list[tuple[dict[str, Any], str]] = [
        ({"question_id": "COCO_val2014_000000000042.jpg", "id": 1}, "A cat")
    ]
    found = scored("chair", log(tmp_path / "l.jsonl", docs), tmp_path)
    assert (found["score"], found["n"]) == (1, 1)
