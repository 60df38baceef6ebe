"""Qwen3-VL goes through packs, rules, folders and answers as LLaVA does, with pictures of many sizes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from sharecap.chat.templates import question, template_named
from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError
from sharecap.model.attention import layout
from sharecap.model.build import Llava
from sharecap.model.folder import load, save
from sharecap.model.forward import packed_forward
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.model.lora import Lora
from sharecap.model.pixels import Patches, Pixels
from sharecap.model.trainable import Rule, apply, resolve
from sharecap.records import Conversation
from tests.model.tiny import picture
from tests.model.tiny_qwen import qwen_folder, sized_rows


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return load(qwen_folder(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    return sized_rows(tmp_path_factory.mktemp("rows"))


def pack(
    qwen: Llava, rows: list[Conversation]
) -> tuple[list[Tensor], list[Tensor], Patches, list[tuple[str, ...]]]:
    """Ids and which of them are learned, of each row; their pictures."""
    cutter = Cutter(qwen.tokenizer, template_named("own", qwen.processor), qwen.image_tokens)
    documents = cutter.documents(rows)
    pixels = Pixels(qwen.processor.image_processor)([i for row in rows for i in row.images])
    ids = [torch.from_numpy(d.ids).long() for d in documents]
    return ids, [torch.from_numpy(d.learned) for d in documents], pixels, [d.images for d in documents]


def logits(qwen: Llava, parts: list[Tensor], pixels: Patches | None) -> Tensor:
    ids = torch.cat(parts)
    return packed_forward(qwen.model, ids, layout([len(p) for p in parts]), pixels, torch.arange(len(ids)))


def test_a_picture_takes_places_by_its_size_and_an_answer_is_learned(
    qwen: Llava, rows: list[Conversation]
) -> None:
    ids, learned, pixels, _ = pack(qwen, rows)
    counts = [int((x == qwen.config.image_token_id).sum()) for x in ids]
    assert counts == [*(pixels.grid.prod(-1) // 4).tolist(), 0]
    assert len(set(counts)) > 3
    assert qwen.tokenizer.decode(ids[0][learned[0]]) == "There are 0.<|im_end|>"


def test_our_patches_are_the_processors_to_the_bit(
    qwen: Llava, rows: list[Conversation], tmp_path: Path
) -> None:
    processor = qwen.processor.image_processor
    files = [row.images[0] for row in rows if row.images]
    theirs = processor([Image.open(file) for file in files], return_tensors="pt")
    ours = Pixels(processor)(files)
    assert torch.equal(ours.values, theirs["pixel_values"])
    assert torch.equal(ours.grid, theirs["image_grid_thw"])
    turned = picture(0, 40, 120)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert (
        qwen.image_tokens(tmp_path / "turned.jpg")
        == Pixels(processor)([tmp_path / "turned.jpg"]).grid.prod() // 4
    )


def test_a_picture_that_is_a_mere_line_is_named(qwen: Llava, tmp_path: Path) -> None:
    picture(0, 500, 2).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match=r"500 x 2 pixels, more than 200 times as long.*line\.png"):
        qwen.image_tokens(tmp_path / "line.png")  # type: ignore[operator]


def test_changing_one_document_moves_no_other_by_one_bit(qwen: Llava, rows: list[Conversation]) -> None:
    parts, _, pixels, _ = pack(qwen, rows)
    lengths, counts = [len(p) for p in parts], pixels.grid.prod(-1).tolist()
    with torch.no_grad():
        before = logits(qwen, parts, pixels).split(lengths)
        for changed in range(len(parts)):
            others, values = list(parts), [x.clone() for x in pixels.values.split(counts)]
            words = others[changed] = others[changed].clone()
            words[-3] = 7
            if changed < len(values):
                values[changed] += 1.0
            after = logits(qwen, others, Patches(torch.cat(values), pixels.grid)).split(lengths)
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                assert torch.equal(a, b) == (i != changed)


def test_loss_and_gradients_of_a_pack_are_those_of_plain_transformers(
    qwen: Llava, rows: list[Conversation]
) -> None:
    parts, learned, pixels, images = pack(qwen, rows)
    ids, at = torch.cat(parts), torch.cat(learned).nonzero()[:, 0]
    model = qwen.model.requires_grad_(True)
    model.zero_grad()
    out = packed_forward(model, ids, layout([len(p) for p in parts]), pixels, at - 1)
    loss = cross_entropy(out, ids[at])
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total, patches, grids = 0.0, list(pixels.values.split(pixels.grid.prod(-1).tolist())), list(pixels.grid)
    for part, mask, files in zip(parts, learned, images, strict=True):
        seen = {}
        if files:
            seen = {
                "pixel_values": patches.pop(0),
                "image_grid_thw": grids.pop(0)[None],
                "mm_token_type_ids": (part == qwen.config.image_token_id).int()[None],
            }
        labels = part.masked_fill(~mask, -100)
        model.model.rope_deltas = None
        alone = model(input_ids=part[None], labels=labels[None], **seen).loss * int(mask.sum()) / len(at)
        alone.backward()
        total += float(alone.detach())
    assert float(loss.detach()) == pytest.approx(total, abs=1e-5)
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    model.zero_grad()


def test_a_pack_of_words_alone_reaches_the_vision_parts_with_zeros(
    qwen: Llava, rows: list[Conversation]
) -> None:
    parts = pack(qwen, rows)[0][-1:]
    model = qwen.model.requires_grad_(True)
    model.zero_grad()
    logits(qwen, parts, None).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not model.model.visual.blocks[0].mlp.linear_fc1.weight.grad.any()
    model.zero_grad()


@pytest.mark.parametrize(
    "rules",
    [
        [Rule("projector", 1e-3)],
        [Rule("vision", 1e-3, from_block=1), Rule("projector", 1e-3)],
        [Rule("vision", 1e-3), Rule("language", 1e-4, from_block=1)],
        [Rule("projector", 1e-3), Rule("language", 1e-3, lora=Lora(rank=2, alpha=4))],
    ],
)
def test_what_is_said_to_learn_gets_a_gradient(
    rules: list[Rule], rows: list[Conversation], tmp_path: Path
) -> None:
    qwen = load(qwen_folder(tmp_path))
    trainable = resolve(qwen.model, rules)
    apply(qwen.model, trainable)
    parts, _, pixels, _ = pack(qwen, rows)
    logits(qwen, parts, pixels).sum().backward()
    assert {n for n, p in qwen.model.named_parameters() if p.grad is not None} == set(trainable.rates)


def test_a_saved_model_is_whole_and_gives_the_same_logits_in_plain_transformers(
    rows: list[Conversation], tmp_path: Path
) -> None:
    qwen = load(qwen_folder(tmp_path / "start"))
    with torch.no_grad():
        for p in qwen.model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    save(qwen, tmp_path / "model")
    plain, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids, _, pixels, _ = pack(qwen, rows[:1])
    kinds = (ids[0] == qwen.config.image_token_id).int()[None]
    seen = {"pixel_values": pixels.values, "image_grid_thw": pixels.grid, "mm_token_type_ids": kinds}
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids[0][None], **seen).logits for m in (qwen.model, plain.eval()))
    assert torch.equal(ours, theirs)
    names = {path.name for path in (tmp_path / "start").iterdir()} | {"sharecap.json"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names
    kept = "video_preprocessor_config.json"
    assert (tmp_path / "model" / kept).read_text() == (tmp_path / "start" / kept).read_text()
    assert load(tmp_path / "model").template == "own"


def test_answers_are_those_of_plain_generate(qwen: Llava, rows: list[Conversation]) -> None:
    queries = [Query((row.images[0],), "Is there a circle?") for row in rows[:3]] + [Query((), "How many?")]
    replies = Generator(qwen).generate(queries, Decoding(max_new_tokens=6))
    for query, reply in zip(queries, replies, strict=True):
        row = question([str(i) for i in query.images], query.text)
        ids, _, pixels, _ = (
            pack(qwen, [row]) if query.images else (pack(qwen, [rows[0], row])[0][1:], [], None, [])
        )
        seen = {}
        if pixels is not None:
            kinds = (ids[0] == qwen.config.image_token_id).int()[None]
            seen = {"pixel_values": pixels.values, "image_grid_thw": pixels.grid, "mm_token_type_ids": kinds}
        qwen.model.model.rope_deltas = None
        made = qwen.model.generate(input_ids=ids[0][None], max_new_tokens=6, do_sample=False, **seen)
        text = qwen.tokenizer.decode(made[0, len(ids[0]) :], skip_special_tokens=True)
        assert reply.text == text.strip()


def test_a_damaged_directory_is_one_clear_line(tmp_path: Path) -> None:
    directory = qwen_folder(tmp_path / "qwen")
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(SharecapError, match="damaged model") as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    config = json.loads((directory / "config.json").read_text()) | {"model_type": "qwen2_vl"}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(SharecapError, match="not a LLaVA or Qwen3-VL but 'qwen2_vl'"):
        load(directory)
