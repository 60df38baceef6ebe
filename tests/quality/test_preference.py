"""Preferences as a table: against figures worked out by hand, and judged over HTTP in both orders."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sharecap.captions.layer import read_layer
from sharecap.errors import UsageError
from sharecap.quality.comparison import combined, compare_layers
from sharecap.quality.preference import (
    bradley_terry,
    preference_lines,
    preferences,
    strengths,
)
from sharecap.quality.shares import shares_of, wilson
from sharecap.scenes.judge import preferred
from tests.captions.conftest import Typed, typed

from .judged_world import World

__all__ = ["typed"]


@dataclass(frozen=True)
class Said:
    image_id: str
    left: str
    right: str
    choice: str


def test_wilson_s_interval_is_the_textbook_s() -> None:
    found = wilson([1.0] * 15 + [0.0] * 5)
    assert (found.low, found.high) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    everything = wilson([1.0] * 20)
    assert (everything.value, everything.high) == (1.0, pytest.approx(1.0))
    assert everything.low == pytest.approx(0.8389, abs=1e-4)


def test_shares_of_labels_that_all_agree_are_no_certainty() -> None:
    images = ["a", "a", "b", "c"]
    found = shares_of(images, ["right"] * 4, ["right", "wrong"])
    assert found == {"right": wilson([1.0] * 3), "wrong": wilson([0.0] * 3)}
    mixed = shares_of(images, ["right", "wrong", "right", "right"], ["right", "wrong"])
    assert (mixed["right"].value, mixed["wrong"].value) == (0.75, 0.25)
    assert shares_of([], [], ["right"]) == {}


def test_strengths_are_those_that_the_wins_were_made_from() -> None:
    true = np.array([1.2, 0.1, -1.3])
    odds = 1 / (1 + np.exp(true[None, :] - true[:, None]))
    assert bradley_terry(odds * 1000) == pytest.approx(true - true.mean(), abs=1e-6)
    assert bradley_terry(np.array([[0.0, 3.0], [1.0, 0.0]])) == pytest.approx([np.log(3) / 2, -np.log(3) / 2])


def strength_of_a(layers: list[str], choices: list[Said]) -> tuple[float, float, float]:
    """(value, low, high)."""
    (one,) = [one.value for one in strengths(layers, choices) if one.layer == "a"]
    assert one.low is not None
    assert one.high is not None
    return one.value, one.low, one.high


def test_answers_that_all_agree_leave_a_strength_open() -> None:
    won = strength_of_a(["a", "b"], [Said("1", "a", "b", "left"), Said("2", "b", "a", "right")])
    gart = 1.959964 * np.sqrt(1 / 2.5 + 1 / 0.5)  # of the log-odds of 2 to 0
    assert won == pytest.approx([(np.log(5) + reach) / 2 for reach in (0, -gart, gart)], abs=1e-6)
    value, low, high = strength_of_a(["a", "b"], [Said(str(n), "a", "b", "tie") for n in range(10)])
    assert value == pytest.approx(0)
    assert -0.2 < low < -0.1
    assert high == pytest.approx(-low)


def test_an_image_counts_once_however_many_answered() -> None:
    """Three raters who say the same of each image are no more than one."""
    said = [Said(str(n), "a", "b", "left" if n % 3 else "right") for n in range(12)]
    assert strength_of_a(["a", "b"], said * 3) == pytest.approx(strength_of_a(["a", "b"], said))


@pytest.mark.parametrize("answers", [20, 50, 200])
@pytest.mark.parametrize(("better", "ties"), [(0.5, 0.0), (0.9, 0.0), (0.98, 0.0), (0.7, 0.3)])
def test_a_strength_s_interval_covers_the_truth(better: float, ties: float, answers: int) -> None:
    rng, worlds, covered = np.random.default_rng(answers), 200, 0
    share = ties / 2 + (1 - ties) * better
    for _ in range(worlds):
        drawn = rng.choice(
            ["left", "right", "tie"], size=answers, p=[share - ties / 2, 1 - share - ties / 2, ties]
        )
        _, low, high = strength_of_a(["a", "b"], [Said(str(n), "a", "b", one) for n, one in enumerate(drawn)])
        covered += low <= np.log(share / (1 - share)) / 2 <= high
    assert covered / worlds >= 0.91


@pytest.mark.parametrize("images", [20, 100])
def test_three_layers_strengths_cover_the_truth_though_an_image_s_answers_hang_together(images: int) -> None:
    """A caption that fits its image well wins both of its pairs."""
    rng, worlds, layers, true = (
        np.random.default_rng(images),
        200,
        ["a", "b", "c"],
        np.array([0.8, 0.0, -0.8]),
    )
    covered = np.zeros(3)
    for _ in range(worlds):
        worth = true + rng.gumbel(
            0, 1, (images, 3)
        )  # differences are logistic: Bradley and Terry's own world
        choices = [
            Said(str(n), layers[i], layers[j], "left" if row[i] > row[j] else "right")
            for n, row in enumerate(worth)
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        found = {one.layer: one.value for one in strengths(layers, choices)}
        covered += [found[name].low <= t <= found[name].high for name, t in zip(layers, true, strict=True)]  # type: ignore[operator]
    assert (covered / worlds >= 0.91).all(), covered / worlds


def test_the_paper_s_row_comes_out_of_the_paper_s_answers() -> None:
    """Table 2 of the paper has 38.2, 35.3 and 26.5 %: shares of 1,000 answers, say, ten about each image."""
    answers = ["left"] * 382 + ["right"] * 353 + ["tie"] * 265
    choices = [Said(str(n % 100), "GPT4-Vision", "Share-Captioner", one) for n, one in enumerate(answers)]
    (row,) = preferences(["GPT4-Vision", "Share-Captioner"], choices)
    assert (row.wins, row.losses, row.ties) == (382, 353, 265)
    lines = preference_lines([row], strengths(["GPT4-Vision", "Share-Captioner"], choices))
    assert [line.split("  (")[0].split() for line in lines[1:4]] == [
        ["GPT4-Vision", "38.2", "%"],
        ["Share-Captioner", "35.3", "%"],
        ["comparable", "26.5", "%"],
    ]
    assert row.share is not None
    assert row.share.value == pytest.approx(0.382 + 0.265 / 2)


def test_sides_do_not_matter_and_no_answers_are_no_estimate() -> None:
    left = preferences(["a", "b"], [Said("1", "a", "b", "left"), Said("2", "a", "b", "tie")])
    assert left == preferences(["a", "b"], [Said("1", "b", "a", "right"), Said("2", "b", "a", "tie")])
    (none,) = preferences(["a", "b"], [])
    assert none.share is none.prefer_a is none.comparable is None
    assert strengths(["a", "b"], []) == []
    assert preference_lines([none], []) == ["a against b: 0 answers"]


def test_two_orders_that_disagree_are_a_tie() -> None:
    # Digits are places: "1" then "2" is the same caption both times, "1" and "1" is the place.
    assert [combined(a, b) for a in "120" for b in "120"] == [
        *("tie", "left", "tie"),
        *("right", "tie", "tie"),
        *("tie", "tie", "tie"),
    ]


def test_the_intervals_cover_what_a_judge_with_known_slips_says_in_the_long_run() -> None:
    """Slips in one order make ties: a judge that errs pulls both layers down alike and keeps their order."""
    rng, worlds, images, better, slip = np.random.default_rng(5), 200, 100, 0.6, 0.1
    both, neither = (1 - slip) ** 2, slip**2
    expected = (
        better * both + (1 - better) * neither,
        (1 - better) * both + better * neither,
        2 * slip * (1 - slip),
    )
    covered = np.zeros(3)
    for _ in range(worlds):
        right = np.where(rng.random(images) < better, "1", "2")
        orders = (right, np.where(right == "1", "2", "1"))  # the captions change places
        said = [
            [one if rng.random() >= slip else {"1": "2", "2": "1"}[one] for one in answers]
            for answers in orders
        ]
        choices = [
            Said(str(n), "a", "b", combined(one, two)) for n, (one, two) in enumerate(zip(*said, strict=True))
        ]
        (row,) = preferences(["a", "b"], choices)
        shares = (row.prefer_a, row.prefer_b, row.comparable)
        covered += [s.low <= e <= s.high for s, e in zip(shares, expected, strict=True)]
    assert (covered / worlds >= 0.92).all(), covered / worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("compared"), 24)
    world.caption("good", 0.0)
    world.caption("poor", 0.3)
    return world


def test_the_better_captions_are_preferred_in_both_orders_and_paid_once(world: World) -> None:
    with world.judge() as judge:
        report = compare_layers(world.bench(judge, prices=("1,1",)), ["good", "poor"])
        again = compare_layers(world.bench(judge, prices=("1,1",)), ["good", "poor"])
    (row,) = report.preferences
    captions = [
        (
            image,
            *(
                next(c.text for c in read_layer(world.dataset, name) if c.image_id == image)
                for name in ("good", "poor")
            ),
        )
        for image in world.truths
    ]
    true = [preferred(good, poor, world.scene(image)) for image, good, poor in captions]
    assert (row.wins, row.losses, row.ties) == (true.count("1"), true.count("2"), true.count("0"))
    assert row.prefer_a is not None
    assert row.prefer_a.low is not None
    assert row.prefer_a.low > 0.5
    assert report.consistent is not None
    assert report.consistent.value == 1.0
    assert report.requests == 2 * 24
    assert (again.requests, again.cost_usd, again.preferences) == (0, report.cost_usd, report.preferences)
    lines = Path(report.path).read_text().splitlines()
    assert sum(json.loads(line)["choice"] == "left" for line in lines) == row.wins


def test_a_judge_that_slips_makes_ties_and_what_failed_is_no_answer(world: World) -> None:
    with world.judge(judge_errors=0.2, faults={"refusal": 0.4}) as judge:
        report = compare_layers(world.bench(f"{judge}-slips"), ["good", "poor"])
    (row,) = report.preferences
    lost = sum(report.failures.values())
    assert lost > 0
    assert row.wins + row.losses + row.ties == 24 - lost
    assert report.consistent is not None
    assert report.consistent.value < 1.0
    assert set(report.failures) == {"refusal"}


def test_what_cannot_be_compared_is_said_before_anything_is_sent(world: World) -> None:
    nowhere = "http://127.0.0.1:9/v1#judge"
    with pytest.raises(UsageError, match="different layers"):
        compare_layers(world.bench(nowhere), ["good", "good"])
    with pytest.raises(UsageError, match="no finished layer"):
        compare_layers(world.bench(nowhere), ["good", "gone"])
    with pytest.raises(UsageError, match="its own captions"):
        compare_layers(world.bench("http://127.0.0.1:9/v1#scenes"), ["good", "poor"])


def test_the_command_prints_the_paper_s_row(world: World, typed: Typed) -> None:
    with world.judge() as judge:
        code, out, _ = typed("prefer", world.dataset, "good", "poor", "--judge", judge, "--images", 5)
    assert code == 0
    assert "good against poor: 5 answers" in out
    assert "comparable" in out
    code, _, err = typed("prefer", world.dataset, "good", "--judge", judge)
    assert (code, err.count("\n")) == (2, 1)
