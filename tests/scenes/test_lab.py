"""The lab on a tiny world: models of a table taught and examined, found again, and told of as they are."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.data.rows import read_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.evals.results import Run, read_run
from sharecap.recipes.design import Claim, Design, Experiment
from sharecap.scenes import lab_report, lab_scores
from sharecap.scenes.facts import stated, truth
from sharecap.scenes.lab import Bench, name_of, ordered, right_sentences, run
from sharecap.scenes.lab_captions import compare
from sharecap.scenes.lab_index import write_index
from sharecap.scenes.lab_memory import memory_and_time
from sharecap.scenes.lab_missing import bench_of, benches_in, missing, missing_lines
from sharecap.scenes.lab_scores import PER_CENT, Tried, against, over_seeds, p_of
from sharecap.scenes.language import TOPICS, describe
from sharecap.scenes.summary_captions import file_of
from sharecap.statistics import Estimate
from tests.scenes.tiny_story import SPEC

BASE = Design("detailed")
TABLE = Experiment(
    "tiny",
    "A tiny table",
    "",
    "Captions help.",
    (
        BASE,
        replace(BASE, name="short", pretrain="short", details="blind"),
        replace(BASE, name="first LLaVA for $0, not $9", model="llava_7b", pretrain="none"),
        replace(BASE, name="noisy", pretrain="teacher", mistakes=0.5, tower=0.0, images=0.5),
    ),
    (Claim("detailed", "short", "+1"), Claim("noisy", "first LLaVA for $0, not $9", equal=True)),
    "Nothing.",
)


BESIDE = Experiment(
    "beside",
    "Both",
    "Table 2",
    "About as good.",
    (),
    (
        Claim("captioner", "teacher", equal=True, measure="preference"),
        Claim("captioner", "teacher", equal=True, measure="facts"),
    ),
    "Nothing.",
    captioners=("teacher", "captioner"),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The table's models, taught and examined once."""
    made = Bench(tmp_path_factory.mktemp("lab") / "seed-1", SPEC)
    run(made, [TABLE, BESIDE], jobs=2)
    return made


def test_every_row_has_an_exam_and_a_second_run_does_nothing(bench: Bench) -> None:
    before = {p: p.stat().st_mtime_ns for p in bench.root.rglob("manifest.json")}
    for design in TABLE.designs:
        assert bench.exam_path(design) / "manifest.json" in before
    run(bench, [TABLE], jobs=1)
    assert {p: p.stat().st_mtime_ns for p in bench.root.rglob("manifest.json")} == before


def test_rows_are_what_a_design_says(bench: Bench) -> None:
    whole = read_rows(bench.root / "large" / "detailed.json")
    short = {row.id: row for row in read_rows(bench.root / "short" / "short.json")}
    assert bench.captions("captioner", BASE) == whole
    quarter, half = (bench.captions("captioner", replace(BASE, images=share)) for share in (0.25, 0.5))
    assert [row for row in whole if row in half] == half
    assert [row for row in half if row in quarter] == quarter
    sources = Counter(Path(row.images[0]).parent for row in whole)
    assert len(sources) > 3
    assert Counter(Path(row.images[0]).parent for row in half) == {
        source: max(1, round(number / 2)) for source, number in sources.items()
    }
    mixed = bench.captions("mixed", BASE)
    assert [row == short[row.id] for row in mixed[:4]] == [False, True, False, True]
    scenes = {one.file: one.scene for one in bench.truths("large")}
    for row, before in zip(bench.captions("trimmed", BASE), whole, strict=True):
        scene = scenes[file_of(row.images[0])]
        wrong = [one for one in stated(row.turns[1].text) if one.fact not in truth(scene)]
        assert not wrong or row == before  # nothing would have been left
    for row, before in zip(bench.captions("alt_text", BASE), whole, strict=True):
        assert row.turns[1].text.endswith(f". {before.turns[1].text}")


