"""Captions kept, dropped and trimmed by scores and verdicts, as new layers with counts and controls."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharecap.captions.card import Said, write_card
from sharecap.captions.drop import drop
from sharecap.captions.layer import layers, open_layer, read_layer, read_missing
from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.quality.curate import LOST, Rule, curate, thin, trim
from sharecap.quality.scores import scores_path
from sharecap.quality.verdicts import path_of
from tests.quality.layered import dataset_of, ids_of, typed

TEXT = "A man waves. He wears a red hat. The dog sleeps. It rains."
IMAGES = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return dataset_of(tmp_path, IMAGES, one=[TEXT] * (IMAGES - 1) + [None])


def scored(dataset: Path, *scores: float | None, **measures: list[float]) -> None:
    """Scores, and measures by name, of the first images."""
    path = scores_path(dataset, "one")
    path.parent.mkdir(exist_ok=True)
    rows = [
        {"image_id": i, "score": score, "measures": {name: column[n] for name, column in measures.items()}}
        for n, (i, score) in enumerate(zip(ids_of(dataset), scores, strict=False))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def judged(dataset: Path, *rows: tuple[int, int, str], **more: Any) -> None:
    """Verdicts (image's place, sentence, verdict), as a judge writes them."""
    path, ids = path_of(dataset, "one", "claims"), ids_of(dataset)
    path.parent.mkdir(exist_ok=True)
    lines = [
        {"image": ids[at], "layer": "one", "sentence": n, "claim": "c", "verdict": v, "judge": "j", **more}
        for at, n, v in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def texts(dataset: Path, layer: str) -> dict[int, str]:
    """The captions, by their image's place."""
    ids = ids_of(dataset)
    return {ids.index(caption.image_id): caption.text for caption in read_layer(dataset, layer)}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Rule(at_least=0.5), [1, 2, 3, 4]),
        (Rule(at_most=0.5), [0, 1, 3, 4]),
        (Rule(at_least=0.3, at_most=0.6), [1, 3, 4]),
        (Rule(by="words", at_least=3), [2, 3]),
        (Rule(worst=0.34), [1, 2, 3, 4]),
        (Rule(by="chair_i", worst=0.34), [1, 2, 3, 4]),  # a third of five: that with most wrong objects
        (Rule(by="words", worst=0.75), [2, 3]),
    ],
)
def test_captions_are_kept_by_bounds_or_without_the_worst(dataset: Path, rule: Rule, kept: list[int]) -> None:
    scored(dataset, 0.1, 0.5, 0.9, None, None, words=[1, 2, 3, 4, 0], chair_i=[1.0, 0.5, 0.0, 0.2, 0.1])
    curate(dataset, "one", "kept", rule)
    assert [at for at in texts(dataset, "kept") if at < 5] == kept


