"""What training computes: floating-point operations of a step, from the model's shapes and the rows' lengths.

Two counts. `needed` is what the mathematics asks for, and what MFU is a share of: causal attention, no
padding, no recomputation, a gradient only where something learns. `performed` is what the packed forward pass
really does (model/forward.py). Only matrix products count, as in torch.utils.flop_counter. It must never
guess at a model: every matrix is found in the model itself, which may lack weights (train/memory.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sharecap.model.attention import grouped
from sharecap.model.build import used_blocks
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

    def length(self, image_tokens: int) -> float:
        """Places of a row in the language model."""
        return self.images * image_tokens + self.given + self.learned


@dataclass(frozen=True)
class Work:
    """What a number of rows asks of the model."""

    tokens: float  # places in the language model
    pairs: float  # sum of the squares of the rows' lengths
    padded_pairs: float  # the same as attention computes it: rows padded to the longest of their group
    learned: float  # positions whose logits are computed
    images: float

    def __mul__(self, times: float) -> "Work":
        return Work(
            *(x * times for x in (self.tokens, self.pairs, self.padded_pairs, self.learned, self.images))
        )


def work_of_packs(packs: Iterable[tuple[Sequence[int], int, int]]) -> Work:
    """The work of packs, each given as lengths of its documents, learned positions, pictures."""
    tokens = pairs = padded = learned = images = 0
    for lengths, positions, pictures in packs:
        tokens += sum(lengths)
        pairs += sum(n * n for n in lengths)
        padded += sum(len(group) * max(lengths[i] for i in group) ** 2 for group in grouped(lengths))
        learned += positions
        images += pictures
    return Work(tokens, pairs, padded, learned, images)


def work_of_kinds(kinds: Iterable[RowKind], image_tokens: int) -> Work:
    """The work of one pass over all rows, as if those of one kind were equally long."""
    total = [0.0] * 4
    for kind in kinds:
        length = kind.length(image_tokens)
        each = (length, length * length, kind.learned, kind.images)
        total = [sum_ + kind.rows * x for sum_, x in zip(total, each, strict=True)]
    tokens, pairs, learned, images = total
    return Work(tokens, pairs, pairs, learned, images)


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
    picture_attention: Flops  # of the tower, per picture
    pair_attention: Flops  # of the language model, per pair of places in the square of a row's length
    patches: int  # of a picture
    vision_places: int  # the same with the class token, where there is one
    image_tokens: int

    def flops(self, work: Work) -> Flops:
        """Operations of forward and backward over the work."""
        positions: dict[Where, float] = {
            "patches": work.images * self.patches,
            "vision": work.images * self.vision_places,
            "features": work.images * self.image_tokens,
            "tokens": work.tokens,
            "learned": work.learned,
        }
        needed = sum(2 * p.size * p.needed * positions[p.where] for p in self.products)
        performed = sum(2 * p.size * p.performed * positions[p.where] for p in self.products)
        needed += self.picture_attention.needed * work.images + self.pair_attention.needed * work.pairs
        performed += self.picture_attention.performed * work.images
        performed += self.pair_attention.performed * work.padded_pairs
        return Flops(needed, performed)


def counts(config: Any) -> bool:
    """Whether `cost_of` knows models of this kind: pictures of Qwen's have no one size."""
    return bool(config.model_type == "llava")


def cost_of(llava: nn.Module) -> Cost:
    """The cost of a LLaVA on which `trainable.apply` has said what learns."""
    model: Any = llava
    config = model.config
    learning = [place_of(name, config) for name, p in model.named_parameters() if p.requires_grad]
    first = min(learning, default=LAST)
    products = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            place = place_of(f"{name}.weight", config)
            # In a block the norms come first, so where it learns, its products hand gradients on to them. The
            # pictures themselves never get one, nor do the features of a frozen tower.
            starts = name.endswith((".linear_1", ".patch_embedding"))
            inputs = first < place or (first == place and not starts)
            passes = 1 + int(module.weight.requires_grad) + int(inputs)
            needed = 0 if unused(place, config) else passes
            products.append(Products(where_of(name), module.weight.numel(), needed, passes))
    vision, text = config.vision_config, config.text_config
    places = next(m.num_embeddings for m in model.model.vision_tower.modules() if isinstance(m, nn.Embedding))
    square = 4.0 * places**2 * vision.hidden_size  # scores, and the sum of values that they weigh
    seen = [
        (0 if unused(place, config) else 3 if first <= place else 1, 3.5 if first <= place else 1)
        for place in ((0, block + 1) for block in range(vision.num_hidden_layers))
    ]
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pair = 4.0 * head * text.num_attention_heads
    read = [
        (3 if first <= place else 1, 3.5 if first <= place else 1)  # backward computes the scores once more
        for place in ((2, block + 1) for block in range(text.num_hidden_layers))
    ]
    return Cost(
        products=tuple(products),
        picture_attention=Flops(*(square * sum(x) for x in zip(*seen, strict=True))),
        pair_attention=Flops(pair / 2 * sum(x for x, _ in read), pair * sum(x for _, x in read)),
        patches=(vision.image_size // vision.patch_size) ** 2,
        vision_places=places,
        image_tokens=config.image_seq_length,
    )


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


def where_of(name: str) -> Where:
    """Over which positions a linear map or convolution runs."""
    part = part_of(f"{name}.weight")
    if part == "vision":
        return "patches" if name.endswith("patch_embedding") else "vision"
    if part == "projector":
        return "features"
    return "learned" if name == "lm_head" else "tokens"