def test_a_noisy_teacher_is_noisy_and_a_frozen_tower_frozen(bench: Bench) -> None:
    noisy = TABLE.design("noisy")
    scenes = {one.file: one.scene for one in bench.truths("large")}
    rows = bench.captions("teacher", replace(noisy, images=1.0))
    facts = [one.fact in truth(scenes[file_of(r.images[0])]) for r in rows for one in stated(r.turns[1].text)]
    assert 0.3 < sum(facts) / len(facts) < 0.8
    trained = json.loads((bench.own_paths(noisy)[0] / "manifest.json").read_text())["config"]["train"]
    assert [rule["part"] for rule in trained["rules"]] == ["projector", "language"]


def test_the_page_tells_every_row_and_claim_from_the_exams(bench: Bench, tmp_path: Path) -> None:
    found, spent = lab_report.read(TABLE, {1: bench})
    page = lab_report.write(found, spent, tmp_path)
    text = page.read_text()
    for design in TABLE.designs:
        assert design.name in text
    told = json.loads((tmp_path / "tiny.json").read_text())
    assert [one["verdict"] for one in told["claims"]] == [one.verdict for one in found.tried]
    assert told["rows"][0]["score"]["value"] == pytest.approx(found.rows[0].seeds[0])
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    lines = [*lab_report.lines(found, spent)]
    assert any("“detailed” better than “short”" in line for line in lines)
    assert any("one world only" in line for line in lines)
    assert 0 < text.index("This is one world only") < text.index("The tables</h2>")
    assert lab_report.beside(replace(found, seeds=(0, 1), against=())) == []


def test_a_place_where_a_page_can_t_be_written_is_one_line(bench: Bench, tmp_path: Path) -> None:
    found, spent = lab_report.read(TABLE, {1: bench})
    (tmp_path / "tiny.json").mkdir()
    with pytest.raises(SharecapError, match=r"cannot write \(Is a directory\): .*tiny\.json"):
        lab_report.write(found, spent, tmp_path)


def test_a_page_reads_from_claim_to_what_it_took(bench: Bench, tmp_path: Path) -> None:
    found, spent = lab_report.read(TABLE, {1: bench})
    text = lab_report.write(found, spent, tmp_path).read_text()
    order = ["Captions help.", "<h2>What came out", "data:image/png", "Every claim", "<h2>What follows"]
    order.append("<h2>What it took")
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    told = json.loads((tmp_path / "tiny.json").read_text())
    assert told["spent"]["teacher_usd"] > 0
    # The teacher is asked for the first set and for the noisy one; the world is drawn once for all rows.
    noisy = json.loads((bench.root / "lab/captions/scenes-0.5/manifest.json").read_text())
    first = json.loads((bench.root / "first/manifest.json").read_text())
    assert told["spent"]["teacher_usd"] == pytest.approx(
        noisy["metrics"]["cost_usd"] + first["metrics"]["cost_usd"]
    )
    assert [one["title"] for one in told["details"]] == ["Benchmark by benchmark", "Time of each model"]


def test_memory_stands_beside_the_scores_and_grows_with_what_learns(bench: Bench) -> None:
    frozen, half = TABLE.design("noisy"), BASE
    detail = memory_and_time([frozen, half], {1: bench})
    (_, less), (_, more) = detail.rows
    learning, held = zip(less[:2], more[:2], strict=True)
    assert learning[0] < learning[1]
    # Gradient and two moments of fp32 for each weight more that learns: 12 bytes, beside what is kept for it.
    assert (held[1] - held[0]) * 2**20 > 12 * (learning[1] - learning[0]) * 1e3
    assert (less[-2], more[-2]) == ("49.6", "56.7")


