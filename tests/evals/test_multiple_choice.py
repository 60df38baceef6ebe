"""SEED-Bench, MMStar, Q-Bench, GQA and MMBench: which letter a text names by each benchmark's own rule."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import gqa, mmbench, mme, mmstar, pope, qbench, scienceqa, seed_bench
from sharecap.evals.task import Sample
from tests.evals.scored import lines, scored, sheet, whole

OPTIONS = {"answer": "B", "options": {"A": "high", "B": "low", "C": "Some"}}
SAMPLE = Sample("1", (), "", "?", OPTIONS, "", "1")


@given(st.text(max_size=40))
def test_no_parser_crashes_on_any_text_and_what_it_reads_is_an_answer(text: str) -> None:
    letters = (None, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert seed_bench.parse(SAMPLE, text) in (None, *"ABCD")
    assert mmstar.parse(SAMPLE, text) in (None, *"ABCD")
    assert scienceqa.parse(SAMPLE, text) in letters
    assert qbench.parse(SAMPLE, text) in (None, *"ABC")
    assert mmbench.parse(SAMPLE, text) in (None, *"ABC")
    assert mme.parse(SAMPLE, text) in (None, "yes", "no")
    assert pope.parse(SAMPLE, text) in (None, "yes", "no")
    assert gqa.parse(SAMPLE, text) == (text.rstrip(".").lower() or None)


@given(st.text(alphabet=st.characters(exclude_characters="abcdABCDEynYN[")))
def test_a_text_without_the_letters_of_an_answer_scores_nowhere(text: str) -> None:
    """No guess, no default: what names nothing is None, which every rule but POPE's counts as wrong."""
    for benchmark in (seed_bench, mmstar, scienceqa):
        assert benchmark.parse(SAMPLE, text) is None
        assert benchmark.score(SAMPLE, None) == 0
    assert mme.parse(SAMPLE, text) is None
    if text.strip().rstrip(".").strip().lower() not in ("high", "low", "some"):
        assert qbench.parse(SAMPLE, text) is None


def seed(name: str, answer: str = "A", **more: Any) -> dict[str, Any]:
    return {"question_id": name, "answer": answer, **more}


def test_a_repeated_seed_question_counts_once_if_it_says_the_same(tmp_path: Path) -> None:
    labels = lines(tmp_path / "l.jsonl", [seed("1"), seed("2", "B"), seed("1")])
    rows = [{"question_id": n, "prediction": "A"} for n in ("1", "2", "1")]
    found = scored("SEED_Bench", lines(tmp_path / "p.jsonl", rows), labels)
    assert (found["score"], found["n"]) == (50, 2)
    lines(tmp_path / "p.jsonl", [*rows, {"question_id": "1", "prediction": "B"}])
    with pytest.raises(SharecapError, match="question 1 appears twice, with different answers"):
        scored("seed-bench", tmp_path / "p.jsonl", labels)
    lines(tmp_path / "p.jsonl", rows)
    lines(labels, [seed("1"), seed("1", "B")])
    with pytest.raises(SharecapError, match="question 1 appears twice, and differs"):
        scored("seed-bench", tmp_path / "p.jsonl", labels)


def test_the_option_with_the_least_loss_is_the_answer_and_a_tie_is_none(tmp_path: Path) -> None:
    official = {"questions": [
        seed("1", choice_a="x", choice_b="y", question_type_id=1, question="?"),
        seed("2", choice_a="x", choice_b="y", question_type_id=1, question="?"),
        seed("v3", choice_a="x", choice_b="y", question_type_id=11, question="?"),
    ]}  # fmt: skip
    rows = [
        {"question_id": "1", "losses": [0.5, 1.5]},
        {"question_id": "2", "losses": [0.5, 0.5]},
        {"question_id": "v3", "losses": [float("nan"), 0.5]},
    ]
    path = lines(tmp_path / "p.jsonl", rows)
    found = scored("seed-bench", path, whole(tmp_path / "SEED-Bench.json", official))
    assert found["sub"] == {
        "image": 50,
        "video": 0,
        "all": pytest.approx(100 / 3),
        "type 1": 50,
        "type 11": 0,
    }
    assert (found["n"], found["failed"]) == (2, 2)


def test_the_label_sets_of_seed_bench_are_told_apart(tmp_path: Path) -> None:
    labels = lines(tmp_path / "l.jsonl", [seed("1"), seed("v2")])
    rows = [{"question_id": n, "prediction": "A"} for n in ("1", "v2", "v3")]
    found = scored("seed-bench", lines(tmp_path / "p.jsonl", rows), labels)
    assert found["notes"] == ["1 predictions are for questions that these labels lack, and were left out"]
    with pytest.raises(SharecapError, match=r"1 of 2 items have no prediction \(first: 1\)"):
        scored("seed-bench", lines(tmp_path / "p.jsonl", rows[1:]), labels)
    with pytest.raises(SharecapError, match="none of the 1 predictions is for a question"):
        scored("seed-bench", lines(tmp_path / "p.jsonl", rows[2:]), labels)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b: the dog", "B"), ("(C) x", "C"), ("Option D", "D"), ("The answer is a", "A"),
        ("Apple", "A"), ("[B]", None), ("the answer is (B)", None), ("", None), ("E", None),
        ("It is B", None),
    ],
)  # fmt: skip
def test_mmstar_takes_the_first_letter_or_what_follows_three_openings(text: str, letter: str | None) -> None:
    assert mmstar.parse(SAMPLE, text) == letter


