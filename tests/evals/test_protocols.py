"""How pictures reach the model, in which parts questions are answered, and answers by likelihood."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.answerers import Ask, LocalModel, open_answerer
from sharecap.evals.exam import Exam
from sharecap.evals.protocols import CONSISTENT, PROTOCOLS, SHAREGPT4V
from sharecap.evals.results import ITEMS, read_items, read_results
from sharecap.evals.runner import answer_shard, evaluate, run_directory
from sharecap.evals.suite import find_tasks
from sharecap.model.folder import load, save
from sharecap.model.generation import Generator, Query
from sharecap.model.pixels import Pixels
from sharecap.model.ranking import losses
from sharecap.scenes.benchmark_files import Question
from sharecap.scenes.choice_files import write_qbench, write_seed
from tests.evals.small import Scripted, pictures, write_benchmarks
from tests.model.tiny import picture, tiny_llava

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save(tiny_llava(place / "parts"), place / "tiny")
    return place / "tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("b")
    images = pictures(place / "drawn", 4)
    asked = [
        Question(str(i), image, "color", "Which color?", "red", ("red", "blue", "deep green"))
        for i, image in enumerate(images)
    ]
    write_seed(asked, place / "b" / "seed-bench")
    write_qbench(asked, place / "b" / "qbench")
    return place / "b"


def test_each_protocol_frames_pictures_as_it_says_and_names_the_result(root: Path) -> None:
    tasks, _ = find_tasks(root)
    how = {}
    for protocol in PROTOCOLS.values():
        answerer = Scripted(lambda _: "A")
        exam = Exam(tasks, protocol, resamples=20)
        out = run_directory(answerer, exam, below=root.parent / "runs")
        evaluate(answerer, exam, out)
        how[protocol.name] = {("as follows" in ask.text, ask.pads) for ask in answerer.asked}
        assert out.name.startswith(f"scripted-{protocol.name}-")
        assert read_results(out)["protocol"] == protocol.name
    # Q-Bench's questions, and only those, have "as follows" in them.
    assert how == {"consistent": {(True, True), (False, True)}, "sharegpt4v": {(True, False), (False, True)}}


def test_no_answer_of_one_protocol_stands_in_for_the_other(root: Path) -> None:
    tasks, _ = find_tasks(root)
    keys = [set(Exam(tasks, protocol).wanted("m")) for protocol in (CONSISTENT, SHAREGPT4V)]
    assert len(keys[0]) == len(keys[1]) == 8
    assert keys[0].isdisjoint(keys[1])


def test_a_wide_picture_is_padded_or_its_middle_cut_out_as_the_processor_itself_does(model: Path) -> None:
    generator = Generator.load(model)
    wide = picture(3, width=90, height=30)
    seen = {}
    for pads in (True, False):
        generator.frame(pads=pads)
        seen[pads] = generator.pixels([wide])
        processor = load(model).processor.image_processor
        expected = processor(wide, do_pad=pads, return_tensors="pt")["pixel_values"]
        assert torch.equal(seen[pads], expected)
    assert not torch.equal(seen[True], seen[False])


def test_a_full_cache_forgets_the_oldest_pictures_and_shows_none_wrongly(model: Path, tmp_path: Path) -> None:
    generator = Generator.load(model)
    paths = pictures(tmp_path / "p", 6)
    whole = [generator.pixels([path]) for path in paths]
    room = 2 * generator.pixels.kept[str(paths[0])].nbytes
    small = Pixels(generator.pixels.processor, room, forgets=True)
    for _ in range(2):
        for path, expected in zip(paths, whole, strict=True):
            assert torch.equal(small([path]), expected)
    assert list(small.kept) == [str(path) for path in paths[-2:]]


def test_an_endpoint_says_what_it_cannot_do() -> None:
    endpoint = open_answerer("http://localhost:1/v1#m")
    with pytest.raises(UsageError, match="an endpoint prepares pictures by itself"):
        endpoint.answer([Ask((), "?", 4, pads=False)], lambda *_: None)
    with pytest.raises(UsageError, match="an endpoint tells no likelihoods"):
        endpoint.answer([Ask((), "?", 4, choices=("a", "b"))], lambda *_: None)


def test_losses_are_those_of_the_training_whatever_the_batch(model: Path) -> None:
    llava = load(model)
    queries = [Query((picture(i),), "Which color?") for i in range(3)]
    answers = [("red", "a very deep blue"), ("red",), ("green", "red", "blue")]
    many, one = (losses(Generator(llava, batch_size=size), queries, answers) for size in (16, 1))
    assert [len(some) for some in many] == [2, 1, 3]
    np.testing.assert_allclose(np.concatenate(many), np.concatenate(one), rtol=1e-4)
    # Against plain transformers: the processor's own text and pixels, and the loss of what follows ASSISTANT:
    processor = llava.processor
    text = processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which color?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ]
    )
    batch = processor(images=picture(1), text=text, return_tensors="pt")
    start = processor(images=picture(1), text=text[: text.rindex(" red")], return_tensors="pt")
    labels = batch["input_ids"].clone()
    labels[:, : start["input_ids"].shape[1]] = -100
    with torch.inference_mode():
        expected = float(llava.model(**batch, labels=labels).loss)
    assert one[1][0] == pytest.approx(expected, rel=1e-4)


def test_seed_bench_is_asked_for_likelihoods_only_by_name(model: Path, root: Path, tmp_path: Path) -> None:
    assert {task.name for task in find_tasks(root)[0]} == {"seed-bench", "qbench"}
    (task,), missing = find_tasks(root, ["seed-bench-ranking"])
    assert missing == []
    assert [task.prompt(sample) for sample in task.samples] == ["Which color?"] * 4
    evaluate(LocalModel(model, batch_size=2), Exam([task], resamples=20), tmp_path / "run")
    records = read_items(tmp_path / "run" / ITEMS)
    for record in records:
        found = json.loads(record.raw)
        assert len(found) == 3
        assert record.parsed == "ABC"[int(np.argmin(found))]
    generator = Generator.load(model)
    generator.frame(pads=True)
    query = Query(task.samples[0].images, "Which color?")  # type: ignore[arg-type]
    again = losses(generator, [query], [task.samples[0].choices])[0]
    np.testing.assert_allclose(json.loads(records[0].raw), again, rtol=1e-4)


def test_two_processes_answer_a_shard_each_and_the_result_is_that_of_one(model: Path, tmp_path: Path) -> None:
    benchmarks = write_benchmarks(tmp_path / "made", 2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    base = [sys.executable, "-m", "sharecap.cli", "eval", str(model), "--benchmarks", str(benchmarks)]
    base += ["--only", "mme", "--only", "vqav2"]  # MMBench lets a model that knows nothing speak for long

    def command(*more: str) -> list[str]:
        return [*base, "--to", str(tmp_path / "run"), *more]

    parts = [subprocess.Popen(command("--shard", f"{i}/2"), env=environment) for i in range(2)]
    assert [part.wait() for part in parts] == [0, 0]
    counts = [len(read_items(tmp_path / f"run.shard-{i}-of-2" / ITEMS)) for i in range(2)]
    assert counts == [3, 3]
    subprocess.run(command("--batch-size", "1"), env=environment, check=True)
    whole = [*base, "--to", str(tmp_path / "whole")]
    subprocess.run(whole, env=environment, check=True)
    assert read_results(tmp_path / "run") == read_results(tmp_path / "whole")


def test_shards_are_taken_in_by_their_keys_and_never_half(root: Path, tmp_path: Path) -> None:
    tasks, _ = find_tasks(root)
    exam, out = Exam(tasks, resamples=20), tmp_path / "run"
    answerer = Scripted(lambda _: "A")
    for i in range(2):
        answer_shard(answerer, exam, out, (i, 3))
    silent = Scripted(lambda _: "A")
    evaluate(silent, exam, out)
    assert len(silent.asked) == 2  # the third part, which no process had
    other = Scripted(lambda _: "B", digest="e" * 64)
    evaluate(other, Exam(tasks, resamples=20), tmp_path / "other")
    assert len(other.asked) == 8
    broken = replace(answerer, reply=_fails)
    with pytest.raises(RuntimeError):
        answer_shard(broken, exam, tmp_path / "half", (0, 2))
    with pytest.raises(SharecapError, match="unfinished"):
        evaluate(answerer, exam, tmp_path / "half")


def _fails(_: Ask) -> str:
    raise RuntimeError


def test_a_picture_that_cannot_be_read_ahead_is_named_when_its_turn_comes(
    model: Path, tmp_path: Path
) -> None:
    good = pictures(tmp_path / "p", 2)
    bad = tmp_path / "p" / "bad.png"
    Image.new("RGB", (8, 8)).save(bad)
    bad.write_bytes(bad.read_bytes()[:40])
    local = LocalModel(model, batch_size=1)
    local.slices = 1
    answered: list[int] = []
    asks = [Ask((path,), "Is it red?", 2) for path in (*good, bad)]
    with pytest.raises(SharecapError, match=r"bad\.png"):
        local.answer(asks, lambda some: answered.extend(i for i, *_ in some))
    assert answered == [0, 1]
