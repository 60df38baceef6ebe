"""The local captioner: a model directory that captions like any teacher, in batches."""

import asyncio
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from sharecap.captions.captioner import Answer, RejectedError, Request, Sampling
from sharecap.captions.gates import Thresholds
from sharecap.captions.layer import read_layer, read_missing
from sharecap.captions.names import names_in, sure_of
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import run
from sharecap.captions.teachers import open_teacher
from sharecap.errors import SharecapError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog

pytest.importorskip("torch")

from sharecap.model.folder import abstain, save
from sharecap.model.generation import Decoding, Generator, Query

from ..model.tiny import picture, tiny_llava
from ..model.tiny_qwen import qwen_folder

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


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", "vocab.txt", "tokenizer.json"])
def test_another_template_or_tokenizer_is_another_captioner(tmp_path: Path, name: str) -> None:
    for part in ("config.json", "model.safetensors", "README.md", name):
        (tmp_path / part).write_text("{}")
    first = open_teacher(f"local:{tmp_path}").fingerprint
    (tmp_path / "README.md").write_text("Another one's words.")
    assert open_teacher(f"local:{tmp_path}").fingerprint == first
    (tmp_path / name).write_text("[]")
    assert open_teacher(f"local:{tmp_path}").fingerprint != first


def test_a_model_without_such_files_is_known_as_before(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "model" / part).write_text("{}")
    known = "5d57d1b01d9104f5ac799256ffb389618c4fc8e147d46736f32b52a6e52e35c8"
    assert open_teacher(f"local:{tmp_path / 'model'}").fingerprint == f"model:{known}"


def test_a_directory_without_weights_is_one_clear_error(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(SharecapError) as caught:
        run(dataset, f"local:{tmp_path / 'model'}", "unified", "own")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "model") in str(caught.value)


def test_words_that_came_with_a_picture_never_stop_a_run(model: Path, tmp_path: Path) -> None:
    words = ["Sale: <s>20 dollars</s>", "<image><image>", "a dog", "</s>", "<pad> USER:"]
    with tarfile.open(tmp_path / "shop.tar", "w") as tar:
        for number, text in enumerate(words):
            shown = io.BytesIO()
            picture(number).save(shown, "PNG")
            for ending, content in (("txt", text.encode()), ("png", shown.getvalue())):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    add([tmp_path / "shop.tar"], tmp_path / "dataset")
    pack = load_pack("unified").with_options(context=["alt_text"])
    report = run(tmp_path / "dataset", f"local:{model}", pack, "own", sampling=FEW)
    assert report.captions + sum(report.failures.values()) == len(words)
    assert "rejected" not in report.failures


def test_words_that_the_model_can_not_be_asked_cost_one_caption_alone(dataset: Path, model: Path) -> None:
    images = list(Catalog.open(dataset))[:4]
    teacher = open_teacher(f"local:{model}", batch_size=5)
    asked = ["Describe it.", "Describe it: <pad>", "Describe it. " + "very " * 600, "Describe it."]

    async def ask() -> list[Answer | BaseException]:
        requests = [Request(image, text, FEW) for image, text in zip(images, asked, strict=True)]
        answers = await asyncio.gather(*map(teacher.answer, requests), return_exceptions=True)
        await teacher.close()
        return list(answers)

    first, marked, long, last = asyncio.run(ask())
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert isinstance(marked, RejectedError)
    assert isinstance(long, RejectedError)
    assert (marked.where, long.where) == (images[1].path, images[2].path)
    assert "special token <pad>" in marked.what
    assert "tokens where the model has 512 places" in long.what


def test_a_picture_that_is_a_mere_line_is_one_named_failure(tmp_path: Path) -> None:
    place = tmp_path / "pictures" / "coco"
    place.mkdir(parents=True)
    for number in range(4):
        picture(number, *((40, 28) if number else (600, 2))).save(place / f"{number}.png")
    add([place.parent], tmp_path / "dataset")
    teacher = f"local:{qwen_folder(tmp_path / 'qwen')}"
    report = run(tmp_path / "dataset", teacher, "unified", "own", sampling=FEW)
    assert report.captions + sum(report.failures.values()) == 4
    assert report.failures["image_malformed"] == 1
    line = next(image for image in Catalog.open(tmp_path / "dataset") if image.height == 2)
    (why,) = (m.error for m in read_missing(tmp_path / "dataset", "own") if m.image_id == line.id)
    assert why == "600 x 2 pixels, more than 200 times as long as wide"
