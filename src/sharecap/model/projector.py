"""The projector between tower and language model: fresh, or LLaVA's published `mm_projector.bin`.

The paper's first stage starts from such a file (its scripts' `--pretrain_mm_mlp_adapter`). It must never run
code that lies in one, nor take part of one.
"""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from sharecap.errors import SharecapError, UsageError

Kind = Literal["mlp2x_gelu", "linear"]
"""LLaVA's own names: two layers (1.5 and the paper), or one matrix (the first LLaVA)."""

NAMES: dict[Kind, dict[str, str]] = {
    "mlp2x_gelu": {
        f"{theirs}.{x}": f"{ours}.{x}"
        for theirs, ours in (("0", "linear_1"), ("2", "linear_2"))
        for x in ("weight", "bias")
    },
    "linear": {x: f"linear_1.{x}" for x in ("weight", "bias")},
}
"""Tensors of LLaVA's `mm_projector`, and what they are called in transformers' class."""


def has_identity(config: Any) -> bool:
    """Whether the model's second matrix is the identity that makes a linear projector fit the class."""
    return bool(config.model_type == "llava" and config.projector_hidden_act == "linear")


def new_projector(config: Any, kind: Kind, std: float | None, seed: int) -> LlavaMultiModalProjector:
    """A projector with fresh float32 weights.

    `linear` is LLaVA's single matrix in the same class: no activation, and a second matrix that is and stays
    the identity (model/trainable.py never trains it), so that plain transformers loads it too.
    """
    projector = LlavaMultiModalProjector(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            spread = std
            if spread is None:  # 0.02 is made for widths of thousands and stalls narrow models
                spread = 0.02 if linear.in_features >= 1024 else 2 * linear.in_features**-0.5
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * spread)
            linear.bias.zero_()
        if kind == "linear":
            projector.linear_2.weight.copy_(torch.eye(projector.linear_2.in_features))
    return projector


def fill(projector: nn.Module, kind: Kind, path: Path) -> None:
    """Put in the weights of an `mm_projector.bin`; `UsageError` if it is of another kind or size."""
    found = read(path)
    names = NAMES[kind]
    if found.keys() != names.keys():
        other: Kind = "linear" if kind == "mlp2x_gelu" else "mlp2x_gelu"
        if found.keys() == NAMES[other].keys():
            todo = f'build with projector="{other}"'
            raise UsageError(f"a projector of kind {other!r}, not {kind!r}", where=path, todo=todo)
        odd = sorted(found.keys() ^ names.keys())
        raise UsageError(f"not a projector of kind {kind!r} (tensor {odd[0]!r})", where=path)
    parameters = dict(projector.named_parameters())
    for theirs, ours in names.items():
        new, old = found[theirs], parameters[ours]
        if new.shape != old.shape:
            sizes = f"{theirs} is {list(new.shape)}, the parts need {list(old.shape)}"
            todo = "use the tower and language model that it was trained between"
            raise UsageError(f"a projector of another size ({sizes})", where=path, todo=todo)
    with torch.no_grad():
        for theirs, ours in names.items():
            parameters[ours].copy_(found[theirs])


def read(path: Path) -> dict[str, Tensor]:
    """The file's tensors by their names after `mm_projector.`; `SharecapError` if it holds anything else."""
    if not path.is_file():
        raise SharecapError("no such projector file", where=path, todo="give LLaVA's mm_projector.bin")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below, in one line
            found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - whatever a damaged or foreign file makes the unpickler raise
        what = f"cannot be read as tensors ({type(error).__name__})"
        todo = "give LLaVA's mm_projector.bin; a file that would run code is never loaded"
        raise SharecapError(what, where=path, todo=todo) from None
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise SharecapError("holds no named tensors", where=path, todo="give LLaVA's mm_projector.bin")
    foreign = sorted(str(name) for name in found if "mm_projector." not in str(name))
    if foreign:
        what = f"{len(foreign)} tensors belong to no projector, first {foreign[0]}"
        raise SharecapError(what, where=path, todo="give LLaVA's mm_projector.bin")
    return {str(name).split("mm_projector.", 1)[1]: tensor for name, tensor in found.items()}
