"""The local captioner: a model directory that captions like any teacher, in batches."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sharecap.captions.captioner import Request, Sampling
from sharecap.captions.gates import Thresholds
from sharecap.captions.layer import read_layer
from sharecap.captions.names import names_in, sure_of
from sharecap.captions.run import run
from sharecap.captions.teachers import open_teacher
from sharecap.errors import SharecapError
from sharecap.images.catalog import Catalog

pytest.importorskip("torch")

from sharecap.model.folder import abstain, save
from sharecap.model.generation import Decoding, Generator, Query

from ..model.tiny import tiny_llava

FEW = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save(tiny_llava(place), place / "captioner")
    return place / "captioner"


def test_its_words_are_the_models_own(dataset: Path, model: Path) -> None:
    images = list(Catalog.open(dataset))
    teacher = open_teacher(f"local:{model}", batch_size=5)

    async def ask() -> list[str]:
        requests = [Request(image, "Describe it.", FEW) for image in images]
        answers = await asyncio.gather(*map(teacher.answer, requests))
        await teacher.close()
        return [answer.text for answer in answers]

    generator = Generator.load(model, batch_size=5)
    queries = [Query((Path(image.path),), "Describe it.") for image in images]
    expected = [reply.text for reply in generator.generate(queries, Decoding(max_new_tokens=12))]
    assert asyncio.run(ask()) == expected
    assert len(set(expected)) > 1


def test_one_that_abstains_leaves_out_the_sentences_with_names_it_is_not_sure_of(
    dataset: Path, model: Path, tmp_path: Path
) -> None:
    images = list(Catalog.open(dataset))
    queries = [Query((Path(image.path),), "Describe it.") for image in images]
    how = Decoding(max_new_tokens=12, leaves_loops=True, chances=True)
    replies = Generator.load(model, batch_size=5).generate(queries, how)
    given = sorted(name.chance for reply in replies for name in names_in(reply.text, reply.chances))
    least = given[len(given) // 2]  # half of the names are likelier
    copy = Path(shutil.copytree(model, tmp_path / "abstaining"))
    abstain(copy, least)
    teacher = open_teacher(f"local:{copy}", batch_size=5)
    assert teacher.fingerprint != open_teacher(f"local:{model}").fingerprint

    async def ask() -> list[str]:
        answers = await asyncio.gather(*(teacher.answer(Request(i, "Describe it.", FEW)) for i in images))
        await teacher.close()
        return [answer.text for answer in answers]

    told = asyncio.run(ask())
    assert told == [sure_of(reply.text, reply.chances, least) for reply in replies]
    assert 0 < sum(text != reply.text for text, reply in zip(told, replies, strict=True)) < len(told)


@pytest.mark.parametrize("note", ['{"template": "vicuna_v1", "names_at_least": "high"}', "[[["])
def test_a_note_that_makes_no_sense_is_one_clear_error(
    dataset: Path, model: Path, tmp_path: Path, note: str
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "odd"))
    (copy / "sharecap.json").write_text(note)
    with pytest.raises(SharecapError, match=r"names_at_least is no number from 0|damaged note"):
        run(dataset, f"local:{copy}", "unified", "own", sampling=FEW)


def test_a_run_ends_every_image_and_a_second_one_has_nothing_to_do(dataset: Path, model: Path) -> None:
    lost = next(iter(Catalog.open(dataset)))
    Path(lost.path).unlink()
    for requests in (12, 0):
        report = run(
            dataset, f"local:{model}", "unified", "own", sampling=FEW, thresholds=Thresholds(failures=1.0)
        )
        # Each image is asked about once, or thrice where the words make no sense.
        assert report.captions + sum(report.failures.values()) == 12
        assert report.failures["image_missing"] == 1
        assert report.requests >= requests
        assert (report.requests > 0) == (requests > 0)
        assert report.cost_usd is None
    for caption in read_layer(dataset, "own"):
        assert (caption.captioner, caption.prompt_id) == ("captioner", "unified@1/default")
        assert caption.usage.completion_tokens > 0


def test_other_weights_are_another_captioner(model: Path, tmp_path: Path) -> None:
    first = open_teacher(f"local:{model}")
    weights = (model / "model.safetensors").read_bytes()
    other = tmp_path / "captioner"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert open_teacher(f"local:{other}").fingerprint == first.fingerprint
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert open_teacher(f"local:{other}").fingerprint != first.fingerprint


def test_a_directory_without_weights_is_one_clear_error(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(SharecapError) as caught:
        run(dataset, f"local:{tmp_path / 'model'}", "unified", "own")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "model") in str(caught.value)
