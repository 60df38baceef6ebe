"""How the model's blocks are computed: redone in the backward pass to save memory, compiled to save time.

Changes results by rounding at most. Each block's `forward` is wrapped and put back; hooks (sharding's, those
that collect features) stay outside the wrapping, parameters keep their names. It never outlives its `with`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import dropwhile
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import LlavaForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from sharecap.model import liger
from sharecap.model.attention import Attention
from sharecap.model.forward import packing
from sharecap.model.trainable import PartName, part_of

Checkpointing = Literal["none", "selective", "full"]

aten = torch.ops.aten
KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,
    torch.ops.sharecap.attend_groups.default,
    torch.ops.sharecap.attend_tiles.default,
]
"""What selective checkpointing keeps: matrix products and attention. All else is cheap to do again."""


def kept() -> list[Any]:
    """`KEPT`, with the operator that torch has where it carries variable-length attention."""
    try:
        import torch.nn.attention.varlen
    except ImportError:
        return KEPT
    return [*KEPT, torch.ops.torch_attn._varlen_attn.default]


@contextmanager
def computing(
    model: LlavaForConditionalGeneration,
    attention: Attention = "sdpa",
    checkpointing: Checkpointing = "none",
    compiled: bool = False,
    fused: bool = False,
) -> Iterator[None]:
    """Within, the language model attends by layout and blocks are computed so; hold it around `backward` too.

    Checkpointing is for blocks that keep something for a gradient: the language model's, and the vision
    tower's from the first one that learns. Only the language model's are compiled: the tower is a few
    percent of a step, and transformers' hooks in it can't be traced. All lengths share a compilation.
    `fused` are Liger's kernels (liger.py).
    """
    language = blocks_of(model, "language")
    vision = list(dropwhile(frozen, blocks_of(model, "vision")))
    try:
        for block in (*vision, *language):
            forward: Callable[..., Any] = block.forward
            if checkpointing != "none":
                forward = redone(forward, checkpointing)
            if compiled and block in language:
                forward = torch.compile(forward, dynamic=True)
            block.forward = forward
        with packing(model, attention, compiled), liger.fused(model) if fused else nullcontext():
            yield
    finally:
        for block in (*vision, *language):
            vars(block).pop("forward", None)


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Within, inside of `computing`, the model computes as one that was loaded: it can answer."""
    wrapped = [(m, vars(m).pop("forward")) for m in model.modules() if "forward" in vars(m)]
    config: Any = model.model.language_model.config
    packed, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = packed
        for module, forward in wrapped:
            module.forward = forward


def blocks_of(model: nn.Module, part: PartName) -> list[nn.Module]:
    """A part's blocks in order."""
    blocks = ((name, m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer))
    return [block for name, block in blocks if part_of(f"{name}.") == part]


def frozen(block: nn.Module) -> bool:
    return not any(p.requires_grad for p in block.parameters())


def redone(forward: Callable[..., Any], checkpointing: Checkpointing) -> Callable[..., Any]:
    """`forward` with what it kept for the backward pass done again there."""
    if checkpointing == "full":
        return partial(checkpoint, forward, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, kept())
    return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)
