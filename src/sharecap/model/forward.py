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

from sharecap.model.attention import NAMES, Attention, Layout
from sharecap.model.loss import summed_loss


@contextmanager
def packing(model: LlavaForConditionalGeneration, attention: Attention = "sdpa") -> Iterator[None]:
    """Within, the language model attends by layout; hold it around `backward` if blocks are redone.

    Inside another one, that one's kind of attention stays.
    """
    config: Any = model.model.language_model.config
    before = config._attn_implementation
    if before not in NAMES.values():
        config._attn_implementation = NAMES[attention]
    try:
        yield
    finally:
        config._attn_implementation = before


def packed_forward(
    model: LlavaForConditionalGeneration,
    ids: Tensor,  # [T]
    where: Layout,
    pixels: Tensor | None,  # [images, 3, height, width] in order; None: the pack has none
    predict: Tensor,  # [S] positions whose logits are wanted
) -> Tensor:
    """Logits [S, V]. A document's logits do not depend on its neighbours by one bit.

    Without an image, what learns of vision tower and projector gets a gradient of zeros, so that every pack
    reaches every trainable parameter (sharded training would wait for ever for one that doesn't).
    """
    with packing(model):
        logits: Tensor = model(
            input_ids=ids.unsqueeze(0),
            pixel_values=pixels,
            position_ids=where.positions,
            attention_mask=None,
            use_cache=False,
            logits_to_keep=predict,
            packed=where,
        ).logits[0]
    return logits if pixels is not None else logits + 0.0 * unused_picture(model)


def packed_loss(
    model: LlavaForConditionalGeneration,
    ids: Tensor,  # [T]
    where: Layout,
    pixels: Tensor | None,
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
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    learns = any(p.requires_grad for part in (tower, projector) for p in part.parameters())
    if not (learns and torch.is_grad_enabled()):
        return 0.0
    config: Any = model.config
    size = config.vision_config.image_size
    grey = torch.zeros(1, 3, size, size, device=model.device, dtype=model.dtype)
    features: Tensor = model.get_image_features(grey).pooler_output[0]
    return features.sum()
