"""Which parameters learn, and how fast: ordered rules resolved against a model into a table.

Implements "unfreeze the vision tower from block n" (the paper's section 4.2 and its ablation of n), in full
or through low-rank adapters. Derived from what the forward pass uses: what comes after the feature layer gets
no gradient and must never be listed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import LlavaForConditionalGeneration

from sharecap.errors import UsageError
from sharecap.model import lora
from sharecap.model.build import used_blocks
from sharecap.model.lora import Adapters, Lora
from sharecap.model.projector import has_identity

PartName = Literal["vision", "projector", "language"]
PREFIXES: dict[str, PartName] = {
    "model.vision_tower.": "vision",
    "model.visual.merger.": "projector",  # Qwen's names
    "model.visual.deepstack_merger_list.": "projector",
    "model.visual.": "vision",
    "model.multi_modal_projector.": "projector",
    "model.language_model.": "language",
    "lm_head.": "language",
}
BLOCK = re.compile(r"\.(?:layers|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Rule:
    """One part learns at one rate. Later rules override earlier ones where both speak of a parameter."""

    part: PartName
    learning_rate: float  # peak; 0 freezes
    from_block: int = 0  # the first block that learns; above 0, what comes before the blocks stays frozen
    lora: Lora | None = None  # learn through adapters; all else that the rule speaks of stays frozen

    def __post_init__(self) -> None:
        if not 0 <= self.learning_rate < math.inf:
            raise UsageError(
                f"{self.part} can't learn at a rate of {self.learning_rate}", todo="0 freezes it"
            )


@dataclass(frozen=True)
class Line:
    """One line of the table: parameters of one part that learn at one rate."""

    part: PartName
    learning_rate: float
    rank: int | None  # of the adapters; None: the parameters themselves learn
    blocks: str  # e.g. "12-22", "" where the part has none
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Trainable:
    """The resolved rules: what is printed and stored, and what the optimiser gets."""

    rates: dict[
        str, float
    ]  # parameter name, as after `apply` -> peak learning rate, in the model's own order
    table: tuple[Line, ...]
    frozen: int  # number of parameters that do not learn
    adapters: tuple[Adapters, ...] = ()  # that `apply` puts in

    def lines(self) -> list[str]:
        """The table for people."""
        rows = [f"{'part':<10} {'blocks':>7} {'parameters':>14} {'rate':>9}"]
        for x in self.table:
            adapters = "" if x.rank is None else f"  LoRA of rank {x.rank}"
            rows.append(f"{x.part:<10} {x.blocks:>7} {x.parameters:>14,} {x.learning_rate:>9.1e}{adapters}")
        return [*rows, f"{'frozen':<10} {'':>7} {self.frozen:>14,}"]


def resolve(model: LlavaForConditionalGeneration, rules: Sequence[Rule]) -> Trainable:
    """Resolve the rules; the model is not changed.

    `UsageError` if a rule's first block is absent or never used, if nothing learns, or for adapters that
    would adapt nothing.
    """
    if lora.adapted(model):
        raise UsageError(
            "the model has adapters already", todo="save it, which adds them up, and load it again"
        )
    check(model, rules)
    rates: dict[str, float] = {}
    sizes: dict[str, int] = {}
    ranks: dict[str, int] = {}
    places: dict[int, list[str]] = {}  # number of a rule with adapters -> linear maps
    frozen = 0
    used = used_blocks(model.config)
    for name, parameter in model.named_parameters():
        number = rule_of(name, model, rules, used)
        rule = None if number is None else rules[number]
        if rule is None or rule.learning_rate <= 0:
            frozen += parameter.numel()
        elif rule.lora is None:
            rates[name], sizes[name] = rule.learning_rate, parameter.numel()
        else:
            frozen += parameter.numel()
            assert number is not None
            owner, _, last = name.rpartition(".")
            module = model.get_submodule(owner)
            if last == "weight" and isinstance(module, nn.Linear) and adapts(rule, owner):
                places.setdefault(number, []).append(owner)
                added = lora.parameters_of(module, owner, rule.lora)
                rates.update(dict.fromkeys(added, rule.learning_rate))
                ranks.update(dict.fromkeys(added, rule.lora.rank))
                sizes.update(added)
    for number, rule in enumerate(rules):
        if rule.lora is not None and number not in places:
            todo = "give its rule a rate above 0, and no later rule that overrides it"
            raise UsageError(f"LoRA on {rule.part}, which is frozen or learns in full", todo=todo)
    if not rates:
        raise UsageError("no parameter would learn", todo="give at least one rule with a rate above 0")
    adapters = tuple(
        Adapters(kind, tuple(found)) for n, found in places.items() if (kind := rules[n].lora) is not None
    )
    return Trainable(rates, tuple(table(rates, sizes, ranks)), frozen, adapters)


def check(model: LlavaForConditionalGeneration, rules: Sequence[Rule]) -> None:
    """`UsageError` for a rule that speaks of a block or a linear map that its part has not."""
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
        if rule.lora is not None:
            linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
            known = {n.rpartition(".")[2] for n in linear if part_of(f"{n}.") == rule.part and adaptable(n)}
            unknown = sorted(set(rule.lora.targets) - known)
            if unknown:
                todo = f"use {', '.join(sorted(known))}"
                raise UsageError(f"{rule.part} has no linear map {unknown[0]!r} to adapt", todo=todo)


def adapts(rule: Rule, module: str) -> bool:
    """Whether the rule's adapters go to the linear map of this name."""
    assert rule.lora is not None
    return adaptable(module) and (not rule.lora.targets or module.rpartition(".")[2] in rule.lora.targets)


