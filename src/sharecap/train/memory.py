"""What training holds in memory, by kind, found without holding it: a step of the model on fake tensors.

Fake tensors have shapes and no content, so the real forward and backward pass of the real model runs through
in seconds whatever its size, and what is alive at each moment is counted. It must never say that a run fits
because something was left out: what can't be counted (driver, fragmentation) is `RESERVE`.
"""

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlavaForConditionalGeneration, Qwen3VLForConditionalGeneration

from sharecap.model import qwen, trainable
from sharecap.model.attention import layout
from sharecap.model.forward import packed_forward, packing
from sharecap.model.pixels import Patches
from sharecap.model.trainable import Rule
from sharecap.train.config import Precision

aten: Any = torch.ops.aten

RESERVE = 0.08
"""Share of a GPU that is left to the driver, the libraries and the allocator's gaps."""

Sharding = Literal["none", "ddp", "fsdp"]
"""One process; the whole model in each; weights, gradients and optimiser in shards (FSDP2)."""


@dataclass(frozen=True)
class Memory:
    """Bytes in one process when most is held."""

    weights: float
    gradients: float
    optimizer: float  # AdamW's two moments
    activations: float  # kept from forward for backward
    logits: float  # of the learned positions, and what the loss makes of them
    buffers: float  # weights cast or gathered for the computation, and what is alive for a moment

    @property
    def total(self) -> float:
        """All kinds together."""
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class PackShape:
    """The largest pack that a step is expected to hold."""

    lengths: tuple[int, ...]  # of its documents, in tokens
    learned: int  # positions whose logits are computed
    images: int
    places: int  # of each of them in the language model


