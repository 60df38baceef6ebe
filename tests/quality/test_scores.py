"""A layer's scores are whole or as they were, in the page's form, and cost nobody else's."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError, UsageError
from sharecap.quality.scores import Scores, read_scores, scores_path

A, B = "a" * 64, "b" * 64


def written(dataset: Path, *rows: tuple[str, dict[str, float]], by: str = "x", chosen: bool = False) -> Any:
    """The lines of the file after these were put."""
    with Scores(dataset, "one", by, chosen=chosen) as file:
        for image, measures in rows:
            file.put(image, measures)
    return [json.loads(line) for line in scores_path(dataset, "one").read_text().splitlines()]


def theirs(dataset: Path, *lines: dict[str, Any]) -> None:
    scores_path(dataset, "one").parent.mkdir(exist_ok=True)
    scores_path(dataset, "one").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line_has_the_score_its_measure_and_all_measures(tmp_path: Path) -> None:
    assert written(tmp_path, (A, {"x": 0.5, "y": 2}), (B, {"y": 3})) == [
        {"image_id": A, "score": 0.5, "by": "x", "measures": {"x": 0.5, "y": 2}},
        {"image_id": B, "measures": {"y": 3}},
    ]
    assert [one.score for one in read_scores(scores_path(tmp_path, "one"))] == [0.5, None]


def test_a_score_of_ours_is_replaced(tmp_path: Path) -> None:
    written(tmp_path, (A, {"x": 0.5}))
    assert written(tmp_path, (A, {"y": 7.0}), by="y") == [
        {"image_id": A, "score": 7.0, "by": "y", "measures": {"y": 7.0}}
    ]


@pytest.mark.parametrize("said", [{}, {"by": "a judge"}])
def test_what_others_wrote_stays(tmp_path: Path, said: dict[str, str]) -> None:
    mine = {"image_id": A, "score": 0.9, **said, "sentences": ["right", ""], "rater": "Ann"}
    theirs(tmp_path, mine, {"image_id": B, "sentences": ["wrong"]})
    assert written(tmp_path, (A, {"x": 0.5})) == [
        {**mine, "measures": {"x": 0.5}},
        {"image_id": B, "sentences": ["wrong"]},
    ]
    # A second time too; and only where the user chose a measure does it take the place of their score.
    assert written(tmp_path, (A, {"x": 0.4}))[0] == {**mine, "measures": {"x": 0.4}}
    assert written(tmp_path, (A, {"x": 0.4}), chosen=True)[0] == {
        **mine,
        "score": 0.4,
        "by": "x",
        "measures": {"x": 0.4},
    }


def test_a_failure_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    before = written(tmp_path, (A, {"x": 0.5}))
    rows: list[tuple[str, Any]] = [(B, {"x": 0.1}), (A, {"x": object()})]
    with pytest.raises(TypeError):
        written(tmp_path, *rows)
    assert [json.loads(line) for line in scores_path(tmp_path, "one").read_text().splitlines()] == before
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["one.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[]",
        '{"image_id": "7"}',
        f'{{"image_id": "{A}", "score": "high"}}',
        f'{{"image_id": "{A}", "score": NaN}}',
        f'{{"image_id": "{A}", "sentences": ["maybe"]}}',
        f'{{"image_id": "{A}", "measures": {{"x": null}}}}',
        f'{{"image_id": "{A}", "note": "\\ud800"}}',
    ],
)
def test_a_bad_line_is_named_and_nothing_is_overwritten(tmp_path: Path, line: str) -> None:
    path = scores_path(tmp_path, "one")
    path.parent.mkdir()
    path.write_text(f'{{"image_id": "{B}"}}\n{line}\n')
    with pytest.raises(SharecapError, match="bad score in line 2"):
        written(tmp_path, (A, {"x": 1}))
    assert path.read_text().endswith(f"\n{line}\n")


def test_no_file_and_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no scores: .*one\.jsonl\. make them: sharecap quality"):
        list(read_scores(scores_path(tmp_path, "one")))
    scores_path(tmp_path, "one").parent.mkdir()
    scores_path(tmp_path, "one").write_bytes(b"\xff\n")
    with pytest.raises(SharecapError, match="cannot read the scores"):
        list(read_scores(scores_path(tmp_path, "one")))
