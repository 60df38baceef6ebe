"""Packing isolates, and gives what each document would give alone."""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sharecap.errors import UsageError
from sharecap.model.attention import Attention, check, grouped, layout
from sharecap.model.build import Llava
from sharecap.model.forward import packed_forward, packed_loss, packing
from tests.model.tiny import tiny_llava

LENGTHS = (23, 9, 40, 23, 11)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return tiny_llava(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def shared_heads(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return tiny_llava(tmp_path_factory.mktemp("gqa"), num_attention_heads=4, num_key_value_heads=2)


def documents(llava: Llava, lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Random tokens, each document with one image at its start."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(4, 400, (length,), generator=generator)
        ids[1 : 1 + llava.image_tokens] = llava.config.image_token_id
        made.append(ids)
    return made


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def logits(llava: Llava, parts: Sequence[Tensor], pixels: Tensor | None) -> Tensor:
    device, kind = llava.model.device, llava.model.dtype
    ids = torch.cat(list(parts)).to(device)
    where = layout([len(p) for p in parts], device)
    pixels = None if pixels is None else pixels.to(device, kind)
    return packed_forward(llava.model, ids, where, pixels, torch.arange(len(ids), device=device))


def on_gpu(model: Llava) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch's varlen kernel needs a GPU")
    model.model.to("cuda", torch.bfloat16)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llava", "shared_heads"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "flex", "varlen"])
def test_changing_one_document_moves_no_other_by_one_bit(
    kind: str, training: bool, attention: Attention, request: pytest.FixtureRequest
) -> None:
    llava: Llava = request.getfixturevalue(kind)
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS))
    if attention == "varlen":
        llava = copy.deepcopy(llava)
        on_gpu(llava)
    llava.model.train(training)
    with torch.no_grad(), packing(llava.model, attention):
        before = logits(llava, parts, pixels).split(LENGTHS)
        for changed in range(len(LENGTHS)):
            others, other_pixels = list(parts), pixels.clone()
            others[changed] = documents(llava, LENGTHS, seed=1)[changed]
            other_pixels[changed] = pictures(1, seed=2)
            after = logits(llava, others, other_pixels).split(LENGTHS)
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                assert torch.equal(a, b) == (i != changed)
    llava.model.eval()


@pytest.mark.parametrize("kind", ["llava", "shared_heads"])
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_a_pack_gives_the_logits_of_its_documents_alone_in_plain_transformers(
    kind: str, attention: Attention, request: pytest.FixtureRequest
) -> None:
    llava: Llava = request.getfixturevalue(kind)
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS))
    with torch.no_grad():
        with packing(llava.model, attention):
            packed = logits(llava, parts, pixels).split(LENGTHS)
        for i, part in enumerate(parts):
            alone = llava.model(input_ids=part[None], pixel_values=pixels[i : i + 1]).logits[0]
            # Single precision holds a logit to 1e-7 of the largest; another order of sums moves it by some.
            torch.testing.assert_close(packed[i], alone, atol=1e-6 * float(alone.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["llava", "shared_heads"])
def test_in_double_precision_a_pack_is_its_documents_alone_to_twelve_digits(
    kind: str, request: pytest.FixtureRequest
) -> None:
    llava: Llava = copy.deepcopy(request.getfixturevalue(kind))
    llava.model.double()
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS)).double()
    with torch.no_grad():
        with packing(llava.model, "sdpa"):
            packed = logits(llava, parts, pixels).split(LENGTHS)
        for i, part in enumerate(parts):
            alone = llava.model(input_ids=part[None], pixel_values=pixels[i : i + 1]).logits[0]
            torch.testing.assert_close(packed[i], alone, atol=1e-12, rtol=1e-12)


def test_a_pack_gives_the_gradients_of_its_documents_alone(llava: Llava) -> None:
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS))
    model = llava.model.requires_grad_(True)
    model.zero_grad()
    logits(llava, parts, pixels).square().sum().backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for i, part in enumerate(parts):
        model(input_ids=part[None], pixel_values=pixels[i : i + 1]).logits.square().sum().backward()
    assert len(packed) > 50
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(packed[name], p.grad, atol=1e-3, rtol=1e-4, msg=name)
    model.zero_grad()