def test_mmstar_is_a_mean_over_items_and_shows_words_taken_for_letters(tmp_path: Path) -> None:
    header = ["index", "question", "answer", "category", "l2_category", "prediction"]
    rows = [
        [0, "?", "A", "math", "x", "Apples"],
        [1, "?", "B", "math", "x", "b"],
        [2, "?", "C", "logic", "y", None],
    ]
    found = scored("mmstar", sheet(tmp_path / "p.xlsx", [header, *rows]))
    assert found["score"] == pytest.approx(200 / 3)
    assert found["sub"]["category: math"] == 100
    assert found["failed"] == 1
    assert found["notes"] == [
        "1 answers start with a word; its first letter counts, as the rule has it",
        "3 items; the benchmark has 1,500",
    ]


QBENCH = [
    {"question": "How?", "img_path": "a.jpg", "candidates": ["High", "Low"], "correct_ans": "Low", "type": 2},
    {"question": "Is it?", "img_path": "b.jpg", "candidates": ["Yes", "No"], "correct_ans": "No", "type": 0},
]


@pytest.mark.parametrize(
    "rows",
    [
        [{**row, "response": text} for row, text in zip(QBENCH, ("B", "Yes"), strict=True)],
        [{"question_id": i, "text": text} for i, text in enumerate(("Low.", "A. Yes"))],
    ],
)
def test_qbench_answers_are_known_by_image_or_by_number(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    labels = whole(tmp_path / "dev.json", QBENCH)
    found = scored("Q-Bench", lines(tmp_path / "p.jsonl", rows), labels)
    assert found["sub"] == {"accuracy": 50, "type 0: yes/no": 0, "type 2: how": 100}


def test_gqa_forgives_case_and_a_final_period_and_nothing_else(tmp_path: Path) -> None:
    asked = {str(i): {"question": "?", "answer": "left", "imageId": "i"} for i in range(4)}
    texts = ("Left.", "left", "the left", " left")
    rows = [{"questionId": str(i), "prediction": text} for i, text in enumerate(texts)]
    found = scored("gqa", whole(tmp_path / "p.json", rows), whole(tmp_path / "q.json", asked))
    assert found["score"] == 50


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_a_circular_group_may_have_more_or_fewer_passes_than_options(tmp_path: Path, copies: int) -> None:
    header = ["index", "question", "A", "B", "C", "answer", "prediction"]
    rows = [[7 + k * 1_000_000, "?", "x", "y", "z", "ABC"[k % 3], "ABC"[k % 3]] for k in range(copies)]
    found = scored("mmbench", sheet(tmp_path / "p.xlsx", [header, *rows]))
    assert (found["score"], found["n"]) == (100, 1)
    rows[-1][-1] = "D"
    assert scored("mmbench", sheet(tmp_path / "p.xlsx", [header, *rows]))["score"] == 0


def test_chinese_answers_in_words_are_read_and_the_task_has_its_own_name(tmp_path: Path) -> None:
    header = ["index", "question", "A", "B", "answer", "prediction"]
    path = sheet(
        tmp_path / "p.xlsx", [header, [1, "?", "猫", "狗", "B", "答案是B"], [2, "?", "猫", "狗", "A", "猫"]]
    )
    found = scored("MMBench_CN", path)
    assert (found["benchmark"], found["score"]) == ("mmbench-cn", 100)


def test_mme_questions_with_a_doubled_space_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "MME" / "count"
    folder.mkdir(parents=True)
    (folder / "0001.txt").write_text(
        "Is it one?  Please answer yes or no.\tYes\nIs it two? Please answer yes or no.\tNo\n"
    )
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"question_id": "count/0001.png", "prompt": f"Is it {n}?{suffix}", "text": text}
        for n, text in (("one", "Yes"), ("two", "No"))
    ]
    found = scored("mme", lines(tmp_path / "a.jsonl", rows), tmp_path / "MME")
    assert found["sub"]["count"] == 200
    with pytest.raises(SharecapError, match=r"item count/0001\.jpg#2 appears twice"):
        scored("mme", lines(tmp_path / "a.jsonl", [*rows, rows[1]]), tmp_path / "MME")
    rows[0]["prompt"] = "Is it three?"
    with pytest.raises(SharecapError, match="no question 'Is it three"):
        scored("mme", lines(tmp_path / "a.jsonl", rows), tmp_path / "MME")


