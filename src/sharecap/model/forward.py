"""The one packed forward pass: several documents in one row, none of which can see another.

Hugging Face's Llava leaks between packed documents unless the call is made just so; this is the only place
that makes it. It must never change the model that it is given.

Shape letters: T tokens of the pack, S positions whose logits are kept, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from sharecap.model import qwen, tiles
from sharecap.model.attention import KERNELS, NAMES, TILES, Attention, Layout
from sharecap.model.build import grey_picture
from sharecap.model.loss import summed_loss
from sharecap.model.pixels import Patches
from sharecap.model.trainable import part_of


@contextmanager
def packing(
    model: LlavaForConditionalGeneration, attention: Attention = "sdpa", compiled: bool = False
) -> Iterator[None]:
    """Within, the language model attends by layout; hold it around `backward` if blocks are redone.

    Inside another one, that one's kind of attention stays.
    """
    config: Any = model.model.language_model.config
    before = config._attn_implementation
    if before not in KERNELS:
        in_tiles = compiled and attention == "sdpa" and model.device.type == "cpu" and tiles.library()
        config._attn_implementation = TILES if in_tiles else NAMES[attention]
    try:
        yield
    finally:
        config._attn_implementation = before


def packed_forward(
    model: LlavaForConditionalGeneration,
    ids: Tensor,  # [T]
    where: Layout,
    pixels: Tensor | Patches | None,  # [images, 3, height, width] in order; None: the pack has none
    predict: Tensor,  # [S] positions whose logits are wanted
) -> Tensor:
    """Logits [S, V]. A document's logits do not depend on its neighbours by one bit.

    Without an image, what learns of vision tower and projector gets a gradient of zeros, so that every pack
    reaches every trainable parameter (sharded training would wait for ever for one that doesn't).
    """
    with packing(model):
        logits: Tensor = model(
            input_ids=ids.unsqueeze(0),
            **pictures_and_places(model, ids, where, pixels),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=predict,
            packed=where,
        ).logits[0]
    return logits if pixels is not None else logits + 0.0 * unused_picture(model)


def pictures_and_places(
    model: Any, ids: Tensor, where: Layout, pixels: Tensor | Patches | None
) -> dict[str, Any]:
    """What the model's class calls the pictures, and the places of the tokens."""
    if isinstance(pixels, Patches):
        places = qwen.positions(model, ids, where.positions[0], pixels.grid)
        return {"pixel_values": pixels.values, "image_grid_thw": pixels.grid, "position_ids": places}
    return {"pixel_values": pixels, "position_ids": where.positions}


def packed_loss(
    model: LlavaForConditionalGeneration,
    ids: Tensor,  # [T]
    where: Layout,
    pixels: Tensor | Patches | None,
    *,
    predict: Tensor,  # [S]
    targets: Tensor,  # [S] the token that each of these positions must give
    compiled: bool = False,  # what is not in the blocks
) -> Tensor:
    """Sum of the cross-entropies of the packed forward pass, float32; its logits are never whole."""
    with summed_loss(model.lm_head, targets, compiled):
        return packed_forward(model, ids, where, pixels, predict)


def unused_picture(model: LlavaForConditionalGeneration) -> Tensor | float:
    """The sum of a grey picture's features, where the parts that make them learn."""
    learns = any(p.requires_grad for name, p in model.named_parameters() if part_of(name) != "language")
    if not (learns and torch.is_grad_enabled()):
        return 0.0
    pixels, _ = grey_picture(model.config)
    pixels = pixels.to(model.device, model.dtype)
    if isinstance(pixels, Patches):
        return qwen.summed_features(model, pixels)
    features: Tensor = model.get_image_features(pixels).pooler_output[0]
    return features.sum()