def test_captions_without_a_score_stay_and_are_counted(dataset: Path) -> None:
    scored(dataset, 0.1, 0.9)
    made = curate(dataset, "one", "kept", Rule(at_least=0.5))
    assert made.metrics == {
        "captions": IMAGES - 2,
        "failures": {"dropped_by_score": 1, "no_caption": 1},
        "kept": IMAGES - 2,
        "without_score": IMAGES - 3,
    }
    (why,) = [one.error for one in read_missing(dataset, "kept") if one.kind == "dropped_by_score"]
    assert why == "score 0.1"
    assert {caption.origin for caption in read_layer(dataset, "kept")} == {"one"}
    assert set(texts(dataset, "one").values()) == {TEXT}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule, "give either --worst, or --at-least or --at-most or both"),
        (lambda: Rule(worst=0.1, at_most=1), "give either --worst"),
        (lambda: Rule(worst=1.5), "not a share: 1.5"),
        (lambda: Rule(worst=0.0), "not a share: 0.0"),
        (lambda: Rule(worst=float("nan")), "not a share: nan"),
        (lambda: Rule(at_least=float("nan")), "not a bound: nan"),
    ],
)
def test_rules_that_say_nothing_are_wrong_usage(rule: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rule()


def test_scores_that_are_not_there_are_named(dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"no scores: .*make them: sharecap quality"):
        curate(dataset, "one", "kept", Rule(at_least=1))
    scored(dataset, None, words=[3])
    with pytest.raises(UsageError, match=r"no caption has the score 'chair_i'.*it has words"):
        curate(dataset, "one", "kept", Rule(by="chair_i", at_least=1))


def test_the_worst_by_a_score_are_those_of_its_measure(dataset: Path) -> None:
    path, ids = scores_path(dataset, "one"), ids_of(dataset)
    path.parent.mkdir()
    rows = [{"image_id": i, "score": n / 4, "by": "chair_i", "measures": {}} for n, i in enumerate(ids[:4])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curate(dataset, "one", "kept", Rule(worst=0.25))
    assert 3 not in texts(dataset, "kept")  # most wrong mentions
    with path.open("a") as file:
        file.write(json.dumps({"image_id": ids[5], "score": 1.0}) + "\n")
    with pytest.raises(UsageError, match="the scores are of different kinds"):
        curate(dataset, "one", "other", Rule(worst=0.25))


def test_sentences_with_a_bad_claim_are_trimmed(dataset: Path) -> None:
    judged(
        dataset,
        (0, 1, "supported"),
        (0, 1, "contradicted"),  # one bad claim is enough
        (1, 0, "unverifiable"),
        (2, 3, "supported"),
        *((3, n, "contradicted") for n in range(4)),
    )
    made = trim(dataset, "one", "trimmed", ["contradicted"])
    found = texts(dataset, "trimmed")
    assert found[0] == "A man waves. The dog sleeps. It rains."
    assert (found[1], found[2], 3 in found) == (TEXT, TEXT, False)
    flags = {caption.image_id: caption.flags for caption in read_layer(dataset, "trimmed")}
    assert [flags[i] for i in ids_of(dataset)[:2]] == [("trimmed",), ()]
    assert made.metrics == {
        "captions": IMAGES - 2,
        "failures": {"no_caption": 1, "trimmed_away": 1},
        "sentences_dropped": 5,
        "trimmed": 1,
        "without_verdict": IMAGES - 5,
    }
    trim(dataset, "one", "sure", ["contradicted", "unverifiable"])
    assert texts(dataset, "sure")[1] == "He wears a red hat. The dog sleeps. It rains."


def test_verdicts_in_the_pages_form_are_trimmed_by(dataset: Path) -> None:
    scores_path(dataset, "one").parent.mkdir()
    line = {"image_id": ids_of(dataset)[0], "sentences": ["right", "wrong", "", "wrong"]}
    scores_path(dataset, "one").write_text(json.dumps(line) + "\n")
    trim(dataset, "one", "trimmed", ["wrong"])
    assert texts(dataset, "trimmed")[0] == "A man waves. The dog sleeps."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sentence": 4}, "a verdict on sentence 4 of a caption that has 4"),
        ({"sentence": -1}, "bad verdict in line 1, sentence"),
        ({"layer": "two"}, "line 1 is on layer 'two', not 'one'"),
        ({"verdict": "perhaps"}, "bad verdict in line 1, verdict"),
        ({"image": "7"}, "bad verdict in line 1, image"),
        ({"image": "f" * 64}, "1 verdicts are on images that layer 'one' has no caption of"),
    ],
)
def test_verdicts_on_other_words_make_no_layer(dataset: Path, change: dict[str, Any], said: str) -> None:
    judged(dataset, (0, 0, "contradicted"), **change)
    with pytest.raises(SharecapError, match=said):
        trim(dataset, "one", "trimmed", ["contradicted"])
    assert not (dataset / "layers" / "trimmed").exists()


@pytest.mark.parametrize("content", [b"\xff\n", b"\n", b"nonsense\n", b"[]\n"])
def test_files_of_verdicts_that_are_none_are_named(dataset: Path, content: bytes) -> None:
    path_of(dataset, "one", "claims").parent.mkdir()
    path_of(dataset, "one", "claims").write_bytes(content)
    with pytest.raises(SharecapError, match=r"verdict.*one\.claims\.jsonl"):
        trim(dataset, "one", "trimmed", ["contradicted"])


def test_no_verdicts_and_unknown_ones_are_wrong_usage(dataset: Path) -> None:
    with pytest.raises(UsageError, match="no verdicts on claims"):
        trim(dataset, "one", "trimmed", ["contradicted"])
    with pytest.raises(UsageError, match="no such verdict: false"):
        trim(dataset, "one", "trimmed", ["false"])


def test_the_control_of_dropped_captions_drops_as_many_at_random(dataset: Path) -> None:
    scored(dataset, *[n / 10 for n in range(10)])
    made = curate(dataset, "one", "kept", Rule(at_least=0.45))
    control = thin(dataset, "kept", "chance", seed=1)
    assert control.metrics["captions"] == made.metrics["captions"] == 6
    assert control.metrics["failures"] == {"dropped_at_random": 5, "no_caption": 1}
    assert texts(dataset, "chance").keys() != texts(dataset, "kept").keys()
    assert thin(dataset, "kept", "again", seed=1).metrics == control.metrics
    assert texts(dataset, "again") == texts(dataset, "chance")
    assert any(
        texts(dataset, thin(dataset, "kept", f"other{n}", seed=n).path.name) != texts(dataset, "chance")
        for n in (2, 3)
    )


