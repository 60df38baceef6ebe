"""Every kind of tower and language model gives the loss and the gradients that plain transformers gives."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from sharecap.model.attention import layout
from sharecap.model.folder import save
from sharecap.model.forward import packed_forward
from tests.model.tiny import tiny_llava

LENGTHS = (23, 9, 40, 23, 11)

FAMILIES = {
    "siglip, llama": ("siglip", {}, {}),
    "clip, mistral": (
        "clip",
        {},
        {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 1},
    ),
    "clip, qwen2": ("clip", {}, {"model_type": "qwen2", "tie_word_embeddings": True}),
    "siglip, qwen3": ("siglip", {"feature_layer": -1}, {"model_type": "qwen3", "head_dim": 16}),
    "clip with class token, linear": ("clip", {"select": "full", "projector": "linear"}, {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_of_a_pack_are_those_of_plain_transformers(family: str, tmp_path: Path) -> None:
    tower, parts, language = FAMILIES[family]
    llava = tiny_llava(tmp_path, parts=parts, tower=tower, **language)
    save(llava, tmp_path / "model")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    generator = torch.Generator().manual_seed(0)
    side, image = llava.config.vision_config.image_size, llava.config.image_token_id
    pixels = torch.randn(len(LENGTHS), 3, side, side, generator=generator)
    documents = [torch.randint(4, 400, (length,), generator=generator) for length in LENGTHS]
    for ids in documents:
        ids[1 : 1 + llava.image_tokens] = image
    ids, learned = torch.cat(documents), torch.cat([x != image for x in documents])
    learned[torch.tensor([0, *LENGTHS]).cumsum(0)[:-1]] = False
    at = learned.nonzero()[:, 0]

    logits = packed_forward(llava.model, ids, layout(LENGTHS), pixels, at - 1)
    loss = cross_entropy(logits, ids[at])
    loss.backward()
    total = 0.0
    for document, picture in zip(documents, pixels, strict=True):
        labels = document.masked_fill(document == image, -100)
        count = int((labels[1:] != -100).sum())
        out = plain(input_ids=document[None], pixel_values=picture[None], labels=labels[None])
        (out.loss * count / len(at)).backward()
        total += float(out.loss.detach()) * count / len(at)

    assert float(loss.detach()) == pytest.approx(total, abs=1e-5)
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in llava.model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert len(ours) > 50
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
