"""Low-rank adapters (LoRA, arXiv 2106.09685) through `peft`: put in for training, added up on export.

The authors' code has the way too (rank 128, every linear map of the language model's blocks). A saved folder
must never hold an adapter: it is a plain model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharecap.errors import SharecapError, UsageError

ADAPTER = "default"
"""peft's name for the only adapter of a layer."""

BASE, ADDED = ".base_layer.", ".lora_"
"""In a parameter's name: what is adapted, and what an adapter adds."""


@dataclass(frozen=True)
class Lora:
    """What an adapter is like: W + alpha / rank * B A, with A [rank, in], B [out, rank] zero at the start."""

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05  # of an adapter's input, while training
    targets: tuple[str, ...] = ()  # linear maps that are adapted, e.g. "q_proj"; empty: all of the part
    seed: int = 0  # of A's initial weights

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UsageError("LoRA needs rank >= 1, alpha > 0 and a dropout of 0 up to, not including, 1")


@dataclass(frozen=True)
class Adapters:
    """Where one kind of adapter goes."""

    lora: Lora
    modules: tuple[str, ...]  # names of linear maps in the model


def parameters_of(module: nn.Linear, name: str, lora: Lora) -> dict[str, int]:
    """Names that the adapter's two matrices will have, and the number of their values."""
    return {
        f"{name}.lora_A.{ADAPTER}.weight": lora.rank * module.in_features,
        f"{name}.lora_B.{ADAPTER}.weight": module.out_features * lora.rank,
    }


def put_in(model: nn.Module, adapters: Sequence[Adapters]) -> None:
    """Change the model: its linear maps of these names get an adapter each. Its outputs stay the same."""
    if not adapters:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise SharecapError("LoRA needs peft", todo="pip install 'sharecap[train]'") from None
    for kind in adapters:
        lora = kind.lora
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=list(kind.modules),
        )
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        vars(model).pop("peft_config", None)  # a mark by which peft would warn of the next kind
        generator = torch.Generator().manual_seed(lora.seed)
        for name in kind.modules:
            adapted: Any = model.get_submodule(name)
            weight = adapted.lora_A[ADAPTER].weight
            fresh = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)  # peft's own, but from our seed
            with torch.no_grad():
                weight.copy_(fresh)


def adapted(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return any(ADDED in name for name, _ in model.named_parameters())


def merged(model: nn.Module) -> dict[str, Tensor]:
    """All weights under a plain model's names, adapters added up. The model itself is not changed."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items() if ADDED not in name}
    plain = {name.replace(BASE, "."): tensor for name, tensor in state.items()}
    for name, weight in state.items():
        if name.endswith(f"{BASE}weight"):
            layer: Any = model.get_submodule(name.removesuffix(f"{BASE}weight"))
            with torch.no_grad():
                total = weight.float() + layer.get_delta_weight(ADAPTER).float()
            plain[name.replace(BASE, ".")] = total.to(weight.dtype)
    return plain
