"""Detailed captions against references: read, asked, scored by ROUGE-L; CAPTURE only by its own package."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.errors import SharecapError
from sharecap.evals.benchmarks import capture
from sharecap.evals.benchmarks.detailed_captions import common, rouge_l, words_of
from sharecap.evals.results import read_items
from tests.evals.small import pictures

SAID = {"a": "A red dog runs on grass.", "b": "A blue cat sleeps."}
TOLD = {"a": ["A red dog on wet grass.", "The dog runs."], "b": ["A white cat."]}

texts = st.lists(st.sampled_from(["a", "red", "dog", "on", "grass", "."]), max_size=9).map(" ".join)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The benchmark in its folder, with pictures 0.png and 1.png."""
    home = tmp_path / "b" / "detailed-captions"
    home.mkdir(parents=True)
    pictures(home / "images", 2)
    rows = [
        {"id": name, "image": f"{i}.png", "references": told} for i, (name, told) in enumerate(TOLD.items())
    ]
    (home / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"id": n, "caption": t}) + "\n" for n, t in SAID.items()))
    return path


def invoke(*words: str | Path) -> Any:
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=True)
    if isinstance(done.exception, SharecapError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@given(texts, st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_rouge_l_is_that_of_pycocoevalcap_on_the_same_words(caption: str, references: list[str]) -> None:
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    said, told = " ".join(words_of(caption)), [" ".join(words_of(text)) for text in references]
    if not said or not all(told):
        assert rouge_l("", references) == 0.0
        return
    assert rouge_l(caption, references) == pytest.approx(rouge.Rouge().calc_score([said], told), abs=1e-12)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_longest_common_subsequence_is_that_of_the_plain_table(one: list[str], other: list[str]) -> None:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, x in enumerate(one):
        for j, y in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert common(one, other) == table[-1][-1]


@given(st.text(max_size=60))
def test_any_text_scores_between_nothing_and_all_and_itself_scores_all(text: str) -> None:
    assert 0.0 <= rouge_l(text, ["A red dog."]) <= 1.0
    if words_of(text):
        assert rouge_l(text, [text]) == pytest.approx(1.0)


def test_captions_are_scored_and_compared_against_their_references(folder: Path, captions: Path) -> None:
    found = invoke(
        "score",
        "detailed-captions",
        "--predictions",
        captions,
        "--labels",
        folder,
        "--to",
        folder.parent / "r",
    )
    # a: of 6 words, 5 in order in the first reference of 6, all 3 of the second P 5/6, R 5/6
    first = (1 + 1.44) * (5 / 6) * (5 / 6) / (5 / 6 + 1.44 * 5 / 6)
    second = (1 + 1.44) * (2 / 4) * (2 / 3) / (2 / 3 + 1.44 * 2 / 4)
    assert found["score"] == pytest.approx(50 * (first + second))
    assert found["metric"] == "ROUGE_L"
    assert found["sub"]["avg_words"] == 5.0
    assert "published metric is CAPTURE" in " ".join(found["notes"])
    other = captions.with_name("other.jsonl")
    other.write_text("".join(json.dumps({"image_id": n, "text": t[0]}) + "\n" for n, t in TOLD.items()))
    labels = folder / "mine.jsonl"
    rest = ("--labels", labels, "--to", folder.parent / "s")
    assert invoke("score", "detailed-captions", "--predictions", other, *rest)["score"] == pytest.approx(100)
    pair = invoke("compare", folder.parent / "r", folder.parent / "s")["comparisons"][0]
    difference = pair["benchmarks"]["detailed-captions"]["ROUGE_L"]["difference"]
    assert difference["value"] == pytest.approx(50 * (first + second) - 100)


def test_a_model_is_asked_to_describe_and_scored(folder: Path, tmp_path: Path) -> None:
    found = invoke("eval", "constant:A white cat.", "--benchmarks", folder.parent, "--to", tmp_path / "run")
    scores = found["benchmarks"]["detailed-captions"]["scores"]
    first, second = read_items(tmp_path / "run" / "items.jsonl")
    assert first.prompt == "Describe this image in detail."
    assert (second.score, first.score < 0.6) == (1.0, True)
    assert scores["ROUGE_L"]["value"] == pytest.approx(50 * (1 + first.score))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "image": "0.png"}, "column missing: references|reference"),
        ({"id": "a", "image": "0.png", "references": []}, "item a has no reference in words"),
        ({"id": "a", "image": "0.png", "references": [" . "]}, "item a has no reference in words"),
        ({"id": "a", "image": "0.png", "references": "one"}, "item a has no reference in words"),
        ({"id": "a", "image": "0.png", "reference": None}, "item a has no reference in words"),
        ({"id": "a", "image": "9.png", "reference": "A dog."}, "image of a question is missing"),
        ({"id": "a", "image": ["x"], "reference": "A dog."}, "image of a question is missing"),
    ],
)
def test_rows_that_can_t_be_asked_are_one_line(folder: Path, row: dict[str, Any], words: str) -> None:
    (folder / "mine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SharecapError, match=re.escape(words)) as e:
        invoke("eval", "constant:x", "--benchmarks", folder.parent, "--to", folder.parent / "run")
    assert "\n" not in str(e.value)


def test_capture_without_its_package_says_how_to_get_it(
    folder: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "capture_metric.capture", None)
    capture._opened.cache_clear()
    words = (
        r"CAPTURE's own package can't be used .*\. pip install 'sharecap\[capture\]', on a machine with a GPU"
    )
    with pytest.raises(SharecapError, match=words):
        invoke("score", "capture", "--predictions", captions, "--labels", folder)
    with pytest.raises(SharecapError, match=words):
        invoke(
            "eval", "constant:x", "--benchmarks", folder.parent, "--only", "capture", "--to", folder / "run"
        )


class Scorer:
    """Has what sharecap calls of `capture_metric` 0.1.13, over graphs whose objects are the words."""

    def parse_samples(self, samples: list[Any], device: Any) -> list[Any]:
        assert str(device) == "cuda:0"
        return [(n, words_of(text), {"dog": {"red"}}, {("dog", "on", "grass")}) for n, text in samples]

    def compute_f_score(self, truth: Any, said: Any) -> tuple[float, ...]:
        for objects, attributes, relations in (truth, said):
            assert (attributes, relations) == ({"dog": ["red"]}, [("dog", "on", "grass")])
            assert objects == sorted(objects)
        return len(set(truth[0]) & set(said[0])) / len(set(truth[0])), 0.0


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's place taken by `Scorer`: its models and GPU are not here, its numbers aren't checked."""
    module = ModuleType("capture_metric.capture")
    module.CAPTURE = Scorer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "capture_metric", ModuleType("capture_metric"))
    monkeypatch.setitem(sys.modules, "capture_metric.capture", module)
    monkeypatch.setattr("sharecap.evals.benchmarks.capture.importlib.metadata.version", lambda _: "0.1.13")
    capture._opened.cache_clear()
    capture._graph.cache_clear()
    yield
    capture._opened.cache_clear()
    capture._graph.cache_clear()


@pytest.mark.usefixtures("package")
def test_capture_is_the_mean_over_references_and_keeps_each_graph(folder: Path, captions: Path) -> None:
    run = folder.parent / "run"
    found = invoke("score", "capture", "--predictions", captions, "--labels", folder, "--to", run)
    assert (found["metric"], found["notes"]) == ("CAPTURE", ["computed by capture_metric 0.1.13"])
    assert found["score"] == pytest.approx(50 * ((5 / 6 + 2 / 3) / 2 + 2 / 3))
    first, _ = read_items(run / "items.jsonl")
    assert json.loads(first.parsed or "")[1:] == [{"dog": ["red"]}, [["dog", "on", "grass"]]]


@pytest.mark.usefixtures("package")
def test_models_of_capture_that_can_t_be_loaded_are_one_line(
    folder: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object) -> None:
        raise OSError("couldn't connect\n to the hub")

    monkeypatch.setattr(Scorer, "parse_samples", parse)
    with pytest.raises(SharecapError, match=r"models can't be loaded \(couldn't connect to the hub\)"):
        invoke("score", "capture", "--predictions", captions, "--labels", folder)
