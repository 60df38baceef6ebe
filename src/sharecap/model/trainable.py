"""Which parameters learn, and how fast: ordered rules resolved against a model into a table.

Implements "unfreeze the vision tower from block n" (the paper's section 4.2 and its ablation of n). Derived
from what the forward pass uses: what comes after the feature layer gets no gradient and must never be listed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import LlavaForConditionalGeneration

from sharecap.errors import UsageError
from sharecap.model.build import used_blocks

PartName = Literal["vision", "projector", "language"]
PREFIXES: dict[str, PartName] = {
    "model.vision_tower.": "vision",
    "model.multi_modal_projector.": "projector",
    "model.language_model.": "language",
    "lm_head.": "language",
}
BLOCK = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Rule:
    """One part learns at one rate. Later rules override earlier ones where both speak of a parameter."""

    part: PartName
    learning_rate: float  # peak; 0 freezes
    from_block: int = 0  # the first block that learns; above 0, what comes before the blocks stays frozen


@dataclass(frozen=True)
class Line:
    """One line of the table: parameters of one part that learn at one rate."""

    part: PartName
    learning_rate: float
    blocks: str  # e.g. "12-22", "" where the part has none
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Trainable:
    """The resolved rules: what is printed and stored, and what the optimiser gets."""

    rates: dict[str, float]  # parameter name -> peak learning rate, in the model's own order
    table: tuple[Line, ...]
    frozen: int  # number of parameters that do not learn

    def lines(self) -> list[str]:
        """The table for people."""
        rows = [f"{'part':<10} {'blocks':>7} {'parameters':>14} {'rate':>9}"]
        rows += [
            f"{x.part:<10} {x.blocks:>7} {x.parameters:>14,} {x.learning_rate:>9.1e}" for x in self.table
        ]
        return [*rows, f"{'frozen':<10} {'':>7} {self.frozen:>14,}"]


def resolve(model: LlavaForConditionalGeneration, rules: Sequence[Rule]) -> Trainable:
    """Resolve the rules. `UsageError` if a rule's first block is absent or never used, or nothing learns."""
    config: Any = model.config
    blocks: dict[PartName, int] = {
        "vision": used_blocks(config),
        "language": config.text_config.num_hidden_layers,
        "projector": 0,
    }
    for rule in rules:
        if not 0 <= rule.from_block <= max(blocks[rule.part] - 1, 0):
            todo = f"use 0 to {max(blocks[rule.part] - 1, 0)}"
            raise UsageError(f"{rule.part} has no used block {rule.from_block} to train from", todo=todo)
    rates: dict[str, float] = {}
    frozen = 0
    for name, parameter in model.named_parameters():
        rate = rate_of(name, model, rules, blocks["vision"])
        if rate > 0:
            rates[name] = rate
        else:
            frozen += parameter.numel()
    if not rates:
        raise UsageError("no parameter would learn", todo="give at least one rule with a rate above 0")
    return Trainable(rates, tuple(table(model, rates)), frozen)


def rate_of(name: str, model: LlavaForConditionalGeneration, rules: Sequence[Rule], used: int) -> float:
    """The peak rate of one parameter, 0 if it is frozen or gets no gradient."""
    part = part_of(name)
    number = block_of(name)
    if part == "vision" and ("post_layernorm" in name or (number is not None and number >= used)):
        return 0.0
    if part == "projector" and model.config.projector_hidden_act == "linear" and ".linear_2." in name:
        return 0.0  # the identity that makes a linear projector fit the class
    rate = 0.0
    for rule in rules:
        before_blocks = number is None and ("embed" in name or "pre_layrnorm" in name)
        skipped = rule.from_block > 0 and (before_blocks or (number is not None and number < rule.from_block))
        if rule.part == part and not skipped:
            rate = rule.learning_rate
    return rate


def part_of(name: str) -> PartName:
    return next(part for prefix, part in PREFIXES.items() if name.startswith(prefix))


def block_of(name: str) -> int | None:
    found = BLOCK.search(name)
    return int(found.group(1)) if found else None


def table(model: LlavaForConditionalGeneration, rates: dict[str, float]) -> list[Line]:
    """One line per part and rate."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    lines = []
    for key in dict.fromkeys((part_of(name), rate) for name, rate in rates.items()):
        names = [n for n, rate in rates.items() if (part_of(n), rate) == key]
        numbers = sorted({b for n in names if (b := block_of(n)) is not None})
        blocks = f"{numbers[0]}-{numbers[-1]}" if numbers else ""
        lines.append(Line(*key, blocks, len(names), sum(sizes[n] for n in names)))
    return lines


def apply(
    model: LlavaForConditionalGeneration, trainable: Trainable
) -> list[tuple[float, list[nn.Parameter]]]:
    """Set `requires_grad` accordingly; returns the parameters of each rate, in the model's own order."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable.rates)
        if name in trainable.rates:
            groups.setdefault(trainable.rates[name], []).append(parameter)
    return list(groups.items())