def test_json_out_has_the_fields_that_scripts_read(tmp_path: Path) -> None:
    labels = whole(tmp_path / "dev.json", [{**QBENCH[1], "img_path": f"{i}.jpg"} for i in range(6)])
    rows = [{"question_id": i, "text": "B"} for i in range(6)]
    found = json.loads(json.dumps(scored("qbench", lines(tmp_path / "p.jsonl", rows), labels)))
    assert {"benchmark", "metric", "score", "ci95", "n", "failed", "sub"} <= set(found)
    assert (found["benchmark"], found["ci95"], found["n"], found["failed"]) == ("qbench", [100, 100], 6, 0)


def test_seeds_official_labels_are_told_by_their_content(tmp_path: Path) -> None:
    rows = [{"question_id": "1", "answer": "B", "choice_a": "x", "choice_b": "y", "question_type_id": 2}]
    said = lines(tmp_path / "p.jsonl", [{"question_id": "1", "prediction": "B"}])
    for name in ("SEED-Bench.json", "labels.txt", "labels"):
        labels = whole(tmp_path / name, {"questions": rows})
        assert scored("seed-bench", said, labels)["sub"]["type 2"] == 100
    with pytest.raises(SharecapError, match="expected a list 'questions'"):
        scored("seed-bench", said, whole(tmp_path / "other", {"questions": {}}))


@pytest.mark.parametrize("kind", ["two", "", 2.5, [3], -1])
def test_a_type_of_seeds_that_is_no_number_is_named(tmp_path: Path, kind: object) -> None:
    rows = [{"question_id": "q7", "answer": "B", "question_type_id": kind}]
    said = lines(tmp_path / "p.jsonl", [{"question_id": "q7", "prediction": "B"}])
    with pytest.raises(SharecapError, match=r"question q7: question_type_id .* is no number"):
        scored("seed-bench", said, lines(tmp_path / "l.jsonl", rows))


def test_a_null_of_qbench_s_is_no_answer_even_where_none_is_an_option(tmp_path: Path) -> None:
    row = {"question": "?", "img_path": "a.jpg", "candidates": ["Some", "None"], "correct_ans": "None"}
    path = lines(tmp_path / "p.jsonl", [{**row, "response": None}])
    found = scored("qbench", path, whole(tmp_path / "dev.json", [row]))
    assert (found["score"], found["failed"]) == (0, 1)


def test_qbench_s_upload_holds_its_labels_and_may_have_no_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({**row, "response": "B"}) for row in QBENCH))
    assert scored("qbench", path)["score"] == 100
    path.write_text("".join(json.dumps({"img_path": row["img_path"], "response": "B"}) for row in QBENCH))
    assert scored("qbench", path, whole(tmp_path / "dev.json", QBENCH))["score"] == 100
    with pytest.raises(SharecapError, match=r"qbench predictions hold no labels.*add --labels"):
        scored("qbench", path)


def test_seed_s_labels_say_themselves_what_is_a_video(tmp_path: Path) -> None:
    labels = lines(tmp_path / "l.jsonl", [seed("1", data_type="image"), seed("2", "B", data_type="video")])
    said = lines(tmp_path / "p.jsonl", [{"question_id": n, "prediction": "A"} for n in ("1", "2")])
    found = scored("seed-bench", said, labels)
    assert found["sub"] == {"image": 100, "video": 0, "all": 50}


def test_seed_s_images_alone_are_scored_where_all_of_them_are_there(tmp_path: Path) -> None:
    labels = lines(tmp_path / "l.jsonl", [seed("1"), seed("2", "B"), seed("v3")])
    rows = [{"question_id": n, "prediction": "A"} for n in ("1", "2", "v3")]
    found = scored("seed-bench", lines(tmp_path / "p.jsonl", rows[:2]), labels)
    assert (found["sub"], found["n"]) == ({"image": 50}, 2)
    assert found["notes"] == [
        "none of the 1 questions about videos has a prediction: images alone are scored"
    ]
    for some in (rows[:1], rows[1:], rows[2:]):
        with pytest.raises(SharecapError, match="items have no prediction"):
            scored("seed-bench", lines(tmp_path / "p.jsonl", some), labels)


def test_labels_in_small_letters_are_letters_and_two_letters_are_none(tmp_path: Path) -> None:
    said = lines(tmp_path / "p.jsonl", [{"question_id": "1", "prediction": "B"}])
    assert scored("seed-bench", said, lines(tmp_path / "l.jsonl", [seed("1", "b")]))["score"] == 100
    with pytest.raises(SharecapError, match="the answer 'AB' is no option's letter"):
        scored("seed-bench", said, lines(tmp_path / "l.jsonl", [seed("1", "AB")]))
    header = ["index", "question", "A", "B", "answer", "prediction"]
    assert (
        scored("mmbench", sheet(tmp_path / "p.xlsx", [header, [1, "?", "x", "y", "b", "B"]]))["score"] == 100
    )
