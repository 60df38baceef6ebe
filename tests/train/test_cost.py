"""The cost model against reality: operations as torch counts them, memory as torch allocates it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from sharecap.model.attention import layout
from sharecap.model.forward import packed_forward, packing
from sharecap.model.pixels import Patches
from sharecap.model.trainable import Rule, apply, resolve
from sharecap.train.cost import RowKind, cost_of, work_of_kinds, work_of_packs
from sharecap.train.memory import Imagined, PackShape
from tests.model.tiny import tiny_llava

PACKS = {
    "llava": PackShape(lengths=(150, 120, 90, 40), learned=200, images=3, places=4),
    "qwen": PackShape(lengths=(150, 120, 90, 40), learned=200, images=3, places=24),
}
STAGES = {
    "align": (Rule("projector", 1e-3),),
    "pretrain": (Rule("vision", 1e-5, from_block=1), Rule("projector", 1e-3), Rule("language", 1e-3)),
    "sft": (Rule("projector", 1e-3), Rule("language", 1e-3)),
    "upper blocks": (Rule("language", 1e-3, from_block=2),),
}


@dataclass(frozen=True)
class Subject:
    """A model and a pack for it: four blocks of width 128, small, but no product is too small to count."""

    model: Any
    pack: PackShape
    pixels: Tensor | Patches


@pytest.fixture(scope="module", params=PACKS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    pack = PACKS[request.param]
    text = {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if request.param == "llava":
        llava = tiny_llava(tmp_path_factory.mktemp("parts"), **text)
        return Subject(llava.model, pack, torch.rand(pack.images, 3, 32, 32))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]}
    vision = {
        "depth": 4,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "patch_size": 8,
        "out_hidden_size": 128,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 2],
    }
    config = Qwen3VLConfig(
        text_config={**text, "vocab_size": 300, "head_dim": 32, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=299,
        video_token_id=298,
        vision_start_token_id=297,
        vision_end_token_id=296,
    )
    grid = torch.tensor([[1, 8, 12]] * pack.images)  # 24 places of 2 x 2 patches
    pixels = Patches(torch.rand(int(grid.prod(-1).sum()), 3 * 2 * 8 * 8), grid)
    return Subject(Qwen3VLForConditionalGeneration(config), pack, pixels)


def learn(subject: Subject, precision: str = "fp32") -> Iterator[Any]:
    """A real step over the pack: hands out the model after forward, then after backward."""
    model, pack = subject.model, subject.pack
    ids = torch.full((sum(pack.lengths),), 5)
    starts = torch.tensor([0, *pack.lengths]).cumsum(0)[: pack.images]
    for start in starts:  # one picture at the head of a document
        ids[start : start + pack.places] = model.config.image_token_id
    predict = torch.arange(pack.learned)
    where = layout(pack.lengths)
    with packing(model):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = packed_forward(model, ids, where, subject.pixels, predict)
        loss = cross_entropy(logits.float(), predict % 7, reduction="sum")
        yield
        loss.backward()
        yield


@contextmanager
def learning(model: Any, name: str) -> Iterator[None]:
    """What learns in this stage, its gradients there as after a first pack."""
    apply(model, resolve(model, STAGES[name]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    model.train()
    yield
    model.zero_grad()


def shapes_of_groups(q: Tensor, groups: Tensor) -> list[tuple[int, int, int, int]]:
    return [(n, q.shape[1], length, q.shape[2]) for n, length in groups.view(-1, 2).tolist()]


def forward_of_groups(*inputs: Any, **_: Any) -> int:
    q, _k, _v, groups, *_others = inputs
    return sum(sdpa_flop_count(shape, shape, shape) for shape in shapes_of_groups(q, groups))


def backward_of_groups(*inputs: Any, **_: Any) -> int:
    _grad, _out, _sums, q, _k, _v, groups, *_others = inputs
    shapes = shapes_of_groups(q, groups)
    return sum(sdpa_backward_flop_count(shape, shape, shape, shape) for shape in shapes)


def sdpa_forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The counter knows the kernels of GPUs alone."""
    return sdpa_flop_count(query, key, value)


