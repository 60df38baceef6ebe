"""What training computes: floating-point operations of a step, from the model's shapes and the rows' lengths.

Two counts. `needed` is what the mathematics asks for, and what MFU is a share of: causal attention, no
padding, no recomputation, a gradient only where something learns. `performed` is what the packed forward pass
really does (model/forward.py). Only matrix products count, as in torch.utils.flop_counter. It must never
guess at a model: every matrix is found in the model itself, which may lack weights (train/memory.py).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sharecap.model import qwen
from sharecap.model.attention import grouped
from sharecap.model.build import class_tokens, image_tokens, patches_of, used_blocks
from sharecap.model.trainable import block_of, part_of

Where = Literal["patches", "vision", "features", "tokens", "learned"]


@dataclass(frozen=True)
class RowKind:
    """Rows of one kind, as planning sees them. Lengths are means, in tokens."""

    name: str
    rows: int
    images: float  # pictures of a row
    given: float  # tokens of text that are read: start, system words, questions
    learned: float  # tokens that are learned, stops included
    places: float | None = None  # of a picture in the language model; None until it is known which model

    @property
    def picture(self) -> float:
        """Places of one of its pictures, 0 where it has none."""
        if not self.images:
            return 0.0
        assert self.places is not None, "rows are counted by a model that sees their pictures"
        return self.places

    @property
    def length(self) -> float:
        """Places of a row in the language model."""
        return self.images * self.picture + self.given + self.learned


@dataclass(frozen=True)
class Work:
    """What a number of rows asks of the model."""

    tokens: float  # places in the language model
    pairs: float  # sum of the squares of the rows' lengths
    padded_pairs: float  # the same as attention computes it: rows padded to the longest of their group
    learned: float  # positions whose logits are computed
    images: float
    places: float  # of all pictures in the language model
    place_pairs: float  # sum of the squares of each picture's places

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(x * times for x in vars(self).values()))


NOTHING = Work(0, 0, 0, 0, 0, 0, 0)


def work_of_packs(packs: Iterable[tuple[Sequence[int], int, Sequence[int]]]) -> Work:
    """The work of packs, each given as its documents' lengths, learned positions, its pictures' places."""
    total = NOTHING
    for lengths, learned, pictures in packs:
        padded = sum(len(group) * max(lengths[i] for i in group) ** 2 for group in grouped(lengths))
        pairs, place_pairs = (sum(n * n for n in many) for many in (lengths, pictures))
        total += Work(sum(lengths), pairs, padded, learned, len(pictures), sum(pictures), place_pairs)
    return total


def work_of_kinds(kinds: Iterable[RowKind]) -> Work:
    """The work of one pass over all rows, as if those of one kind, and their pictures, were equally long."""
    total = NOTHING
    for kind in kinds:
        pairs, places = kind.length**2, kind.images * kind.picture
        one = Work(kind.length, pairs, pairs, kind.learned, kind.images, places, places * kind.picture)
        total += one * kind.rows
    return total


@dataclass(frozen=True)
class Flops:
    """Floating-point operations."""

    needed: float
    performed: float


@dataclass(frozen=True)
class Products:
    """The matrix products of one place in the model, over `size` multiply-adds per position."""

    where: Where
    size: int
    needed: int  # passes of 2 x size operations per position: forward, gradient of weights, of inputs
    performed: int


@dataclass(frozen=True)
class Cost:
    """What a model with these learning parts costs. Build it with `cost_of`."""

    products: tuple[Products, ...]
    picture_attention: Flops  # of the tower, per pair of places in the square of what it sees of a picture
    pair_attention: Flops  # of the language model, per pair of places in the square of a row's length
    merged: int  # patches that become one place in the language model
    more_patches: int  # that a picture has beyond those, or lacks: a class token may have a place too
    more_seen: int  # the same of the tower's places, the class token among them

    def flops(self, work: Work) -> Flops:
        """Operations of forward and backward over the work."""
        patches = self.merged * work.places
        positions: dict[Where, float] = {
            "patches": patches + self.more_patches * work.images,
            "vision": patches + self.more_seen * work.images,
            "features": work.places,
            "tokens": work.tokens,
            "learned": work.learned,
        }
        needed = sum(2 * p.size * p.needed * positions[p.where] for p in self.products)
        performed = sum(2 * p.size * p.performed * positions[p.where] for p in self.products)
        seen_pairs = self.merged**2 * work.place_pairs  # squares of sums, summed over the pictures
        seen_pairs += 2 * self.more_seen * patches + self.more_seen**2 * work.images
        needed += self.picture_attention.needed * seen_pairs + self.pair_attention.needed * work.pairs
        performed += self.picture_attention.performed * seen_pairs
        performed += self.pair_attention.performed * work.padded_pairs
        return Flops(needed, performed)


def cost_of(llava: nn.Module) -> Cost:
    """The cost of a LLaVA, or one of Qwen's, on which `trainable.apply` has said what learns."""
    model: Any = llava
    config = model.config
    learning = [place_of(name, config) for name, p in model.named_parameters() if p.requires_grad]
    first = min(learning, default=LAST)
    products = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            place = place_of(f"{name}.weight", config)
            read = deep_block(name, config)
            if read is None:
                # In a block the norms come first, so where it learns, its products hand gradients on to them.
                # The pictures themselves never get one, nor do the features of a frozen tower.
                starts = name.endswith((".linear_1", ".patch_embedding", ".patch_embed.proj"))
                inputs = first < place or (first == place and not starts)
            else:  # so do DeepStack's norms, and what they read is a block in the middle of the tower
                inputs = module.weight.requires_grad or first <= (0, read + 1)
            passes = 1 + int(module.weight.requires_grad) + int(inputs)
            needed = 0 if unused(place, config) else passes
            products.append(Products(where_of(name), module.weight.numel(), needed, passes))
    vision, text = config.vision_config, config.text_config
    square = 4.0 * vision.hidden_size  # scores, and the sum of values that they weigh
    seen = [
        (0 if unused(place, config) else 3 if first <= place else 1, 3.5 if first <= place else 1)
        for place in ((0, block + 1) for block in range(vision.num_hidden_layers))
    ]
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pair = 4.0 * head * text.num_attention_heads
    read_by = [
        (3 if first <= place else 1, 3.5 if first <= place else 1)  # backward computes the scores once more
        for place in ((2, block + 1) for block in range(text.num_hidden_layers))
    ]
    merged, patches, places = sizes(config)
    return Cost(
        products=tuple(products),
        picture_attention=Flops(*(square * sum(x) for x in zip(*seen, strict=True))),
        pair_attention=Flops(pair / 2 * sum(x for x, _ in read_by), pair * sum(x for _, x in read_by)),
        merged=merged,
        more_patches=patches,
        more_seen=places,
    )


