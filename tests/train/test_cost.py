"""The cost model against reality: operations as torch counts them, memory as torch allocates it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sharecap.model.attention import layout
from sharecap.model.build import Llava
from sharecap.model.forward import packed_forward, packing
from sharecap.model.trainable import Rule, apply, resolve
from sharecap.train.config import TrainConfig
from sharecap.train.cost import RowKind, cost_of, work_of_kinds, work_of_packs
from sharecap.train.memory import Imagined, PackShape
from tests.model.tiny import tiny_llava

PACK = PackShape(lengths=(150, 120, 90, 40), learned=200, images=3)
STAGES = {
    "align": (Rule("projector", 1e-3),),
    "pretrain": (Rule("vision", 1e-5, from_block=1), Rule("projector", 1e-3), Rule("language", 1e-3)),
    "sft": (Rule("projector", 1e-3), Rule("language", 1e-3)),
    "upper blocks": (Rule("language", 1e-3, from_block=2),),
}


def stage(name: str, precision: Any = "fp32") -> TrainConfig:
    return TrainConfig(template="plain", rules=STAGES[name], batch_rows=4, steps=1, precision=precision)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    """Four blocks of width 128, grouped queries; small, but no product is so small that it doesn't count."""
    return tiny_llava(
        tmp_path_factory.mktemp("parts"),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def learn(llava: Llava, precision: str = "fp32") -> Iterator[Any]:
    """A real step over a pack of that shape: hands out the model after forward, then after backward."""
    ids = torch.full((sum(PACK.lengths),), 5)
    starts = torch.tensor([0, *PACK.lengths]).cumsum(0)[: PACK.images]
    for start in starts:  # one picture at the head of a document
        ids[start : start + llava.image_tokens] = llava.config.image_token_id
    pixels = torch.rand(PACK.images, 3, 32, 32)
    predict = torch.arange(PACK.learned)
    where = layout(PACK.lengths)
    with packing(llava.model):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = packed_forward(llava.model, ids, where, pixels, predict)
        loss = cross_entropy(logits.float(), predict % 7, reduction="sum")
        yield
        loss.backward()
        yield


@contextmanager
def learning(llava: Llava, name: str) -> Iterator[None]:
    """What learns in this stage, its gradients there as after a first pack."""
    apply(llava.model, resolve(llava.model, STAGES[name]))
    for parameter in llava.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    llava.model.train()
    yield
    llava.model.zero_grad()


def shapes_of_groups(q: Tensor, groups: Tensor) -> list[tuple[int, int, int, int]]:
    return [(n, q.shape[1], length, q.shape[2]) for n, length in groups.view(-1, 2).tolist()]


def forward_of_groups(*inputs: Any, **_: Any) -> int:
    q, _k, _v, groups, *_others = inputs
    return sum(sdpa_flop_count(shape, shape, shape) for shape in shapes_of_groups(q, groups))


def backward_of_groups(*inputs: Any, **_: Any) -> int:
    _grad, _out, _sums, q, _k, _v, groups, *_others = inputs
    shapes = shapes_of_groups(q, groups)
    return sum(sdpa_backward_flop_count(shape, shape, shape, shape) for shape in shapes)


for counts in (forward_of_groups, backward_of_groups):
    counts._get_raw = True  # type: ignore[attr-defined]  # the counter hands out shapes else


@pytest.mark.parametrize("name", STAGES)
def test_operations_are_those_that_torch_counts(llava: Llava, name: str) -> None:
    attention = {
        torch.ops.sharecap.attend_groups: forward_of_groups,
        torch.ops.sharecap.attend_groups_gradient: backward_of_groups,
    }
    with learning(llava, name), FlopCounterMode(display=False, custom_mapping=attention) as counter:
        list(learn(llava))
        counted = counter.get_total_flops()
        told = cost_of(llava.model).flops(work_of_packs([(PACK.lengths, PACK.learned, PACK.images)]))
    assert told.performed == pytest.approx(counted, rel=0.01)
    assert 0.6 * told.performed < told.needed < told.performed


def allocated(llava: Llava, precision: str) -> tuple[int, int]:
    """Bytes that the CPU's allocator has given beyond what was there: after forward, and at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        steps = learn(llava, precision)
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
def test_memory_is_what_torch_allocates(llava: Llava, name: str, precision: Any) -> None:
    with learning(llava, name):
        list(learn(llava, precision))  # the first time, libraries keep buffers of their own
        kept, most = allocated(llava, precision)
        own = [p for p in llava.model.parameters() if p.grad is not None]
        optimizer = torch.optim.AdamW(own)
        optimizer.step()
        state = [x for one in optimizer.state.values() for x in one.values() if x.numel() > 1]
        told = Imagined(llava.config, stage(name, precision)).memory(PACK)
        assert told.weights == sum(p.nbytes for p in llava.model.parameters())
        assert told.gradients == sum(p.grad.nbytes for p in own if p.grad is not None)
        assert told.optimizer == sum(x.nbytes for x in state)
    steps = told.activations + told.logits + told.buffers
    assert steps == pytest.approx(most, rel=0.03)
    if precision == "fp32":  # in bf16, weights that were cast are kept too; they count as buffers
        assert told.activations + told.logits == pytest.approx(kept, rel=0.03)


def test_what_is_sharded_is_divided_and_what_is_frozen_keeps_its_precision(llava: Llava) -> None:
    config = replace_dtype(llava.config)
    imagined = Imagined(config, stage("align", "bf16"))
    alone, shared = imagined.memory(PACK), imagined.memory(PACK, "fsdp", 4)
    assert alone.weights == 2 * (imagined.parameters - imagined.learning) + 4 * imagined.learning
    assert (shared.weights, shared.gradients) == (alone.weights / 4, alone.gradients / 4)
    assert imagined.checkpoint_bytes == 12 * imagined.learning
    # Neither trace changed the model that both started from.
    assert imagined.memory(PACK) == alone


def replace_dtype(config: Any) -> Any:
    found = type(config).from_dict(config.to_dict())
    found.dtype = torch.bfloat16
    return found


def test_rows_of_one_kind_are_the_packs_that_they_make() -> None:
    kinds = (RowKind("a", rows=2, images=1, given=6, learned=30), RowKind("b", 3, 0, 10, 5))
    packs = [((40, 40), 60, 2), ((15, 15, 15), 15, 0)]
    assert work_of_kinds(kinds, image_tokens=4) == replace(work_of_packs(packs))
    assert work_of_packs([((40, 20), 10, 0)]).padded_pairs == 40**2 + 20**2  # too unlike to share a group
    assert work_of_packs([((40, 39), 10, 0)]).padded_pairs == 2 * 40**2