def adaptable(module: str) -> bool:
    """Adapters belong in blocks and in the projector; the head learns as a whole or not at all."""
    return block_of(f"{module}.") is not None or part_of(f"{module}.") == "projector"


def rule_of(name: str, model: LlavaForConditionalGeneration, rules: Sequence[Rule], used: int) -> int | None:
    """The number of the rule that decides about a parameter; None if none does or it gets no gradient."""
    part, block = part_of(name), block_of(name)
    after = block is not None and block >= used
    if part == "vision" and (after or "post_layernorm" in name or ".head." in name):
        return None
    if part == "projector" and has_identity(model.config) and ".linear_2." in name:
        return None  # the identity that makes a linear projector fit the class
    before_blocks = block is None and ("embed" in name or "pre_layrnorm" in name)
    found = None
    for number, rule in enumerate(rules):
        skipped = rule.from_block > 0 and (before_blocks or (block is not None and block < rule.from_block))
        if rule.part == part and not skipped:
            found = number
    return found


def part_of(name: str) -> PartName:
    return next(part for prefix, part in PREFIXES.items() if name.startswith(prefix))


def block_of(name: str) -> int | None:
    found = BLOCK.search(name)
    return int(found.group(1)) if found else None


def table(rates: dict[str, float], sizes: dict[str, int], ranks: dict[str, int]) -> list[Line]:
    """One line per part, rate and rank of adapters."""
    lines = []
    kinds = {name: (part_of(name), rate, ranks.get(name)) for name, rate in rates.items()}
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name in rates if kinds[name] == kind]
        numbers = sorted({b for n in names if (b := block_of(n)) is not None})
        blocks = f"{numbers[0]}-{numbers[-1]}" if numbers else ""
        lines.append(Line(*kind, blocks, len(names), sum(sizes[n] for n in names)))
    return lines


def apply(
    model: LlavaForConditionalGeneration, trainable: Trainable
) -> list[tuple[float, list[nn.Parameter]]]:
    """Put adapters in and set `requires_grad`; returns each rate's parameters in the model's own order."""
    lora.put_in(model, trainable.adapters)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable.rates)
        if name in trainable.rates:
            groups.setdefault(trainable.rates[name], []).append(parameter)
    return list(groups.items())