def test_a_captioner_is_compared_with_its_teacher_without_training(bench: Bench, tmp_path: Path) -> None:
    compare(bench)
    before = (bench.root / "lab/compared/manifest.json").stat().st_mtime_ns
    found, spent = lab_report.read(BESIDE, {1: bench})
    compare(bench)
    assert (bench.root / "lab/compared/manifest.json").stat().st_mtime_ns == before
    preference, facts = found.tried
    # Nobody who has learned for 60 steps describes as well as one who knows: the judge has to see it.
    assert preference.verdict == facts.verdict == "contradicts"
    teacher, captioner = found.rows
    assert facts.difference.value == pytest.approx(captioner.score.value - teacher.score.value)
    preferred, by_source, words = found.details
    (_, here), (_, paper) = preferred.rows
    assert sum(one.value for one in here if isinstance(one, Estimate)) == pytest.approx(100)
    assert paper == (38.2, 35.3, 26.5)
    of_source = dict(by_source.rows)
    everyone = of_source["all sources, teacher"]
    pictures = [int(str(c[0])) for n, c in of_source.items() if n.endswith("teacher")]
    assert sum(pictures) == 2 * int(str(everyone[0]))
    assert dict(words.rows)["nouns, %"][0].value > 10
    assert "published" in lab_report.write(found, spent, tmp_path).read_text()


def test_a_claim_of_the_teacher_is_the_captioner_s_turned_round(bench: Bench) -> None:
    compare(bench)
    turned = tuple(Claim("teacher", "captioner", measure=one.measure) for one in BESIDE.claims)
    found, _ = lab_report.read(BESIDE, {1: bench})
    other, _ = lab_report.read(replace(BESIDE, claims=turned), {1: bench})
    for one, two in zip(found.tried, other.tried, strict=True):
        assert two.difference.value == pytest.approx(-one.difference.value)
        assert two.verdict == "agrees"


def test_what_two_worlds_say_has_students_intervals_over_them(bench: Bench) -> None:
    found, spent = lab_report.read(BESIDE, {1: bench, 2: bench})
    alone, _ = lab_report.read(BESIDE, {1: bench})
    # Equal worlds don't differ: an interval of no width, round the same value.
    for one, two in zip(alone.tried, found.tried, strict=True):
        assert two.difference.low == two.difference.high == pytest.approx(one.difference.value)
        assert two.p == 0.0
    assert spent.stages == 2 * lab_report.read(BESIDE, {1: bench})[1].stages


def test_what_is_missing_is_said_world_by_world(bench: Bench) -> None:
    root = bench.root.parent
    more = replace(TABLE, designs=(*TABLE.designs, replace(BASE, name="other", images=0.9)))
    lines = list(missing_lines([TABLE, more], {1: bench, 7: bench_of(root, 7)}))
    assert lines == [
        "world 1, tiny: 4 of 5 are there, missing: other",
        "world 7: nothing is there yet",
    ]
    assert missing(more, bench) == ["other"]
    assert list(benches_in(root)) == [1]


def test_the_index_leads_to_every_page_and_names_what_was_not_run(bench: Bench, tmp_path: Path) -> None:
    found, spent = lab_report.read(TABLE, {1: bench})
    lab_report.write(found, spent, tmp_path)
    (tmp_path / "noise.html").write_text("older")
    (tmp_path / "noise.json").write_text('{"claims": 3}')
    (tmp_path / "blends.html").write_text("older")
    (tmp_path / "blends.json").mkdir()
    text = write_index(tmp_path).read_text()
    assert 'href="tiny.html"' in text
    assert text.count("damaged or of another version") == 2
    assert "sharecap lab caption_quality" in text
    assert "sharecap lab noise" not in text
    (tmp_path / "my lab").mkdir()
    assert "my lab&#39;" in write_index(tmp_path / "my lab").read_text()  # for a shell


def test_without_claims_nothing_is_said_to_be_undecided(bench: Bench) -> None:
    found, _ = lab_report.read(replace(TABLE, claims=()), {1: bench})
    assert lab_report.follows(found).startswith("Nothing was claimed.")


