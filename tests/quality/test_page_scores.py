"""Measures and verdicts share the page's file: whoever writes last loses nothing of the other's."""

import json
from pathlib import Path
from typing import Any

from sharecap.quality.scores import Scores, scores_path
from sharecap.quality.verdicts import JUDGE, Verdict, write_for_page

IMAGES = ["a" * 64, "b" * 64]
TEXTS = dict.fromkeys(IMAGES, "A red cat sits. A blue dog runs.")


def lines(dataset: Path) -> dict[str, Any]:
    found = map(json.loads, scores_path(dataset, "x").read_text().splitlines())
    return {line["image_id"]: line for line in found}


def measured(dataset: Path) -> None:
    with Scores(dataset, "x", "words", chosen=False) as file:
        for image in IMAGES:
            file.put(image, {"words": 8.0})


def judged(dataset: Path, images: list[str]) -> bool:
    verdicts = [
        Verdict(image, "x", sentence=n, claim="claim", verdict=said, raw="raw", judge="judge")
        for image in images
        for n, said in enumerate(("supported", "contradicted"))
    ]
    return write_for_page(dataset, "x", verdicts, TEXTS)


def test_a_judge_adds_to_measures_and_measures_to_a_judge(tmp_path: Path) -> None:
    measured(tmp_path)
    assert judged(tmp_path, IMAGES[:1])
    for _ in range(2):
        found = lines(tmp_path)
        first, second = (found[image] for image in IMAGES)
        assert (first["score"], first["by"], first["sentences"]) == (0.5, JUDGE, ["right", "wrong"])
        assert first["measures"] == second["measures"] == {"words": 8.0}
        measured(tmp_path)  # once more, after the judge
    assert judged(tmp_path, [])  # nothing is judged any more
    assert all("sentences" not in line and line["measures"] for line in lines(tmp_path).values())


def test_what_people_gave_stays(tmp_path: Path) -> None:
    scores_path(tmp_path, "x").parent.mkdir()
    given = json.dumps({"image_id": IMAGES[0], "score": 0.9}) + "\n"
    scores_path(tmp_path, "x").write_text(given)
    assert not judged(tmp_path, IMAGES)
    assert scores_path(tmp_path, "x").read_text() == given


def test_a_judge_alone_leaves_no_empty_file(tmp_path: Path) -> None:
    assert judged(tmp_path, IMAGES)
    assert judged(tmp_path, [])
    assert not scores_path(tmp_path, "x").exists()