def test_loss_and_gradients_are_those_of_a_padded_batch_in_plain_transformers(llava: Llava) -> None:
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS))
    model = llava.model.requires_grad_(True)
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in parts], batch_first=True)
    place = torch.arange(ids.shape[1])
    labels = ids.where((mask == 1) & (place > 6) & (place % 3 > 0), -100)  # nothing of an image
    model.zero_grad()
    plain = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels).loss
    plain.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    flat = torch.cat([row[: len(p)] for row, p in zip(labels, parts, strict=True)])
    learned = torch.nonzero(flat != -100).flatten()
    where = layout(LENGTHS)
    loss = packed_loss(model, torch.cat(parts), where, pixels, predict=learned - 1, targets=flat[learned])
    loss = loss / len(learned)
    loss.backward()
    torch.testing.assert_close(loss, plain, atol=1e-6, rtol=1e-6)
    assert len(expected) > 50
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-5, msg=name)
    model.zero_grad()


def test_kernels_that_need_a_gpu_are_refused_in_one_line_on_a_cpu() -> None:
    check("sdpa", torch.device("cpu"), torch.float32)
    with pytest.raises(UsageError, match=r"attention 'flex' needs a GPU to train\. use attention 'sdpa'"):
        check("flex", torch.device("cpu"), torch.float32)
    with pytest.raises(UsageError, match="half precision only"):
        check("varlen", torch.device("cuda"), torch.float32)


def test_only_the_wanted_logits_are_computed_and_they_keep_their_bits(llava: Llava) -> None:
    parts, pixels = documents(llava, LENGTHS), pictures(len(LENGTHS))
    wanted = torch.tensor([3, 30, 31, 80])
    with torch.no_grad():
        everything = logits(llava, parts, pixels)
        some = packed_forward(llava.model, torch.cat(parts), layout(LENGTHS), pixels, wanted)
    torch.testing.assert_close(some, everything[wanted], atol=1e-6, rtol=1e-6)


def test_the_model_is_left_as_it_was_even_after_an_error(llava: Llava, tmp_path: Path) -> None:
    config = llava.config.text_config
    with pytest.raises(Exception, match="tokens"):
        logits(llava, documents(llava, LENGTHS), pictures(1))
    assert config._attn_implementation == "sdpa"
    with packing(llava.model):
        assert config._attn_implementation == "sharecap_sdpa"
        llava.config.save_pretrained(tmp_path)
    assert "sharecap_sdpa" not in (tmp_path / "config.json").read_text()


def test_without_an_image_the_vision_parts_get_zeros_and_the_logits_keep_their_bits(llava: Llava) -> None:
    parts = [torch.arange(5, 25), torch.arange(30, 40)]
    model = llava.model.requires_grad_(True)
    with torch.no_grad():
        before = logits(llava, parts, None)
    model.zero_grad()
    after = logits(llava, parts, None)
    assert torch.equal(before, after)
    after.sum().backward()
    assert all(not p.grad.any() for p in model.model.multi_modal_projector.parameters())
    assert not model.model.vision_tower.encoder.layers[0].mlp.fc1.weight.grad.any()
    model.zero_grad()


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_every_token_has_one_place_and_padding_stays_small(lengths: list[int]) -> None:
    where = layout(lengths)
    places = sum(n * longest for n, longest in where.groups.view(-1, 2).tolist())
    assert len(where.spread) == places
    assert places <= 1.25 * sum(lengths) + 1e-9
    assert torch.equal(where.spread[where.back], torch.arange(sum(lengths)))
    assert len(set(where.back.tolist())) == sum(lengths)
    assert where.positions[0].tolist() == list(itertools.chain(*(range(n) for n in lengths)))
    assert sorted(itertools.chain(*grouped(lengths))) == list(range(len(lengths)))
