"""Who answers: a model directory in batches, and an endpoint over real HTTP with its faults."""

from dataclasses import replace
from pathlib import Path

import pytest

from sharecap.captions.captioner import FatalError, UnavailableError
from sharecap.captions.courier import Patience
from sharecap.captions.teachers import open_teacher
from sharecap.errors import SharecapError, UsageError
from sharecap.evals.answerers import Ask, Endpoint, LocalModel, open_answerer
from sharecap.evals.exam import Exam
from sharecap.evals.results import read_results
from sharecap.evals.runner import evaluate
from sharecap.scenes.benchmark_files import YesNoPair, write_mme
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import WorldSpec, make_world
from tests.evals.small import pictures, tasks_of, write_benchmarks

QUICK = Patience(base_s=0.01, retry_after_cap_s=0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    make_world(directory, WorldSpec(seed=3), range(12), workers=1)
    return directory


def endpoint(url: str, patience: Patience = QUICK) -> Endpoint:
    return Endpoint(open_teacher(f"{url}#simulated", environment={}, concurrency=4), 4, patience)


def asks(world: Path) -> list[Ask]:
    return [Ask((path,), "Describe the picture.", 64) for path in sorted(world.rglob("*.png"))]


@pytest.mark.parametrize("faults", [{}, {"429": 0.3, "500": 0.2, "drop": 0.1}])
def test_an_endpoint_answers_every_question_through_its_faults(world: Path, faults: dict[str, float]) -> None:
    questions = asks(world)
    assert len(questions) == 12
    with serving(Settings(truth=(world / "truth.jsonl",), faults=faults)) as url:
        texts: dict[int, str] = {}
        endpoint(url).answer(questions, lambda some: texts.update({i: text for i, text, _ in some}))
    assert sorted(texts) == list(range(12))
    assert all(texts.values())


def test_an_evaluation_through_an_endpoint_ends_in_results(world: Path, tmp_path: Path) -> None:
    images = sorted(world.rglob("*.png"))
    write_mme([YesNoPair(image, "count", "Is it?", "Is it not?") for image in images], tmp_path / "b" / "mme")
    with serving(Settings(truth=(world / "truth.jsonl",))) as url:
        (task,) = tasks_with_only_mme(tmp_path / "b")
        evaluate(endpoint(url), Exam([task], resamples=50), tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert results["model"] == "simulated"
    assert results["benchmarks"]["mme"]["unparsed"] == 24  # it describes, it does not say yes or no


def tasks_with_only_mme(root: Path):
    from sharecap.evals.suite import find_tasks

    tasks, missing = find_tasks(root, ["mme", "vqav2"])
    assert missing == ["vqav2"]
    return tasks


def test_an_endpoint_that_stays_away_ends_the_run(world: Path) -> None:
    with (
        serving(Settings(truth=(world / "truth.jsonl",), faults={"500": 1.0})) as url,
        pytest.raises(UnavailableError),
    ):
        endpoint(url, Patience(tries=2, base_s=0.01)).answer(asks(world), lambda *_: None)


def test_a_wrong_key_ends_the_run_at_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALS_TEST_KEY", "right")
    settings = Settings(truth=(world / "truth.jsonl",), require_key_env="EVALS_TEST_KEY")
    with serving(settings) as url, pytest.raises(FatalError):
        endpoint(url).answer(asks(world), lambda *_: None)


def test_questions_that_are_refused_are_counted_and_the_others_kept(world: Path, tmp_path: Path) -> None:
    unknown = pictures(tmp_path / "unknown", 2)
    questions = [*asks(world), *(Ask((path,), "Describe the picture.", 64) for path in unknown)]
    answered: list[int] = []
    with (
        serving(Settings(truth=(world / "truth.jsonl",))) as url,
        pytest.raises(SharecapError, match="2 of 14 questions were refused an answer"),
    ):
        endpoint(url).answer(questions, lambda some: answered.extend(i for i, *_ in some))
    assert sorted(answered) == list(range(12))


def test_a_model_directory_answers_the_benchmarks_in_batches(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from sharecap.model.folder import save
    from tests.model.tiny import tiny_llava

    save(tiny_llava(tmp_path / "parts"), tmp_path / "model")
    tasks = [replace(task, max_new_tokens=4) for task in tasks_of(write_benchmarks(tmp_path / "b", 4))]
    one = evaluate(LocalModel(tmp_path / "model", batch_size=3), Exam(tasks, resamples=50), tmp_path / "one")
    other = evaluate(
        LocalModel(tmp_path / "model", batch_size=16), Exam(tasks, resamples=50), tmp_path / "two"
    )
    assert one.metrics == other.metrics
    assert one.metrics["model"] == "model"


def test_what_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UsageError, match=r"not a model directory.*config\.json"):
            open_answerer(str(missing))
    with pytest.raises(UsageError, match="names no model"):
        open_answerer("http://localhost:1/v1")


def test_a_half_written_model_is_not_evaluated(tmp_path: Path) -> None:
    for name in ("config.json", "started.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(SharecapError, match="unfinished"):
        _ = LocalModel(tmp_path).digest


def test_the_digest_of_a_model_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    first = LocalModel(tmp_path / "m").digest
    (tmp_path / "m" / "weights").write_text("w")
    assert LocalModel(tmp_path / "m").digest != first
    assert LocalModel(tmp_path / "m").name == "m"