def sdpa_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


for counts in (forward_of_groups, backward_of_groups):
    counts._get_raw = True  # type: ignore[attr-defined]  # the counter hands out shapes else


@pytest.mark.parametrize("name", STAGES)
def test_operations_are_those_that_torch_counts(subject: Subject, name: str) -> None:
    attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward,
        torch.ops.sharecap.attend_groups: forward_of_groups,
        torch.ops.sharecap.attend_groups_gradient: backward_of_groups,
    }
    pack = subject.pack
    with learning(subject.model, name), FlopCounterMode(display=False, custom_mapping=attention) as counter:
        list(learn(subject))
        counted = counter.get_total_flops()
        work = work_of_packs([(pack.lengths, pack.learned, [pack.places] * pack.images)])
        told = cost_of(subject.model).flops(work)
    assert told.performed == pytest.approx(counted, rel=0.01)
    assert 0.6 * told.performed < told.needed < told.performed


def allocated(subject: Subject, precision: str) -> tuple[int, int]:
    """Bytes that the CPU's allocator has given beyond what was there: after forward, and at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        steps = learn(subject, precision)
        next(steps)
        marker = torch.empty(12_345_678, dtype=torch.uint8)
        del marker
        next(steps)
    assert prof.profiler is not None
    changes = [e.nbytes() for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    at = changes.index(12_345_678)
    del changes[at : at + 2]
    held = [sum(changes[: i + 1]) for i in range(len(changes))]
    return held[at - 1], max(held)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["align", "pretrain"])
def test_memory_is_what_torch_allocates(subject: Subject, name: str, precision: Any) -> None:
    model = subject.model
    with learning(model, name):
        list(learn(subject, precision))  # the first time, libraries keep buffers of their own
        kept, most = allocated(subject, precision)
        own = [p for p in model.parameters() if p.grad is not None]
        optimizer = torch.optim.AdamW(own)
        optimizer.step()
        state = [x for one in optimizer.state.values() for x in one.values() if x.numel() > 1]
        told = Imagined(model.config, STAGES[name], precision).memory(subject.pack)
        assert told.weights == sum(p.nbytes for p in model.parameters())
        assert told.gradients == sum(p.grad.nbytes for p in own if p.grad is not None)
        assert told.optimizer == sum(x.nbytes for x in state)
    steps = told.activations + told.logits + told.buffers
    assert steps == pytest.approx(most, rel=0.04)
    if precision == "fp32":  # in bf16, weights that were cast are kept too; they count as buffers
        assert told.activations + told.logits == pytest.approx(kept, rel=0.03)


def test_what_is_sharded_is_divided_and_what_is_frozen_keeps_its_precision(subject: Subject) -> None:
    config, pack = replace_dtype(subject.model.config), subject.pack
    imagined = Imagined(config, STAGES["align"], "bf16")
    alone, shared = imagined.memory(pack), imagined.memory(pack, "fsdp", 4)
    assert alone.weights == 2 * (imagined.parameters - imagined.learning) + 4 * imagined.learning
    assert (shared.weights, shared.gradients) == (alone.weights / 4, alone.gradients / 4)
    assert imagined.checkpoint_bytes == 12 * imagined.learning
    # Neither trace changed the model that both started from.
    assert imagined.memory(pack) == alone


def replace_dtype(config: Any) -> Any:
    found = type(config).from_dict(config.to_dict())
    found.dtype = torch.bfloat16
    return found


def test_rows_of_one_kind_are_the_packs_that_they_make() -> None:
    kinds = (RowKind("a", rows=2, images=1, given=6, learned=30, places=4), RowKind("b", 3, 0, 10, 5))
    packs: list[Any] = [((40, 40), 60, (4, 4)), ((15, 15, 15), 15, ())]
    assert work_of_kinds(kinds) == work_of_packs(packs)
    assert work_of_packs([((40, 20), 10, ())]).padded_pairs == 40**2 + 20**2  # too unlike to share a group
    assert work_of_packs([((40, 39), 10, ())]).padded_pairs == 2 * 40**2