class Imagined:
    """A model of this configuration without its weights, made ready for a stage as the loop does it.

    What learns is held in fp32, the rest in the configuration's own precision.
    """

    def __init__(self, config: Any, rules: Sequence[Rule], precision: Precision) -> None:
        self.precision = precision
        self.traces: dict[tuple[PackShape, bool], Live] = {}
        self.dtype: Any = config.dtype
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        kind: Any = (
            Qwen3VLForConditionalGeneration
            if config.model_type == qwen.KIND
            else LlavaForConditionalGeneration
        )
        with self.mode:
            self.model: Any = kind(config)
            self.learns = trainable.resolve(self.model, rules)
            trainable.apply(self.model, self.learns)
            for parameter in self.model.parameters():
                exact = parameter.requires_grad or precision == "fp32"
                parameter.data = parameter.data.to(torch.float32 if exact else self.dtype)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def learning(self) -> int:
        """Of what learns."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: what learns and its two moments, in fp32."""
        return 3 * 4 * self.learning

    def memory(self, pack: PackShape, sharding: Sharding = "none", processes: int = 1) -> Memory:
        """What one of `processes` holds when it learns from packs of this shape."""
        weights, gradients = sum(p.nbytes for p in self.model.parameters()), 4 * self.learning
        shards, gathered = 1, 0
        if sharding == "fsdp":
            shards, gathered = processes, self.gathered()
        live = self.traced(pack, whole=sharding != "fsdp")
        return Memory(
            weights=weights / shards,
            gradients=gradients / shards,
            optimizer=2 * gradients / shards,
            activations=live.forward - live.casts - live.logits,
            logits=live.loss - live.forward + live.logits,
            buffers=gathered + live.casts + live.peak - live.loss,
        )

    def gathered(self) -> int:
        """Bytes that sharded training makes whole for a while (an estimate, not traced).

        The block at work and the next one, all that stands outside of blocks, and the gradients of two blocks
        on their way to their shards.
        """
        size = 2 if self.precision == "bf16" else 4
        stacks = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        blocks = [list(block.parameters()) for stack in stacks for block in stack]
        every = [sum(p.numel() for p in block) for block in blocks]
        learns = [sum(p.numel() for p in block if p.requires_grad) for block in blocks]
        outside = self.parameters - sum(every)
        return size * (2 * max(every) + outside) + (size + 4) * 2 * max(learns)

    def traced(self, pack: PackShape, *, whole: bool) -> "Live":
        """A step with such a pack, by weights as they are kept, or as they are gathered from shards."""
        if (pack, whole) not in self.traces:
            with nullcontext() if whole or self.precision == "fp32" else self.gathered_weights():
                self.traces[pack, whole] = self.step(pack)
        return self.traces[pack, whole]

    @contextmanager
    def gathered_weights(self) -> Iterator[None]:
        """Within, all weights have the precision that they compute in."""
        before = {parameter: parameter.data for parameter in self.model.parameters()}
        with self.mode:
            for parameter, data in before.items():
                parameter.data = data.bfloat16()
        try:
            yield
        finally:
            for parameter, data in before.items():
                parameter.data = data

    def step(self, pack: PackShape) -> "Live":
        """Run one pack forward and backward, and count what is alive beside weights and gradients."""
        model = self.model.train()
        lengths, ids = self.words(pack)
        where, predict = layout(lengths), torch.arange(pack.learned)
        pixels = self.pictures(pack) if pack.images else None
        with self.mode:
            for parameter in model.parameters():  # as after a step's first pack
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            live = Live(model)
            with Computed(), live, packing(model):  # type: ignore[no-untyped-call]
                with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                    logits = packed_forward(model, ids, where, pixels, predict)
                live.forward, live.casts, live.logits = live.now, live.cast, logits.nbytes
                loss = cross_entropy(logits.float(), torch.zeros_like(predict), reduction="sum")
                live.loss = live.now
                loss.backward()  # type: ignore[no-untyped-call]
            for parameter in model.parameters():
                parameter.grad = None
        return live

    def words(self, pack: PackShape) -> tuple[tuple[int, ...], Tensor]:
        """Lengths of the documents and their tokens [T]: a picture at the head of as many as there are.

        Where documents are too few or too short for that, they are as many equal ones as there are pictures.
        """
        total, lengths = sum(pack.lengths), pack.lengths
        if len(lengths) < pack.images or any(n < pack.places for n in lengths[: pack.images]):
            ends = [total * i // pack.images for i in range(pack.images + 1)]
            lengths = tuple(after - start for start, after in itertools.pairwise(ends))
        ids = torch.zeros(total, dtype=torch.long)
        for start in itertools.accumulate((0, *lengths[: pack.images - 1])) if pack.images else ():
            ids[start : start + pack.places] = self.model.config.image_token_id
        return lengths, ids

    def pictures(self, pack: PackShape) -> Tensor | Patches:
        """Fake pictures as the model takes them; where their size is free, one place high."""
        config = self.model.config
        if config.model_type != qwen.KIND:
            size = config.vision_config.image_size
            with self.mode:
                return torch.zeros(pack.images, 3, size, size)
        one = qwen.grey(config)
        grid = (one.grid * torch.tensor([1, 1, pack.places])).repeat(pack.images, 1)
        patches = int(grid.prod(-1).sum())
        with self.mode:
            return Patches(torch.zeros(patches, one.values.shape[1]), grid)


class Computed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes what no fake tensor enters: tokens, sizes, masks, whose content a model's code reads."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if FakeTensor in types:
            if func in MASKED:  # by places, since how many a mask holds decides on a shape
                with unset_fake_temporarily():
                    args = (args[0], [y for x in args[1] for y in where_true(x)], *args[2:])
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


MASKED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


def where_true(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the places where it is true, a tensor for each of its directions; another index as it is."""
    return list(index.nonzero().unbind(1)) if index is not None and index.dtype == torch.bool else [index]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that tensors made inside hold while they are alive, and the most at once."""

    forward = casts = logits = loss = 0  # what was alive at these moments of a step

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        held = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self.alive = dict.fromkeys((t.untyped_storage()._cdata for t in (*held, *model.buffers())), 0)
        self.now = self.peak = self.cast = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        is_cast = func is aten._to_copy.default and args[0].untyped_storage()._cdata in self.weights
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.see(tensor.untyped_storage(), is_cast)
        return made

    def see(self, storage: Any, is_cast: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = size
            self.now += size
            self.cast += size * is_cast
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, key, is_cast)

    def forget(self, key: int, is_cast: bool) -> None:
        size = self.alive.pop(key)
        self.now -= size
        self.cast -= size * is_cast
