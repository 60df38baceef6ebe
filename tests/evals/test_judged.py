"""MM-Vet and LLaVA-Bench: recorded grades become a score only when every one of them can be read."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import llava_bench, mm_vet
from sharecap.evals.comparison import compare_runs
from sharecap.evals.results import Run
from sharecap.evals.suite import read_predictions
from sharecap.evals.task import Sample, grade
from tests.evals.scored import lines, scored, whole

SAMPLE = Sample("1", (), "", "?", None, "", "1")


def reviews(path: Path, pairs: list[Any], first: str = "{} {}\nBecause.") -> Path:
    """A judge's reviews; a text stands as it is."""
    rows = [
        {
            "question_id": i,
            "category": f"llava_bench_{('conv', 'detail')[i % 2]}",
            "content": pair if isinstance(pair, str) else first.format(*pair),
            "tuple": [-1, -1] if isinstance(pair, str) else list(pair),
        }
        for i, pair in enumerate(pairs)
    ]
    return lines(path, rows)


def questions(path: Path, number: int) -> Path:
    return lines(path, [{"question_id": i, "image": f"{i // 2}.jpg", "text": "?"} for i in range(number)])


def test_the_relative_score_is_a_ratio_of_means(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.jsonl", [(8, 4), (2, 2), (9, 9), (5, 5)])
    found = scored("llava-bench", path, questions(tmp_path / "q.jsonl", 4))
    assert found["score"] == pytest.approx(round(100 * 20 / 24, 1))
    assert found["sub"]["conv"] == pytest.approx(round(100 * 13 / 17, 1))


def test_a_failed_review_withholds_the_score(tmp_path: Path) -> None:
    """Averaged in as (-1, -1) it would raise a bad model's score."""
    path = reviews(tmp_path / "r.jsonl", [(8, 4), "I can't say.", (9, 9), (5, 5)])
    found = scored("llava-bench", path, questions(tmp_path / "q.jsonl", 4))
    assert (found["score"], found["ci95"], found["failed"], found["sub"]) == (None, None, 1, {})
    assert found["withheld"] == "1 of 4 reviews have no two scores that can be read"
    task, answers = read_predictions("llava-bench", [path], tmp_path / "q.jsonl", None)
    run = Run("failed", {task.name: grade(task, answers, path)})
    with pytest.raises(SharecapError, match="failed has no score on llava-bench"):
        compare_runs(run, run, resamples=5)


def test_runs_are_averaged_and_must_review_the_same_questions(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q.jsonl", 2)
    one = reviews(tmp_path / "1.jsonl", [(10, 5), (10, 5)])
    two = reviews(tmp_path / "2.jsonl", [(10, 10), (10, 10)], "{}, {}")
    found = scored("llava-bench", [one, two], asked)
    assert (found["score"], found["n"]) == (75, 2)
    assert found["notes"] == ["mean of 2 runs of the judge", "run 1: 50.0", "run 2: 100.0"]
    with pytest.raises(SharecapError, match="1 questions are in the reviews or the labels only"):
        scored("llava-bench", [one, reviews(tmp_path / "3.jsonl", [(1, 1)])], asked)


def test_reviews_of_fewer_than_sixty_questions_are_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match="3 of LLaVA-Bench's 60 questions have a review"):
        scored("llava-bench", reviews(tmp_path / "r.jsonl", [(1, 1)] * 3))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 6\nWell.", "[8.0, 6.0]"),
        ("8.5, 9", "[8.5, 9.0]"),
        ("8", None),
        ("8 6 7", None),
        ("Assistant 1: 8, Assistant 2: 6", None),
        ("-1 -1", None),
        ("80 60", None),
        ("\n8 6", None),
        ("", None),
    ],
)
def test_a_review_has_two_numbers_in_its_first_line(text: str, pair: str | None) -> None:
    assert llava_bench.parse(SAMPLE, text) == pair


@given(st.text(max_size=30))
def test_no_random_text_is_a_review_or_a_grade_unless_it_begins_with_numbers(text: str) -> None:
    if not text[:1].isspace() and not text[:1].isdigit():
        assert llava_bench.parse(SAMPLE, text) is None
        assert mm_vet.parse(SAMPLE, text) is None


def grades(path: Path, texts: dict[str, list[str]]) -> Path:
    """A judge's words, of which no numbers were recorded."""
    return whole(path, {n: {"model": ["g"], "content": t} for n, t in texts.items()})


def vet(path: Path, needs: dict[str, list[str]]) -> Path:
    row = {"imagename": "a.png", "question": "?", "answer": "x"}
    return whole(path, {name: {**row, "capability": capability} for name, capability in needs.items()})


NEEDS = {"v1_0": ["ocr", "math"], "v1_1": ["ocr"], "v1_2": ["rec"]}


def test_grades_are_averaged_over_all_and_over_what_needs_a_capability(tmp_path: Path) -> None:
    path = grades(
        tmp_path / "g.json", {"v1_0": ["1.0", "0.0"], "v1_1": ["0.5", "0.5"], "v1_2": ["0.1\nok", "0.1"]}
    )
    found = scored("mm_vet", path, vet(tmp_path / "mm-vet.json", NEEDS))
    assert found["score"] == pytest.approx(100 * (0.5 + 0.5 + 0.1) / 3)
    assert found["sub"]["ocr"] == pytest.approx(50)
    assert found["sub"]["math"] == pytest.approx(50)
    assert found["sub"]["only ocr_math"] == pytest.approx(50)
    assert found["n"] == 3


