"""Liger's kernels for the language model, in place of what they fuse: RMSNorm, and SwiGLU's product.

An option for GPUs; the package `liger-kernel` is installed by whoever wants it. Results change by rounding.
Of what Liger has besides: its loss is not taken, since ours leaves out the positions that are not learned
(loss.py); nor its rotary positions, since they replace a function of transformers for the whole process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from sharecap.errors import UsageError

PATCHED = ("forward", "extra_repr", "_get_name")
"""What Liger sets on a module."""


def check(device: torch.device) -> None:
    """`UsageError` where Liger can't run."""
    if find_spec("liger_kernel") is None:
        todo = "pip install liger-kernel, or leave liger away"
        raise UsageError("liger asks for liger-kernel, which is not installed", todo=todo)
    if device.type != "cuda":
        raise UsageError(f"Liger's kernels need a GPU, not {device.type!r}", todo="leave liger away")


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """Within, the language model's norms and feed-forwards are Liger's; hold it around `backward` too.

    `UsageError` for a language model that Liger does not know.
    """
    from liger_kernel.transformers import (  # type: ignore[import-not-found,unused-ignore]
        _apply_liger_kernel_to_instance,
    )

    language = model.model.language_model
    before = {module: set(vars(module)) for module in language.modules()}
    off = dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy"), False)
    _apply_liger_kernel_to_instance(language, rms_norm=True, swiglu=True, **off)
    changed = [module for module, own in before.items() if "forward" in vars(module).keys() - own]
    if not changed:
        todo = "leave liger away"
        raise UsageError(f"Liger has no kernels for a {language.config.model_type!r}", todo=todo)
    try:
        yield
    finally:
        for module in changed:
            for name in PATCHED:
                vars(module).pop(name, None)
