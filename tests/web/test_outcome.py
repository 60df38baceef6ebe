"""What a study concludes: against figures worked out by hand, and the obvious answer on real photographs."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sharecap.captions.layer import write_layer
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.quality.shares import wilson
from sharecap.records import Caption
from sharecap.web.outcome import krippendorff, outcome_of
from sharecap.web.study import Study, create, vote, votes
from tests.test_photographs import ROOT, ROWS, run


def test_alpha_is_one_for_agreement_about_nought_for_chance_and_missing_without_overlap() -> None:
    assert krippendorff({1: {"a": "x", "b": "x"}, 2: {"a": "y", "b": "y"}}) == 1.0
    assert krippendorff({1: {"a": "x"}, 2: {"b": "y"}}) is None
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 3, (3000, 2))
    chance = krippendorff({n: {"a": str(x), "b": str(y)} for n, (x, y) in enumerate(drawn)})
    assert chance == pytest.approx(0, abs=0.05)
    # Worked out by hand: four units of two, one of them disagreeing: 1 - 2 / (30 / 7).
    four = {n: {"a": x, "b": y} for n, (x, y) in enumerate([("x", "x"), ("y", "y"), ("y", "x"), ("y", "y")])}
    assert krippendorff(four) == pytest.approx(1 - 2 / (30 / 7))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photographs with the captions of examples/, and with the same captions of other photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "examples").symlink_to(ROOT / "examples")
    run("python examples/photographs/collect.py photos", folder)
    add([folder / "photos"], folder / "dataset")
    answers = {row["file"]: row["answer"] for row in ROWS}
    images = list(Catalog.open(folder / "dataset"))
    own = [answers[str(Path(i.path).relative_to(folder / "photos"))] for i in images]
    for name, texts in (("captions", own), ("shuffled", own[7:] + own[:7])):
        rows = [Caption(i.id, "", text, "x", "p", "stop") for i, text in zip(images, texts, strict=True)]
        write_layer(folder / "dataset", name, rows)
    return folder / "dataset"


def judged(study: Study, rater: str, wrong_every: int) -> None:
    """Answer as somebody would who sees which caption is about the picture, but for a slip now and then."""
    for number, trial in enumerate(study.trials(rater)):
        right = study.pairs[trial.pair].layers[trial.left] == "captions"
        slips = number % wrong_every == wrong_every - 1
        vote(study, rater, number, "left" if right != slips else "right", 1.0)


def test_captions_against_shuffled_ones_give_the_obvious_answer(photographs: Path) -> None:
    study = create(photographs, "obvious", ["captions", "shuffled"], ["ann", "bob"], images=20, repeats=5)
    assert len({text for pair in study.pairs for text in pair.texts}) == 20
    judged(study, "ann", 10)
    judged(study, "bob", 1_000)
    found = outcome_of(study, votes(study))
    (one,) = found.preferences
    assert (one.wins, one.losses, one.ties) == (38, 2, 0)
    assert one.share is not None
    expected = wilson([0.5] * 2 + [1.0] * 18)
    assert (one.share.value, one.share.low) == (pytest.approx(0.95), pytest.approx(expected.low))
    assert one.share.low > 0.5
    assert [s.layer for s in found.strengths] == ["captions", "shuffled"]
    low = found.strengths[0].value.low
    assert low is not None
    assert low > 0
    assert (found.between[0].same, found.between[0].of) == (18, 20)
    bob = next(one for one in found.themselves if one.who == "bob")
    assert (bob.same, bob.of) == (5, 5)


def test_a_rater_who_always_takes_the_left_is_no_reason_to_prefer_a_layer(photographs: Path) -> None:
    study = create(photographs, "lefty", ["captions", "shuffled"], ["ann"], images=20, repeats=10, seed=5)
    for number in range(30):
        vote(study, "ann", number, "left", 1.0)
    found = outcome_of(study, votes(study))
    (one,) = found.preferences
    assert one.share is not None
    assert one.share.low is not None
    assert one.share.high is not None
    assert one.share.low < 0.5 < one.share.high
    trials = study.trials("ann")
    side = {t.pair: t.left for t in trials if not t.repeat}
    assert found.themselves[0].same == sum(side[t.pair] == t.left for t in trials if t.repeat)


def test_three_layers_are_ranked_by_what_was_preferred(photographs: Path) -> None:
    rows = [
        Caption(i.id, "", f"A thing {n}.", "x", "p", "stop") for n, i in enumerate(Catalog.open(photographs))
    ]
    write_layer(photographs, "poor", rows)
    layers = ["shuffled", "poor", "captions"]
    study = create(photographs, "three", layers, ["ann"], images=20, repeats=0)
    rank = {"captions": 0, "poor": 1, "shuffled": 2}
    for number, trial in enumerate(study.trials("ann")):
        left, right = (study.pairs[trial.pair].layers[side] for side in (trial.left, 1 - trial.left))
        vote(study, "ann", number, "left" if rank[left] < rank[right] else "right", 1.0)
    found = outcome_of(study, votes(study))
    assert [s.layer for s in found.strengths] == ["captions", "poor", "shuffled"]
    assert all(a.value.low > b.value.high for a, b in pairwise(found.strengths))
    assert json.dumps([one.wins + one.losses for one in found.preferences]) == "[20, 20, 20]"


def test_raters_are_compared_with_a_judge_s_scores(photographs: Path) -> None:
    study = create(photographs, "judge", ["captions", "shuffled"], ["ann"], images=20, repeats=0)
    judged(study, "ann", 10)
    cast = votes(study)
    assert outcome_of(study, cast).judge is None
    found = outcome_of(study, cast, lambda _, layer: 1.0 if layer == "captions" else 0.0).judge
    assert found is not None
    assert (found.same, found.of) == (18, 20)
    assert outcome_of(study, cast, lambda _image, _layer: 0.5).judge is None