def sizes(config: Any) -> tuple[int, int, int]:
    """Patches merged into one place; then patches and the tower's places of a picture beyond so many."""
    if config.model_type == qwen.KIND:
        return int(config.vision_config.spatial_merge_size**2), 0, 0
    seen, chosen = patches_of(config) + class_tokens(config), image_tokens(config)
    return 1, patches_of(config) - chosen, seen - chosen


Place = tuple[int, int]
"""Where in the forward pass: part (tower, projector, language model), then block; 0 is before the blocks."""

LAST: Place = (3, 0)


def place_of(name: str, config: Any) -> Place:
    """The place of a parameter."""
    part, block = part_of(name), block_of(name)
    if part == "projector":
        return (1, 0)
    rank, blocks = (0, config.vision_config) if part == "vision" else (2, config.text_config)
    if block is not None:
        return (rank, block + 1)
    before = "embed" in name or "pre_layrnorm" in name
    return (rank, 0 if before else blocks.num_hidden_layers + 1)


def unused(place: Place, config: Any) -> bool:
    """Whether nothing after it reads its result: the tower's blocks behind the feature layer."""
    return place[0] == 0 and place[1] > used_blocks(config)


def deep_block(name: str, config: Any) -> int | None:
    """The block that DeepStack's merger reads, if this is a linear map of one."""
    found = re.search(r"\.deepstack_merger_list\.(\d+)\.", name)
    return int(config.vision_config.deepstack_visual_indexes[int(found[1])]) if found else None


def where_of(name: str) -> Where:
    """Over which positions a linear map or convolution runs."""
    part = part_of(f"{name}.weight")
    if part == "vision":
        return "patches" if name.endswith((".patch_embedding", ".patch_embed.proj")) else "vision"
    if part == "projector":
        return "features"
    return "learned" if name == "lm_head" else "tokens"