@pytest.mark.parametrize("text", ["-1", "1.1", "good", "", "0.5/1", "NaN", "10"])
def test_a_failed_grade_withholds_the_score(tmp_path: Path, text: str) -> None:
    path = grades(tmp_path / "g.json", {"v1_0": ["1.0"], "v1_1": [text], "v1_2": ["0.1"]})
    found = scored("mm_vet", path, vet(tmp_path / "mm-vet.json", NEEDS))
    assert (found["score"], found["withheld"]) == (None, "1 of 3 grades can't be read")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"v1_0": ["1.0"], "v1_1": ["0.5"]}, r"1 of 3 items have no prediction \(first: v1_2#1\)"),
        ({"v1_0": ["1", "1"], "v1_1": ["1"], "v1_2": ["1", "1"]}, "fewer grades than the 2 runs"),
        ({name: ["1.0"] for name in (*NEEDS, "v1_9")}, "1 of 3 items are not in the benchmark"),
    ],
)
def test_grades_of_other_questions_are_refused(
    tmp_path: Path, texts: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(SharecapError, match=words):
        scored("mm-vet", grades(tmp_path / "g.json", texts), vet(tmp_path / "mm-vet.json", NEEDS))


def test_grades_without_labels_must_be_all_of_the_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match="1 of MM-Vet's 218 questions have a grade"):
        scored("mm-vet", grades(tmp_path / "g.json", {"v1_0": ["1.0"]}))


def test_the_recorded_pair_is_averaged_and_not_what_the_text_seems_to_say(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q.jsonl", 2)
    row = {"category": "llava_bench_conv", "content": "10 1\nBecause.", "tuple": [8.0, 6.0]}
    path = lines(tmp_path / "r.jsonl", [{**row, "question_id": i} for i in range(2)])
    assert scored("llava-bench", path, asked)["score"] == 75


@pytest.mark.parametrize("pair", [[-1, -1], [8, 11], [8], [], None, [None, 8], "8 6", [float("nan"), 1]])
def test_a_recorded_pair_outside_the_scale_withholds_the_score(tmp_path: Path, pair: object) -> None:
    asked = questions(tmp_path / "q.jsonl", 1)
    row = {"question_id": 0, "category": "llava_bench_conv", "content": "8 6\nBecause.", "tuple": pair}
    found = scored("llava-bench", lines(tmp_path / "r.jsonl", [row]), asked)
    assert (found["score"], found["failed"]) == (None, 1)


def test_reviews_without_categories_take_them_from_the_questions_or_have_none(tmp_path: Path) -> None:
    pairs = [(10, 5), (10, 10)]
    path = lines(tmp_path / "r.jsonl", [{"question_id": i, "tuple": pair} for i, pair in enumerate(pairs)])
    asked = [{"question_id": i, "image": f"{i}.jpg", "text": "?"} for i in range(2)]
    found = scored("llava-bench", path, lines(tmp_path / "bare.jsonl", asked))
    assert (found["sub"], found["notes"]) == ({"all": 75}, ["no categories given: the score is over all"])
    kinds = [{**row, "category": kind} for row, kind in zip(asked, ("conv", "detail"), strict=True)]
    found = scored("llava-bench", path, lines(tmp_path / "q.jsonl", kinds))
    assert found["sub"] == {"all": 75, "conv": 50, "detail": 100}


def test_a_folder_of_reviews_may_hold_json_files_of_any_ending(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    reviews(tmp_path / "runs" / "1.jsonl", [(10, 5)])
    reviews(tmp_path / "runs" / "2.json", [(10, 10)])
    found = scored("llava-bench", tmp_path / "runs", questions(tmp_path / "q.jsonl", 1))
    assert found["notes"][0] == "mean of 2 runs of the judge"


def recorded(path: Path, **grade: Any) -> Path:
    return whole(path, dict.fromkeys(NEEDS, grade))


@pytest.mark.parametrize("content", [["1.0"], None, "", [""], ["I'd say 0.5"]])
def test_the_recorded_number_is_averaged_whatever_the_text_is(tmp_path: Path, content: object) -> None:
    path = recorded(tmp_path / "g.json", content=content, score=[0.5])
    assert scored("mm-vet", path, vet(tmp_path / "mm-vet.json", NEEDS))["score"] == 50


@pytest.mark.parametrize("mark", [None, -1, 1.1, "good", float("nan"), [0.5], True])
def test_a_recorded_number_that_is_no_grade_withholds_the_score(tmp_path: Path, mark: object) -> None:
    path = recorded(tmp_path / "g.json", content=["0.5"], score=[mark])
    found = scored("mm-vet", path, vet(tmp_path / "mm-vet.json", NEEDS))
    assert (found["score"], found["withheld"]) == (None, "3 of 3 grades can't be read")


def test_fewer_numbers_than_the_judge_s_words_are_no_score(tmp_path: Path) -> None:
    path = recorded(tmp_path / "g.json", content=["0.5", "0.5"], score=[0.5])
    with pytest.raises(SharecapError, match="3 questions have fewer grades than the 2 runs"):
        scored("mm-vet", path, vet(tmp_path / "mm-vet.json", NEEDS))


@pytest.mark.parametrize("score", [0.5, "0.5", {"1": 0.5}])
def test_a_recorded_grade_that_is_no_list_is_not_passed_over_for_the_text(
    tmp_path: Path, score: object
) -> None:
    path = recorded(tmp_path / "g.json", content=["1.0"], score=score)
    with pytest.raises(SharecapError, match="not a file of MM-Vet grades"):
        scored("mm-vet", path, vet(tmp_path / "mm-vet.json", NEEDS))
