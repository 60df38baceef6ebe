"""Preference studies: blind, fair, resumable; the obvious answer where one side is plainly worse."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from sharecap.captions.layer import write_layer
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.records import Caption
from sharecap.web.study import VOTES, as_csv, as_label_studio, create, open_study, vote, votes

from .conftest import Server, serving


def test_order_and_sides_are_each_rater_s_own_and_stay_the_same(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["ann", "bob"], images=11, repeats=4, seed=3)
    ann, bob = study.trials("ann"), study.trials("bob")
    assert ann == open_study(dataset, "s").trials("ann") != bob
    for trials in (ann, bob):
        assert sorted(t.pair for t in trials if not t.repeat) == list(range(11))
        assert [t.repeat for t in trials] == [False] * 11 + [True] * 4
        assert len({t.pair for t in trials if t.repeat}) == 4
    sides = Counter(t.left for seed in range(40) for t in study.trials(f"rater {seed}"))
    assert abs(sides[0] - sides[1]) < 100  # of 600: four standard deviations


def test_three_layers_are_compared_pair_by_pair(dataset: Path) -> None:
    ids = [image.id for image in Catalog.open(dataset)]
    write_layer(
        dataset, "third", [Caption(i, "", f"Third {n}.", "x", "p", "stop") for n, i in enumerate(ids)]
    )
    study = create(dataset, "s", ["teacher", "captioner", "third"], ["ann"], images=4, repeats=0)
    assert Counter(pair.layers for pair in study.pairs) == {
        ("teacher", "captioner"): 4,
        ("teacher", "third"): 4,
        ("captioner", "third"): 4,
    }


def test_only_images_with_different_captions_in_all_layers_are_drawn(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=12, repeats=0)
    assert len(study.pairs) == 11  # the captioner lacks one
    write_layer(dataset, "same", [Caption(p.image_id, "", p.texts[0], "x", "p", "stop") for p in study.pairs])
    with pytest.raises(UsageError, match="different captions"):
        create(dataset, "t", ["teacher", "same"], ["ann"])


def test_the_last_vote_counts_and_a_cut_line_is_no_vote(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=3, repeats=0)
    vote(study, "ann", 0, "left", 1.0)
    vote(study, "ann", 0, "tie", 2.0)
    with open(study.directory / VOTES, "a") as file:
        file.write('{"rater": "ann", "tri')  # the machine went down here
    vote(study, "ann", 1, "right", 3.0)
    assert [(v.trial, v.choice, v.seconds) for v in votes(study)] == [(0, "tie", 2.0), (1, "right", 3.0)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../x"}, "not a name"),
        ({"layers": ["teacher"]}, "two or three"),
        ({"layers": ["teacher", "teacher"]}, "two or three"),
        ({"layers": ["teacher", "none"]}, "no finished layer"),
        ({"raters": []}, "rater"),
        ({"raters": ["a", "a"]}, "rater"),
        ({"images": 0}, "1 to 100,000"),
        ({"repeats": 99}, "repeats"),
    ],
)
def test_a_study_that_makes_no_sense_is_not_begun(
    dataset: Path, change: dict[str, object], says: str
) -> None:
    wanted: dict[str, object] = {
        "name": "s",
        "layers": ["teacher", "captioner"],
        "raters": ["ann"],
        "images": 3,
    }
    wanted = {**wanted, "repeats": 0, **change}
    with pytest.raises(UsageError, match=says):
        create(dataset, **wanted)  # type: ignore[arg-type]
    assert not (dataset / "studies").exists()


def test_nothing_that_a_rater_gets_tells_a_layer(server: Server) -> None:
    dataset = server.room.dataset
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=8, repeats=2)
    (token,) = study.raters
    names: set[str] = set()
    for number in range(10):
        status, headers, body = server.ask("GET", f"/rate/{token}?trial={number}")
        assert status == 200
        picture = server.ask("GET", f"/rate/{token}/picture/{number}")
        for text in (body.decode(), str(headers), str(picture[1])):
            assert not any(word in text for word in ("teacher", "captioner", "p@1"))
        pair = study.pairs[study.trials("ann")[number].pair]
        assert pair.image_id not in body.decode()
        names |= {name for name in headers if name != "content-length"}
    assert names == {name for name in headers if name != "content-length"}
    answer = {"trial": 0, "choice": 1, "seconds": "1.5"}
    assert server.ask("POST", f"/rate/{token}", answer)[0] == 200
    assert [v.seconds for v in votes(study)] == [1.5]
    for wrong in ({"choice": 3}, {"trial": 99}, {"trial": "x"}, {"choice": "left"}):
        assert server.ask("POST", f"/rate/{token}", answer | wrong)[0] == 400
    assert len(votes(study)) == 1


def test_votes_go_out_as_csv_and_for_label_studio(dataset: Path) -> None:
    study = create(dataset, "s", ["teacher", "captioner"], ["=cmd()"], images=3, repeats=1)
    for number in range(4):
        vote(study, "=cmd()", number, ("left", "right", "tie")[number % 3], 1.0)
    rows = list(csv.DictReader(io.StringIO(as_csv(study))))
    assert [row["choice"] for row in rows] == ["left", "right", "tie", "left"]
    assert {row["rater"] for row in rows} == {"'=cmd()"}  # no spreadsheet runs it
    tasks = json.loads(json.dumps(as_label_studio(study, {})))
    assert [task["annotations"][0]["result"][0]["value"]["choices"] for task in tasks] == [
        ["left"],
        ["right"],
        ["tie"],
        ["left"],
    ]
    for task, one in zip(tasks, votes(study), strict=True):
        texts = study.pairs[one.pair].texts
        assert task["data"]["left"] == texts[study.pairs[one.pair].layers.index(one.left)]


def test_the_study_s_page_shows_who_is_preferred_and_what_a_judge_says(dataset: Path) -> None:
    (dataset / "scores").mkdir()
    for layer, score in (("teacher", 0.9), ("captioner", 0.1)):
        lines = [json.dumps({"image_id": i.id, "score": score}) + "\n" for i in Catalog.open(dataset)]
        (dataset / "scores" / f"{layer}.jsonl").write_text("".join(lines))
    study = create(dataset, "s", ["teacher", "captioner"], ["ann"], images=10, repeats=0)
    for number, trial in enumerate(study.trials("ann")):
        left = study.pairs[trial.pair].layers[trial.left]
        vote(study, "ann", number, "left" if left == "teacher" else "right", 1.0)
    with serving(dataset) as server:
        page = " ".join(server.text("/studies/s").split())
        assert "teacher is preferred to captioner." in page
        assert "72.2 to 100.0" in page  # Wilson's, ten of ten
        assert '<th scope="row">all raters and the scores</th><td class="number">10</td>' in page
        status, headers, body = server.ask("GET", "/studies/s/votes.csv")
        assert (status, len(body.splitlines())) == (200, 11)
        assert "attachment" in headers["content-disposition"]
        tasks = json.loads(server.ask("GET", "/studies/s/label-studio.json")[2])
        assert {Path(task["data"]["image"]).suffix for task in tasks} == {".png"}
