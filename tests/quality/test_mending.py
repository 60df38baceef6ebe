"""Mended captions: what is wrong goes, what was right stays, and the layer that was judged is not touched."""

from pathlib import Path

import pytest

from sharecap.captions.edits import applied, edit, read_edits
from sharecap.captions.layer import read_layer
from sharecap.quality.claims import judge_claims
from sharecap.quality.mending import mended
from sharecap.quality.verdicts import Verdict
from sharecap.scenes.facts import tally
from sharecap.statistics import Mean, compare

from .judged_world import World

ID = "a" * 64


def said(sentence: int, claim: str, verdict: str) -> Verdict:
    return Verdict(ID, "layer", sentence=sentence, claim=claim, verdict=verdict, raw=verdict, judge="judge")


def test_supported_claims_take_the_place_of_a_sentence_with_a_wrong_one() -> None:
    text = "A red dog sleeps. It may dream.  The sofa is green!"
    verdicts = [
        said(0, "There is a dog", "supported"),
        said(0, "The dog is red.", "contradicted"),
        said(0, "The dog sleeps.", "supported"),
        said(1, "The dog dreams.", "unverifiable"),
        said(2, "The sofa is green.", "contradicted"),
    ]
    changes = mended({ID: text}, verdicts)
    assert [(one.sentence, one.was, one.text) for one in changes] == [
        (1, "A red dog sleeps.", "There is a dog. The dog sleeps."),
        (3, "The sofa is green!", ""),
    ]
    found = applied(text, {one.sentence: one for one in changes}, ID)
    assert found == "There is a dog. The dog sleeps. It may dream."


def test_nothing_contradicted_is_nothing_to_mend() -> None:
    assert mended({ID: "A dog."}, [said(0, "There is a dog.", "supported")]) == []


def test_mending_lowers_hallucination_and_costs_little_recall(tmp_path: Path) -> None:
    """Captions with one attribute in ten wrong, a judge with one verdict in twenty wrong."""
    world = World(tmp_path, 20)
    world.caption("teacher", 0.1)
    with world.judge(judge_errors=0.05) as judge:
        report = judge_claims(world.bench(judge), "teacher")
    edit(world.dataset, "teacher", read_edits(Path(report.edits)), "mended")
    rows = {name: list(read_layer(world.dataset, name)) for name in ("teacher", "mended")}
    sums = {
        name: [
            [sum(n) for n in zip(*tally(c.text, world.scene(c.image_id)).values(), strict=True)] for c in some
        ]
        for name, some in rows.items()
    }
    images = tuple(caption.image_id for caption in rows["teacher"])

    def ratio(name: str, over: int, under: int, wrong: bool) -> tuple[Mean, ...]:
        values = tuple(float(one[under] - one[over] if wrong else one[over]) for one in sums[name])
        return (Mean(1.0, images, values, tuple(float(one[under]) for one in sums[name])),)

    found = compare(
        {
            "hallucinated": (ratio("mended", 1, 0, True), ratio("teacher", 1, 0, True)),
            "recall": (ratio("mended", 2, 3, False), ratio("teacher", 2, 3, False)),
        }
    )
    assert found["hallucinated"].b.value > 0.08
    assert found["hallucinated"].a.value < 0.02
    high, low = found["hallucinated"].difference.high, found["recall"].difference.low
    assert high is not None
    assert low is not None
    assert high < -0.05
    assert low > -0.07
    assert report.mended == len(read_edits(Path(report.edits)))


def test_the_edits_of_an_earlier_judgement_do_not_outlive_it(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    world.caption("right", 0.0)
    with world.judge(judge_errors=0.3) as judge:
        first = judge_claims(world.bench(judge), "right")
    assert Path(first.edits).exists()
    with world.judge() as judge:
        second = judge_claims(world.bench(f"{judge}-two"), "right")
    assert (second.edits, second.mended, Path(first.edits).exists()) == ("", 0, False)
    with pytest.raises(FileNotFoundError):
        Path(first.edits).read_text()
