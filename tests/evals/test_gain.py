"""Blind runs and constant answers: what of a score the images give, and what anybody would get."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.errors import SharecapError
from sharecap.evals.answerers import Ask, Blind, Constant, LocalModel, open_answerer
from sharecap.evals.benchmarks import pope
from sharecap.evals.comparison import compare_runs
from sharecap.evals.exam import Exam
from sharecap.evals.gain import gain_lines, gains
from sharecap.evals.results import ITEMS, Run, read_items, read_results, read_run
from sharecap.evals.runner import evaluate
from sharecap.evals.task import Sample, grade
from sharecap.scenes.simulator import NO_PICTURE, Settings, serving
from sharecap.scenes.world import WorldSpec, make_world
from tests.evals.small import Scripted, knowing, tasks_of, write_benchmarks
from tests.evals.test_cli import sharecap


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("written"))


def run(model: Scripted | Blind | Constant, root: Path, out: Path) -> Run:
    evaluate(model, Exam(tasks_of(root), resamples=50), out)
    return read_run(out)


def test_a_blind_model_is_asked_the_same_words_and_shown_nothing(root: Path, tmp_path: Path) -> None:
    seeing = Scripted(lambda _: "Yes")
    run(Blind(seeing), root, tmp_path / "blind")
    assert {ask.images for ask in seeing.asked} == {()}
    blind = read_items(tmp_path / "blind" / ITEMS)
    run(seeing, root, tmp_path / "seen")
    seen = read_items(tmp_path / "seen" / ITEMS)
    assert [(r.prompt, r.images) for r in blind] == [(r.prompt, r.images) for r in seen]
    assert all(r.images for r in blind)  # clusters of the intervals, though the model saw none
    assert not {r.key for r in blind} & {r.key for r in seen}


def test_the_gain_is_what_the_images_give_and_the_leakage_what_words_alone_should_not(
    root: Path, tmp_path: Path
) -> None:
    tasks = tasks_of(root)
    knows = knowing(tasks)
    by_heart = Scripted(lambda ask: "A" if "Which color" in ask.text else "Yes", digest="e" * 64)
    seen = run(knows, root, tmp_path / "seen")
    blind = run(Blind(by_heart), root, tmp_path / "blind")
    dumb = run(Constant("?"), root, tmp_path / "dumb")
    found = gains(seen, blind, dumb)
    assert list(found) == ["mme", "mmbench"]  # VQAv2 is neither multiple choice nor yes/no
    mme = found["mme"]
    assert mme.leakage is not None
    assert mme.gain.a.value == pytest.approx(1400)
    assert mme.gain.b.value == pytest.approx(350)  # half of the answers are yes, no pair is whole
    assert mme.gain.difference.value == pytest.approx(1050)
    assert mme.leakage.value == pytest.approx(350)
    assert gains(seen, dumb, blind)["mme"].leakage.value == 0  # type: ignore[union-attr]
    assert gains(seen, blind)["mme"].leakage is None
    assert "seeing 1400.00, blind 350.00, gain 1050.00" in gain_lines(found)[0]


def test_runs_without_a_fitting_benchmark_or_with_half_of_it_are_refused(root: Path, tmp_path: Path) -> None:
    seen = run(Constant("Yes"), root, tmp_path / "seen")
    with pytest.raises(SharecapError, match="share no multiple-choice or yes/no benchmark"):
        gains(seen, replace(seen, records={"vqav2": seen.records["vqav2"]}))
    with pytest.raises(SharecapError, match="language model's run lacks mmbench"):
        gains(seen, seen, replace(seen, records={"mme": seen.records["mme"]}))


def test_who_never_says_yes_has_no_precision_and_can_be_compared_all_the_same() -> None:
    samples = [
        Sample(str(i), (), f"{i}.jpg", "?", truth, "random", str(i), {"split": "random"})
        for i, truth in enumerate(("yes", "no", "yes", "no"))
    ]
    task = pope.task(samples)
    right = grade(task, {s.id: s.reference for s in samples}, Path("right"))
    never = grade(task, {s.id: "no" for s in samples}, Path("never"))
    for a, b in ((right, never), (never, right)):
        found = compare_runs(Run("a", {"pope": a}), Run("b", {"pope": b}), resamples=50)
        assert "random: precision" not in found.benchmarks["pope"]
        assert abs(found.benchmarks["pope"]["f1"].difference.value) == 1


def test_an_endpoint_is_asked_blind_by_words_alone(tmp_path: Path) -> None:
    make_world(tmp_path / "world", WorldSpec(), range(1), workers=1)
    answered: list[str] = []
    with serving(Settings(truth=(tmp_path / "world" / "truth.jsonl",))) as url:
        blind = Blind(open_answerer(f"{url}#simulated"))
        asks = [Ask((tmp_path / "never-read.png",), "Is it red?", 64)]
        blind.answer(asks, lambda some: answered.extend(text for _, text, _ in some))
    assert answered == [NO_PICTURE]
    assert blind.digest != open_answerer("http://localhost:1/v1#simulated").digest


def test_a_model_directory_answers_without_an_image(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from sharecap.model.folder import save
    from tests.model.tiny import tiny_llava

    save(tiny_llava(tmp_path / "parts"), tmp_path / "model")
    blind = Blind(LocalModel(tmp_path / "model", batch_size=2))
    answered: list[int] = []
    blind.answer(
        [Ask((tmp_path / "absent.png",), "Is it red?", 3)] * 3,
        lambda some: answered.extend(i for i, *_ in some),
    )
    assert sorted(answered) == [0, 1, 2]  # the picture is not there, so nobody has looked at it


def test_the_commands_show_a_gain(root: Path, tmp_path: Path) -> None:
    for name, text in (("yes", "Yes"), ("none", "?")):
        done = sharecap("eval", f"constant:{text}", "--benchmarks", root, "--to", tmp_path / name)
        assert done.returncode == 0, done.stderr
    blind = ("eval", "constant:Yes", "--blind", "--benchmarks", root, "--to", tmp_path / "blind")
    assert sharecap(*blind).returncode == 0
    assert read_results(tmp_path / "blind")["model"] == "constant-Yes-blind"
    done = sharecap("gain", tmp_path / "yes", tmp_path / "blind", "--language", tmp_path / "none", "--json")
    found = json.loads(done.stdout)["mme"]
    assert (found["gain"]["difference"]["value"], found["leakage"]["value"]) == (0, 350)
    done = sharecap("gain", tmp_path / "yes", tmp_path / "none")
    assert "mme total (of 1400): seeing 350.00, blind 0.00, gain 350.00" in done.stdout
