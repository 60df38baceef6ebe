"""Ten answers a question: normalisation, soft accuracy by position, the rules, wrong files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.errors import SharecapError, UsageError
from sharecap.evals import ten_answers
from sharecap.evals.benchmarks import textvqa, vizwiz, vqav2
from sharecap.evals.soft_accuracy import RULES, normalised, official_accuracy, soft_accuracy
from sharecap.evals.task import grade
from tests.evals.small import pictures


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Yes", "yes"),
        ("The two dogs.", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("twas", "'twas"),
        ("John's hat", "john 's hat"),
        ("1,000", "1000"),
        ("red-white", "red white"),
        ("red - white", "red white"),
        ("3.5 m.", "3.5 m"),
        ("a\nb\tc", "b c"),
        ("  a  ", ""),
    ],
)
def test_answers_are_normalised_as_the_evaluation_servers_do(text: str, form: str) -> None:
    assert normalised(text) == form


@given(st.text(max_size=30))
def test_normalised_text_has_no_capital_ascii_and_no_doubled_spaces(text: str) -> None:
    form = normalised(text)
    assert form == form.strip()
    assert "  " not in form
    assert form == form.lower()


@given(st.integers(1, 12), st.data())
def test_soft_accuracy_is_the_mean_over_people_left_out(n: int, data: st.DataObject) -> None:
    matches = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    left_out = [min(1, sum(matches[:i] + matches[i + 1 :]) / 3) for i in range(n)]
    assert soft_accuracy(matches) == pytest.approx(sum(left_out) / n)


@pytest.mark.parametrize(("agree", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_four_people_of_ten_make_an_answer_right(agree: int, score: float) -> None:
    assert soft_accuracy([True] * agree + [False] * (10 - agree)) == pytest.approx(score)


def test_the_server_normalises_only_where_people_disagree() -> None:
    assert official_accuracy("Yes", ["yes"] * 10) == 0
    assert official_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1


def benchmark(directory: Path, answers: list[str], **annotation: Any) -> Path:
    """One question per answer, each given by all ten people."""
    directory.mkdir(exist_ok=True)
    questions = [
        {"question_id": 10 + i, "image_id": i, "question": f"What {i}?"} for i in range(len(answers))
    ]
    people = [
        {"question_id": 10 + i, "answers": [{"answer": a}] * 10, **annotation} for i, a in enumerate(answers)
    ]
    (directory / "v2_questions.json").write_text(
        json.dumps({"data_subtype": "val2014", "questions": questions})
    )
    (directory / "v2_annotations.json").write_text(json.dumps({"annotations": people}))
    return directory


def predictions(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_scores_are_split_by_answer_type_and_name_their_rule(tmp_path: Path) -> None:
    data = benchmark(tmp_path / "d", ["red", "blue"], answer_type="other", question_type="what color")
    path = predictions(
        tmp_path / "p.json", [{"question_id": 10, "answer": "Red"}, {"question_id": 11, "answer": ""}]
    )
    task, answers = vqav2.read_predictions(path, data, "server")
    records = grade(task, answers, path)
    measures = task.measure(records)
    assert [r.score for r in records] == [1.0, 0.0]
    assert [r.parsed for r in records] == ["red", None]
    assert set(measures.scores) == {"accuracy", "answer_type: other"}
    assert measures.notes == ("scoring rule: server",)
    assert records[0].kind == "what color"


def test_llava_answers_are_matched_by_image_and_question(tmp_path: Path) -> None:
    data = benchmark(tmp_path / "d", ["red", "blue"])
    lines = [{"question_id": "1", "prompt": "WHAT 1?\nOCR: x", "text": "blue"},
             {"question_id": "0", "prompt": "What 0?\n", "text": "red"}]  # fmt: skip
    path = predictions(tmp_path / "p.jsonl", "\n".join(json.dumps(line) for line in lines))
    task, answers = textvqa.read_predictions(path, data)
    assert [r.score for r in grade(task, answers, path)] == [1.0, 1.0]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("folder", ["val2014", "images", "."])
def test_images_are_found_by_the_official_name(tmp_path: Path, folder: str, suffix: str) -> None:
    data = benchmark(tmp_path / "vqav2", ["red"])
    (drawn,) = pictures(tmp_path / "drawn", 1)
    (data / folder).mkdir(exist_ok=True)
    image = data / folder / f"COCO_val2014_000000000000.{suffix}"
    image.write_bytes(drawn.read_bytes())
    (task,) = vqav2.read_tasks(data)
    assert task.samples[0].images[0].resolve() == image.resolve()
    assert task.prompt(task.samples[0]) == "What 0?\nAnswer the question using a single word or phrase."


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SharecapError, match=r"image of a question is missing.*COCO_val2014_000000000000\.jpg"
    ):
        vqav2.read_tasks(benchmark(tmp_path / "vqav2", ["red"]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "line 1 is not JSON"),
        ([{"question_id": 10}], "column missing: text|prediction|response|answer"),
        ([1, 2], "entry 1 is not a JSON object"),
        ([{"question_id": 99, "answer": "red"}], "no question 99 in the benchmark"),
        ([{"question_id": 10, "answer": "red"}] * 2, "item 10 appears twice"),
        ([], "holds no rows"),
        ([{"question_id": 10, "answer": "red"}], r"1 of 2 items have no prediction \(first: 11\)"),
    ],
)
def test_wrong_predictions_are_one_clear_line(tmp_path: Path, content: Any, words: str) -> None:
    data = benchmark(tmp_path / "d", ["red", "blue"])
    path = predictions(tmp_path / "p.json", content)
    with pytest.raises(SharecapError, match=words):
        grade(*vqav2.read_predictions(path, data, "server"), path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v2_questions.json", "nonsense", "not JSON"),
        ("v2_questions.json", "[]", "expected a list 'questions'"),
        ("v2_questions.json", '{"questions": [7]}', "expected a list 'questions'"),
        ("v2_annotations.json", '{"annotations": []}', "2 questions have no annotation"),
        (
            "v2_annotations.json",
            '{"annotations": [{"question_id": 10, "answers": []}]}',
            "question 10 has no people's answers",
        ),
        ("more_questions.json", "{}", "2 files with 'question' in their name"),
    ],
)
def test_a_wrong_benchmark_is_one_clear_line(tmp_path: Path, name: str, content: str, words: str) -> None:
    data = benchmark(tmp_path / "d", ["red", "blue"])
    (data / name).write_text(content)
    with pytest.raises(SharecapError, match=words):
        ten_answers.read_samples(data)


def test_an_unknown_rule_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="m4c, server, server-raw"):
        ten_answers.task("vqav2", [], ten_answers.asked, "strict")


def vizwiz_file(directory: Path, answers: list[list[str]]) -> Path:
    rows = [
        {
            "image": f"VizWiz_val_{i:08d}.jpg",
            "question": "What is this?",
            "answers": [{"answer": a, "answer_confidence": "yes"} for a in people],
            "answer_type": "other",
        }
        for i, people in enumerate(answers)
    ]
    return predictions(directory / "val.json", rows)


def test_a_constant_answer_keeps_its_score_where_people_carry_no_id(tmp_path: Path) -> None:
    """By position: comparing entries would drop all ten "unanswerable" at once and give 0."""
    few = ["unanswerable"] * 3 + ["soap"] * 7
    labels = vizwiz_file(tmp_path, [["unanswerable"] * 10, few])
    (tmp_path / "p").mkdir()
    rows = [{"image": f"VizWiz_val_{i:08d}.jpg", "answer": "Unanswerable"} for i in range(2)]
    path = predictions(tmp_path / "p" / "upload.json", rows)
    records = grade(*vizwiz.read_predictions(path, labels), path)
    assert [r.score for r in records] == pytest.approx([1.0, 0.9])


def test_numbered_answers_find_their_vizwiz_image(tmp_path: Path) -> None:
    labels = vizwiz_file(tmp_path, [["soap"] * 10, ["tea"] * 10])
    lines = [
        {"question_id": 1, "prompt": "?", "text": "Tea"},
        {"question_id": 0, "prompt": "?", "text": "Soap"},
    ]
    path = predictions(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)))
    assert [r.score for r in grade(*vizwiz.read_predictions(path, labels), path)] == [1.0, 1.0]


def test_a_split_without_answers_says_where_it_is_scored(tmp_path: Path) -> None:
    path = predictions(tmp_path / "test.json", [{"image": "a.jpg", "question": "?"}])
    with pytest.raises(SharecapError, match=r"without people's answers.*its server scores the upload"):
        ten_answers.read_samples(path)


def test_the_orders_of_normalising_differ_and_are_told_apart() -> None:
    """The same answer, before and after: three rules, three scores."""
    unanimous, divided = ["Yes."] * 10, ["Yes."] * 9 + ["no"]
    found = {name: [rule("Yes" if name == "server-raw" else parse("Yes"), p) for p in (unanimous, divided)]
             for name, (parse, rule) in RULES.items()}  # fmt: skip
    assert found == {"m4c": [1.0, 1.0], "server": [0.0, 1.0], "server-raw": [0.0, 1.0]}


def test_textvqas_own_file_and_an_annotation_file_alone_are_labels_too(tmp_path: Path) -> None:
    row = {"question_id": 5, "image_id": "x", "question": "what?", "answers": ["red"] * 10}
    path = predictions(tmp_path / "p.jsonl", '{"question_id": 5, "prompt": "what?", "text": "red"}\n')
    own = predictions(tmp_path / "TextVQA_val.json", {"data": [row]})
    alone = predictions(tmp_path / "annotations.json", {"annotations": [row]})
    for labels in (own, alone):
        assert [r.score for r in grade(*textvqa.read_predictions(path, labels), path)] == [1.0]


def test_the_prompts_are_those_of_the_papers_scripts(tmp_path: Path) -> None:
    task, _ = vizwiz.read_predictions(
        predictions(tmp_path / "p.json", [{"image": "VizWiz_val_00000000.jpg", "answer": "a"}]),
        vizwiz_file(tmp_path, [["a"] * 10]),
    )
    assert task.prompt(task.samples[0]).split("\n") == [
        "What is this?",
        "When the provided information is insufficient, respond with 'Unanswerable'.",
        "Answer the question using a single word or phrase.",
    ]


def test_of_several_question_files_that_of_the_annotations_split_is_taken(tmp_path: Path) -> None:
    for split, number in (("train2014", 1), ("val2014", 2)):
        row = {"question_id": number, "image_id": number, "question": split}
        predictions(tmp_path / f"{split}_questions.json", {"data_subtype": split, "questions": [row]})
        people = {"question_id": number, "answers": [{"answer": "red"}] * 10}
        predictions(tmp_path / f"{split}_annotations.json", {"data_subtype": split, "annotations": [people]})
    (sample,) = ten_answers.read_samples(tmp_path / "val2014_annotations.json")
    assert (sample.id, sample.question) == ("2", "val2014")
    with pytest.raises(SharecapError, match="2 files with 'annotation' in their name"):
        ten_answers.read_samples(tmp_path)


@pytest.mark.parametrize(
    "prompt",
    [
        "OCR tokens: WHAT, 0. Question: What 1? Short answer:",
        "OCR tokens: a\nb. Question: What\n1? Short answer: ",
        "Reference OCR token: x, y\nWhat 1?\nAnswer the question using a single word or phrase.",
        "What 1?\nReference OCR token: x, y\nAnswer the question using a single word or phrase.",
    ],
)
def test_the_question_is_found_in_every_prompt_of_llava_s(tmp_path: Path, prompt: str) -> None:
    data = benchmark(tmp_path / "d", ["red", "blue"])
    if "What\n1" in prompt:
        file = data / "v2_questions.json"
        file.write_text(file.read_text().replace("What 1?", "What\\n1?"))
    rows = [{"question_id": "1", "prompt": prompt, "text": "blue"}]
    path = predictions(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert textvqa.read_predictions(path, data)[1] == {"11": "blue"}


def test_annotations_without_pictures_are_scored_question_by_question(tmp_path: Path) -> None:
    people = [{"question_id": i, "answers": [{"answer": "red"}] * 10} for i in range(2)]
    labels = predictions(tmp_path / "annotations.json", {"annotations": people})
    path = predictions(tmp_path / "p.json", [{"question_id": i, "answer": "red"} for i in range(2)])
    records = grade(*vqav2.read_predictions(path, labels), path)
    assert [r.score for r in records] == [1, 1]
    assert len({r.cluster for r in records}) == 2
    benchmark(tmp_path / "d", ["red"])
    file = tmp_path / "d" / "v2_questions.json"
    file.write_text(file.read_text().replace('"image_id": 0, ', ""))
    assert [s.question for s in ten_answers.read_samples(tmp_path / "d")] == ["What 0?"]


@pytest.mark.parametrize(
    ("rule", "people", "score"),
    [
        ("m4c", ["?"] * 10, 1), ("m4c", ["?"] * 3 + ["red"] * 7, 0.9), ("server", ["?"] * 10, 0),
        ("server", ["?"] * 9 + ["red"], 1), ("server-raw", [""] * 10, 1), ("m4c", ["0"] * 10, 0),
    ],
)  # fmt: skip
def test_no_answer_is_that_of_people_whose_answer_is_normalised_to_nothing(
    tmp_path: Path, rule: str, people: list[str], score: float
) -> None:
    rows = [{"question_id": 1, "image_id": 1, "answers": [{"answer": answer} for answer in people]}]
    labels = predictions(tmp_path / "annotations.json", {"annotations": rows})
    path = predictions(tmp_path / "p.json", [{"question_id": 1, "answer": ""}])
    (record,) = grade(*vqav2.read_predictions(path, labels, rule), path)
    assert record.score == pytest.approx(score)