def test_the_control_of_trimmed_captions_loses_as_many_sentences_of_each(dataset: Path) -> None:
    judged(
        dataset, (0, 0, "contradicted"), (1, 2, "contradicted"), (1, 3, "contradicted"), (2, 0, "supported")
    )
    trim(dataset, "one", "trimmed", ["contradicted"])
    made = thin(dataset, "trimmed", "chance")
    found = texts(dataset, "chance")
    assert [len(sentences(found[n])) for n in range(3)] == [3, 2, 4]
    assert made.metrics["sentences_dropped"] == 3
    assert all(sentence in TEXT for n in range(3) for sentence in sentences(found[n]))


def test_only_a_curated_layer_has_a_control(dataset: Path) -> None:
    with pytest.raises(UsageError, match="layer 'one' was not curated"):
        thin(dataset, "one", "chance")
    scored(dataset, 0.1, 0.9)
    curate(dataset, "one", "kept", Rule(at_least=0.5))
    thin(dataset, "kept", "chance")
    with pytest.raises(UsageError, match="layer 'chance' was not curated"):
        thin(dataset, "chance", "chance2")


def test_the_same_rule_again_does_nothing_and_another_needs_another_name(dataset: Path) -> None:
    scored(dataset, 0.1, 0.9)
    first = curate(dataset, "one", "kept", Rule(at_least=0.5))
    assert curate(dataset, "one", "kept", Rule(at_least=0.5)) == first
    with pytest.raises(UsageError, match="was made with another bounds, rule"):
        curate(dataset, "one", "kept", Rule(at_least=0.6))


def test_a_taken_down_image_leaves_the_curated_layers_too(dataset: Path) -> None:
    judged(dataset, (0, 0, "contradicted"), (1, 0, "contradicted"))
    trim(dataset, "one", "trimmed", ["contradicted"])
    gone = ids_of(dataset)[0]
    drop(dataset, [gone], "asked")
    assert gone not in (open_layer(dataset, "trimmed").path / LOST).read_text()
    assert gone not in path_of(dataset, "one", "claims").read_text()
    assert thin(dataset, "trimmed", "chance").metrics["sentences_dropped"] == 1


def test_the_card_says_how_the_layer_was_made_and_what_it_lost(dataset: Path, tmp_path: Path) -> None:
    scored(dataset, 0.1, 0.9)
    curate(dataset, "one", "kept", Rule(by=None, at_least=0.5))
    readme, _ = write_card(dataset, "kept", tmp_path / "card", Said("CC0-1.0", "none", "Small"))
    told = readme.read_text(encoding="utf-8")
    assert "one curated, score at least 0" in told.replace("\\", "")
    assert "dropped_by_score" in told.replace("\\", "")


def test_the_command_makes_a_layer_and_its_control(dataset: Path) -> None:
    scored(dataset, *[n / 10 for n in range(10)])
    made = typed(
        *("curate", dataset, "one", "--to", "best", "--worst", "0.3", "--control", "chance", "--seed", 4)
    )
    assert made.exit_code == 0, made.exception
    assert "layer best: 8 captions of one, without the worst 30 % by score" in made.output
    assert "layer chance: 8 captions of one, at random, as much as best" in made.output
    assert "1 captions kept without a score" in made.output
    for control in ("again", "one", "no name"):
        refused = typed("curate", dataset, "one", "--to", "again", "--worst", "0.3", "--control", control)
        assert isinstance(refused.exception, UsageError)
    assert "again" not in layers(dataset)
    told = typed("curate", dataset, "one", "--to", "best", "--worst", "0.3", "--json")
    assert json.loads(told.stdout)[0]["metrics"]["captions"] == 8


def test_the_command_trims_and_refuses_two_kinds_of_rule_at_once(dataset: Path) -> None:
    judged(dataset, (0, 0, "contradicted"), (1, 0, "unverifiable"))
    made = typed("curate", dataset, "one", "--to", "sure", "--sentences", "contradicted")
    assert made.exit_code == 0, made.exception
    assert "  1 captions trimmed\n  1 sentences dropped\n" in made.output
    both = typed("curate", dataset, "one", "--to", "x", "--sentences", "contradicted", "--worst", "0.1")
    assert isinstance(both.exception, UsageError)
    none = typed("curate", dataset, "one", "--to", "x")
    assert isinstance(none.exception, UsageError)
