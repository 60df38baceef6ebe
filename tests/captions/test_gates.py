"""Gates: garbage that shows only in many captions stops the run, with name and examples, after a kill too."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.captions.gates import GATES, Gates, Thresholds
from sharecap.captions.language_guess import code_of, language_of
from sharecap.captions.run import run
from sharecap.captions.run_report import RunReport
from sharecap.errors import Stopped, UsageError

from .conftest import make_dataset
from .server import Teacher

SOON = Thresholds(fewest=20, baseline=20)
WORDS = [f"{a}{b}{c}ix" for a, b, c in itertools.product("bdfgk", "aeiou", "lmnrst")]


def captions(seed: int, start: str = "", length: int = 40) -> Iterable[str]:
    rng = random.Random(seed)
    while True:
        yield start + " ".join(rng.choices(WORDS, k=length))


def fed(gates: Gates, texts: Iterable[str], most: int, kind: str | None = None) -> Stopped | None:
    for text in itertools.islice(texts, most):
        if why := gates.saw("coco", kind, text, "a.png"):
            return why
    return None


def test_captions_that_are_all_different_pass() -> None:
    assert fed(Gates(), captions(0), 6_000) is None


def test_equal_captions_close_the_gate_soon_however_many_were_good_before() -> None:
    gates = Gates(SOON)
    assert fed(gates, captions(0), 5_000) is None
    why = fed(gates, itertools.repeat("The same boat, again and again, on the same water."), 2_000)
    assert why is not None
    for words in ("gate duplicates", "source coco", "limit 0.1", "The same boat", "--accept duplicates"):
        assert words in str(why)
    assert why.exit_code == 3


def test_case_and_punctuation_make_no_new_caption() -> None:
    gates = Gates(SOON)
    why = fed(gates, itertools.cycle(["A boat, red.", "a BOAT red", "A boat - red!"]), 30)
    assert "duplicates" in str(why)


def test_too_few_outcomes_close_nothing() -> None:
    assert fed(Gates(), itertools.repeat("The same boat."), 99) is None
    assert fed(Gates(Thresholds(failures=1.0)), itertools.repeat("I'm sorry."), 99, "refusal") is None


@pytest.mark.parametrize(("kind", "gate"), [("refusal", "refusals"), ("truncated", "truncations")])
def test_failures_of_one_kind_close_their_gate(kind: str, gate: str) -> None:
    gates = Gates(SOON)
    rng, good, why = random.Random(0), iter(captions(1)), None
    for _ in range(400):
        bad = rng.random() < 0.3
        why = gates.saw("coco", kind if bad else None, "no more words" if bad else next(good))
        if why:
            break
    assert f"gate {gate}" in str(why)
    assert "no more words" in str(why)


def test_sources_are_judged_apart() -> None:
    gates = Gates(Thresholds(failures=1.0, fewest=20))
    good = iter(captions(0))
    for n in range(300):
        why = gates.saw("coco", None, next(good)) or gates.saw(
            "sam", "refusal" if n % 3 == 0 else None, next(good)
        )
        if why:
            break
    assert "source sam" in str(why)


def test_openings_that_are_shared_close_the_gate() -> None:
    alike = "This lovely picture of a quiet place shows us "
    why = fed(Gates(SOON), captions(0, alike), 100)
    assert "gate opening" in str(why)
    assert "this lovely picture of a quiet place shows" in str(why)


def test_a_sentence_in_many_captions_is_boilerplate() -> None:
    def texts() -> Iterable[str]:
        for text in captions(0):
            yield f"{text}. The overall mood of the scene is calm and peaceful. The end {text[:5]}"

    why = fed(Gates(SOON), texts(), 200)
    assert "gate boilerplate" in str(why)
    assert "the overall mood of the scene is calm" in str(why)


def test_captions_that_shrink_close_the_gate() -> None:
    gates = Gates(Thresholds(fewest=20, baseline=20, stretch=100))
    assert fed(gates, captions(0), 100) is None
    why = fed(gates, captions(1, length=12), 100)
    assert "gate length" in str(why)


def test_another_language_closes_the_gate() -> None:
    english = ("There is a boat in the water and it is red " + text for text in captions(0))
    german = ("Ein Boot liegt auf dem Wasser und das ist rot " + text for text in captions(1))
    accepted = frozenset({"opening", "boilerplate"})
    gates = Gates(SOON, accepted)
    assert fed(gates, english, 200) is None
    assert "gate language" in str(fed(gates, german, 200))
    asked = Gates(SOON, accepted, language=code_of("German"))
    assert fed(asked, german, 200) is None
    assert "gate language" in str(fed(asked, english, 200))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A red boat lies on the water with a man in it.", "en"),
        ("Ein rotes Boot liegt auf dem Wasser und ein Mann ist in dem Boot.", "de"),
        ("Un bateau rouge est sur l'eau avec un homme dans le bateau.", "fr"),
        ("一只猫坐在墙上晒太阳，旁边有一棵树。", "zh"),
        ("猫が壁の上に座っています。", "ja"),
        ("Кошка сидит на стене", "ru"),
        ("A sign reads 日本語日本語 above the door of the shop, and it is red.", "en"),
        ("Boat.", ""),
    ],
)
def test_languages_are_told_by_script_and_stop_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_an_accepted_gate_stops_nothing_and_an_unknown_one_is_wrong_usage() -> None:
    gates = Gates(SOON, frozenset({"duplicates", "opening", "boilerplate"}))
    assert fed(gates, itertools.repeat("The same boat, again and again, on the same old water."), 500) is None
    with pytest.raises(UsageError, match=r"'?dupes.*duplicates"):
        Gates(SOON, frozenset({"dupes"}))


def test_memory_does_not_grow_with_sources_or_captions() -> None:
    gates = Gates(SOON, frozenset(GATES))
    for n, text in enumerate(itertools.islice(captions(0), 3_000)):
        gates.saw(f"source {n}", None, text)
    assert len(gates._sources) <= 65
    assert max(len(of.runs.counts) for of in gates._sources.values()) <= 4_096


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([None, "refusal", "loop"]), st.text(max_size=80))
    )
)
def test_any_outcomes_can_be_counted(outcomes: list[tuple[str, str | None, str]]) -> None:
    gates = Gates(Thresholds(fewest=5, failures_after=5, baseline=5, stretch=20))
    for source, kind, text in outcomes:
        why = gates.saw(source, kind, text)
        assert why is None or "gate " in str(why)


def caption(dataset: Path, teacher: Teacher, **options: object) -> RunReport:
    fixed = {"thresholds": SOON, "rng": random.Random(0), **options}
    return run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", **fixed)  # type: ignore[arg-type]


def test_a_closed_gate_holds_until_it_is_accepted_whatever_run_asks(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 60)
    teacher.script = lambda _: "say=A boat on the water, seen from above, with nobody in it."
    with pytest.raises(Stopped, match=r"gate duplicates, source coco: 19 of 20") as caught:
        caption(dataset, teacher, concurrency=1)
    assert (caught.value.exit_code, len(teacher.log)) == (3, 20)
    with pytest.raises(Stopped, match="gate duplicates"):
        caption(dataset, teacher, concurrency=1)
    assert len(teacher.log) == 20  # not one request more
    others = ("opening", "boilerplate")
    report = caption(dataset, teacher, accept=("duplicates", *others))
    assert (report.captions, report.kept) == (60, 20)


def test_a_killed_run_counts_on(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 60)
    same = "say=A boat on the water, seen from above, with nobody in it."
    teacher.script = lambda seen: same if seen.number <= 15 else "401"
    with pytest.raises(Exception, match="key"):  # what stops the first run isn't the gate
        caption(dataset, teacher, concurrency=1)
    teacher.script = lambda _: same
    with pytest.raises(Stopped, match="gate duplicates"):
        caption(dataset, teacher, concurrency=1)
    assert teacher.answered.total() == 20