def test_p_is_students_and_certain_where_worlds_agree_exactly() -> None:
    # Student's t is 3.464 with two degrees of freedom.
    assert p_of([1.0, 2.0, 3.0]) == pytest.approx(0.0742, abs=1e-4)
    assert p_of([2.0, 2.0]) == 0.0
    assert p_of([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("below", ["", "/deeper/lab"])
def test_a_place_that_is_a_file_is_wrong_usage(tmp_path: Path, below: str) -> None:
    (tmp_path / "lab").write_text("mine")
    to = f"{tmp_path / 'lab'}{below}"
    done = CliRunner().invoke(app, ["lab", "noise", "--to", to])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == f"not a directory: {tmp_path / 'lab'}. choose another place with --to"


def test_a_verdict_needs_its_whole_interval() -> None:
    def verdict(low: float | None, high: float | None, *, equal: bool = False) -> str:
        return Tried(Claim("a", "b", equal=equal), Estimate(1.0, low, high), ()).verdict

    assert verdict(0.1, 2.0) == "agrees"
    assert verdict(-2.0, -0.1) == "contradicts"
    assert verdict(-0.1, 2.0) == verdict(None, None) == "can't tell"
    assert verdict(-1.0, 1.9, equal=True) == "agrees"
    assert verdict(2.1, 4.0, equal=True) == "contradicts"
    assert verdict(1.0, 4.0, equal=True) == "can't tell"


def test_a_benchmark_that_says_otherwise_is_told_beside_the_verdict(bench: Bench) -> None:
    some = read_run(bench.exam_path(BASE))

    def scored(**scores: float) -> Run:
        each = {
            task: [replace(r, score=scores.get(task, scores["rest"])) for r in records]
            for task, records in some.records.items()
        }
        return replace(some, records=each)

    claim = Claim("best", "worst")
    both = {1: {"best": scored(vqav2=0.0, rest=1.0), "worst": scored(vqav2=1.0, rest=0.0)}}
    compared = {claim: lab_scores.compare(claim, both)}
    assert list(against(compared)) == ["on vqav2 alone “best” is worse than “worst”"]


def test_the_interval_over_seeds_is_students() -> None:
    one = Estimate(3.0, 1.0, 5.0)
    assert over_seeds([one]) == one
    apart = [Estimate(v, None, None) for v in (60.0, 80.0, 100.0)]
    assert over_seeds(apart, PER_CENT).high == 100.0
    assert (over_seeds(apart).high or 0.0) > 100.0
    three = over_seeds([Estimate(v, None, None) for v in (1.0, 2.0, 3.0)])
    # 4.303 is the two-sided quantile of two degrees of freedom.
    assert three.value == 2.0
    assert three.low == pytest.approx(2.0 - 4.303 / 3**0.5, abs=1e-3)
    assert three.high == pytest.approx(2.0 + 4.303 / 3**0.5, abs=1e-3)


@pytest.mark.parametrize("jobs", [1, 2, 3, 5])
def test_jobs_go_through_all_designs_from_different_places(jobs: int) -> None:
    designs = [Design(str(number)) for number in range(7)]
    orders = [ordered(designs, job, jobs) for job in range(jobs)]
    assert all(sorted(order, key=lambda d: d.name) == designs for order in orders)
    assert len({order[0].name for order in orders}) >= min(jobs, 4)


def test_only_what_decides_a_model_is_in_its_name() -> None:
    assert name_of(BASE) == name_of(replace(BASE, name="another label"))
    assert name_of(replace(BASE, mistakes=0.1)) == name_of(BASE)  # the captioner's captions have no such rate
    assert name_of(replace(BASE, pretrain="teacher", mistakes=0.1)) != name_of(
        replace(BASE, pretrain="teacher")
    )


def test_wrong_sentences_go_and_right_ones_stay(bench: Bench) -> None:
    import random

    scene = bench.truths("large")[0].scene
    right = describe(scene, TOPICS, random.Random(0))
    assert right_sentences(right, scene) == right
    assert "nine objects" not in right_sentences(f"There are nine objects here. {right}", scene)
