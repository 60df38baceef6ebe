"""Claims judged over HTTP, end to end: what the judge says is what stands in the file and in the table."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sharecap.artifact import plain
from sharecap.captions.drop import drop
from sharecap.captions.layer import read_layer
from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, Stopped, UsageError
from sharecap.quality.claims import judge_claims
from sharecap.quality.scores import read_scores
from sharecap.quality.verdicts import read_verdicts
from sharecap.scenes.facts import quality
from sharecap.scenes.judge import claims_of, true_verdict
from tests.captions.conftest import Typed, typed

from .judged_world import World

__all__ = ["typed"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("judged"), 12)
    world.caption("teacher", 0.15)
    return world


@pytest.fixture
def world(made: World) -> World:
    """The same, with nothing judged yet."""
    for name in ("judgements", "scores"):
        shutil.rmtree(made.dataset / name, ignore_errors=True)
    return made


def test_every_claim_of_every_sentence_gets_its_verdict(world: World) -> None:
    with world.judge() as judge:
        report = judge_claims(world.bench(judge), "teacher")
    found = list(read_verdicts(Path(report.path)))
    expected = [
        (caption.image_id, at, claim, true_verdict(claim, world.scene(caption.image_id)))
        for caption in read_layer(world.dataset, "teacher")
        for at, sentence in enumerate(sentences(caption.text))
        for claim in claims_of(sentence)
    ]
    assert [(one.image, one.sentence, one.claim, one.verdict) for one in found] == expected
    counts = Counter(one.verdict for one in found)
    assert set(counts) == {"supported", "contradicted", "unverifiable"}
    for name, share in report.shares.items():
        assert share.value == pytest.approx(counts[name] / len(found))
        assert share.low is not None
        assert share.high is not None
        assert share.low <= share.value <= share.high
    assert (report.images, report.split, report.claims, report.failures) == (12, 12, len(found), {})


def test_the_share_of_contradicted_claims_is_that_of_wrong_facts(world: World) -> None:
    with world.judge() as judge:
        report = judge_claims(world.bench(judge), "teacher")
    captions = [(c.text, world.scene(c.image_id)) for c in read_layer(world.dataset, "teacher")]
    by_kind = quality(captions)
    told, unseen = by_kind["all"], by_kind["renown"]
    wrong = (told.stated - told.right) - (unseen.stated - unseen.right)
    # Claims are counted by sentence: a fact that two sentences state is two claims.
    assert report.shares["contradicted"].value * report.claims == pytest.approx(wrong, abs=2)


def test_nothing_is_asked_or_paid_twice_and_more_images_keep_what_was_judged(world: World) -> None:
    with world.judge() as judge:
        price = {"prices": ("1,1",)}
        few = judge_claims(world.bench(judge, **price), "teacher", images=6)
        asked = {(one.image, one.claim) for one in read_verdicts(Path(few.path))}
        again = judge_claims(world.bench(judge, **price), "teacher", images=6)
        more = judge_claims(world.bench(judge, **price), "teacher", images=10)
    assert few.requests == 6 + len(asked)
    assert (again.requests, again.cost_usd) == (0, few.cost_usd)
    assert more.requests > 0
    assert more.images == 10
    later = {one.image for one in read_verdicts(Path(more.path))}
    assert len(later) == 10
    assert few.cost_usd is not None
    assert more.cost_usd is not None
    assert few.cost_usd < more.cost_usd < 3 * few.cost_usd


def test_another_temperature_is_another_judgement_and_the_first_is_kept(world: World) -> None:
    with world.judge() as judge:
        first = judge_claims(world.bench(judge), "teacher", images=2)
        cold = judge_claims(world.bench(judge, temperature=0.0), "teacher", images=2)
        again = judge_claims(world.bench(judge), "teacher", images=2)
    assert cold.requests == first.requests > 0
    assert again.requests == 0


def test_the_budget_is_a_wall_over_both_stages(world: World) -> None:
    with world.judge() as judge:
        with pytest.raises(UsageError, match="a budget needs a price"):
            judge_claims(world.bench(judge, budget_usd=1.0), "teacher")
        bench = world.bench(judge, budget_usd=0.06, prices=("1,1",))
        with pytest.raises(Stopped, match="budget"):
            judge_claims(bench, "teacher")
        assert not (world.dataset / "scores").exists()
        whole = judge_claims(world.bench(judge, budget_usd=5.0, prices=("1,1",)), "teacher")
    assert whole.cost_usd is not None
    assert whole.cost_usd > 0.06
    assert bench.spent_usd <= 0.06


def test_a_model_never_judges_its_own_captions(world: World) -> None:
    with pytest.raises(UsageError, match="its own captions"):
        judge_claims(world.bench("http://127.0.0.1:9/v1#scenes"), "teacher")
    with pytest.raises(UsageError, match="its own captions"):
        judge_claims(world.bench("http://127.0.0.1:9/v1#Scenes-2026-01-31"), "teacher")
    with pytest.raises(UsageError, match="only an endpoint"):
        world.bench("batch:http://127.0.0.1:9/v1#judge")


def test_faults_of_the_judge_are_counted_and_never_averaged(world: World) -> None:
    faults = {"refusal": 0.3, "empty": 0.02, "429": 0.05, "500": 0.05}
    with world.judge(faults=faults, retry_after_s=0.01) as judge:
        report = judge_claims(world.bench(judge), "teacher")
    path = Path(report.path)
    failed = [
        json.loads(line) for line in path.with_name("teacher.claims-failed.jsonl").read_text().splitlines()
    ]
    assert sum(report.failures.values()) == len(failed)
    assert any(kind.endswith("refusal") for kind in report.failures)
    # What did get a verdict got the right one: no fault became a word of the judge's.
    for one in read_verdicts(path):
        assert one.verdict == true_verdict(one.claim, world.scene(one.image))
    lost = sum(one["stage"] == "split" for one in failed)
    assert report.split == 12 - lost
    with world.judge() as mended:
        whole = judge_claims(world.bench(mended, retry_failed=True), "teacher")
    assert whole.failures == {}


def test_a_judge_that_refuses_everything_is_an_error_and_leaves_no_verdicts(world: World) -> None:
    with (
        world.judge(faults={"refusal": 1.0}) as judge,
        pytest.raises(SharecapError, match="12 split: refusal"),
    ):
        judge_claims(world.bench(judge), "teacher")
    assert [path.name for path in (world.dataset / "scores").iterdir()] == ["teacher.claims-failed.jsonl"]


def test_checked_claims_put_the_shares_right(world: World, tmp_path: Path) -> None:
    with world.judge(judge_errors=0.2) as judge:
        raw = judge_claims(world.bench(judge), "teacher")
        verdicts = list(read_verdicts(Path(raw.path)))
        right = [
            plain(one) | {"verdict": true_verdict(one.claim, world.scene(one.image))} for one in verdicts
        ]
        (tmp_path / "checked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in right[::2]))
        report = judge_claims(world.bench(judge), "teacher", checked=tmp_path / "checked.jsonl")
    assert report.requests == 0
    assert report.checked == len(right[::2])
    truth = Counter(one["verdict"] for one in right)
    for name, share in report.corrected.items():
        assert share.low is not None
        assert share.high is not None
        assert share.low <= truth[name] / len(right) <= share.high
    true = truth["contradicted"] / len(right)
    assert raw.shares["contradicted"].value > 1.2 * true  # the judge's slips look like the captioner's


def test_the_page_gets_scores_and_colours_unless_it_has_others(world: World) -> None:
    path = world.dataset / "scores" / "teacher.jsonl"
    with world.judge() as judge:
        report = judge_claims(world.bench(judge), "teacher", images=4)
        scored = {one.image_id: one for one in read_scores(path)}
        verdicts = list(read_verdicts(Path(report.path)))
        assert report.on_page
        assert set(scored) == {one.image for one in verdicts}
        for image, one in scored.items():
            wrong = {v.sentence for v in verdicts if v.image == image and v.verdict == "contradicted"}
            assert {n for n, colour in enumerate(one.sentences) if colour == "wrong"} == wrong
        path.write_text('{"image_id": "' + "a" * 64 + '", "score": 0.5}\n')
        again = judge_claims(world.bench(judge), "teacher", images=4)
    assert not again.on_page
    assert len(list(read_scores(path))) == 1


def test_lines_that_an_editor_has_saved_are_read(tmp_path: Path) -> None:
    line = json.dumps({"image": "a" * 64, "sentence": 0, "claim": "b", "verdict": "supported"})
    (tmp_path / "mine.jsonl").write_text(f"\ufeff{line}\r\n{line}\r\n", encoding="utf-8", newline="")
    assert [one.verdict for one in read_verdicts(tmp_path / "mine.jsonl")] == ["supported"] * 2
    (tmp_path / "mine.jsonl").write_text(line.replace("0", "true", 1))
    with pytest.raises(UsageError, match="line 1, sentence: Input should be a valid integer"):
        list(read_verdicts(tmp_path / "mine.jsonl"))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"image": "a"}', '{"image": "a", "sentence": 0, "claim": "b", "verdict": "yes"}', "\xff"],
)
def test_a_bad_line_among_checked_claims_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"bad\.jsonl"):
        list(read_verdicts(tmp_path / "bad.jsonl"))


def test_a_takedown_reaches_questions_answers_and_verdicts(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.caption("teacher", 0.1)
    with world.judge() as judge:
        path = Path(judge_claims(world.bench(judge), "teacher").path)
        gone = next(read_verdicts(path))
        drop(world.dataset, [gone.image], "asked")
    assert gone.image not in {one.image for one in read_verdicts(path)}
    text = next(c for c in read_layer(world.dataset, "teacher")).text
    assert text
    below = [p for p in (world.dataset / "judgements").rglob("*") if p.is_file()]
    left = [p.name for p in below if gone.image.encode() in p.read_bytes() and p.name != "takedown.jsonl"]
    assert left == []


def test_the_command_prints_a_table_and_json(world: World, typed: Typed) -> None:
    with world.judge() as judge:
        words = ("judge", world.dataset, "teacher", "--judge", judge, "--images", 6)
        code, out, _ = typed(*words)
        assert code == 0
        assert "layer teacher, judged by judge" in out
        assert "  contradicted " in out
        code, out, _ = typed(*words, "--json")
    found = json.loads(out)
    assert (code, found["requests"], found["images"]) == (0, 0, 6)
    assert found["shares"]["supported"]["low"] <= found["shares"]["supported"]["value"]
    code, _, err = typed("judge", world.dataset, "teacher", "--judge", "nobody")
    assert (code, err.count("\n")) == (2, 1)
