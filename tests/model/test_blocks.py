"""Checkpointing and compiling change neither loss nor gradients, and leave the model as it was."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sharecap.model.attention import layout
from sharecap.model.blocks import Checkpointing, blocks_of, computing
from sharecap.model.build import Llava
from sharecap.model.forward import packed_forward, packed_loss
from sharecap.model.trainable import Rule, apply, resolve
from tests.model.test_forward import LENGTHS, documents, pictures
from tests.model.tiny import tiny_llava


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    """The tower's later half learns."""
    made = tiny_llava(tmp_path_factory.mktemp("tiny"))
    rules = (Rule("vision", 1e-3, from_block=2), Rule("projector", 1e-3), Rule("language", 1e-3))
    apply(made.model, resolve(made.model, rules))
    made.model.train()
    return made


def results(llava: Llava, **how: Any) -> dict[str, Tensor]:
    """The loss and all gradients."""
    ids, where = torch.cat(documents(llava, LENGTHS)), layout(LENGTHS)
    predict = torch.tensor([6, 7, 30, 60, 104])
    llava.model.zero_grad()
    with computing(llava.model, **how):
        loss = packed_loss(
            llava.model,
            ids,
            where,
            pictures(len(LENGTHS)),
            predict=predict,
            targets=ids[predict + 1],
            compiled=bool(how.get("compiled")),
        )
        loss.backward()  # type: ignore[no-untyped-call]
    made = {n: p.grad.clone() for n, p in llava.model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **made}


@pytest.fixture(scope="module")
def plain(llava: Llava) -> dict[str, Tensor]:
    return results(llava)


def assert_close(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert set(ours) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_no_bit(llava: Llava, plain: dict[str, Tensor], kind: Checkpointing) -> None:
    for name, value in results(llava, checkpointing=kind).items():
        assert torch.equal(value, plain[name]), name


def test_checkpointing_runs_blocks_again_unless_they_are_frozen(llava: Llava) -> None:
    language, vision = blocks_of(llava.model, "language"), blocks_of(llava.model, "vision")
    runs = [0] * (len(language) + len(vision))
    hooks = [
        block.mlp.register_forward_pre_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))  # type: ignore[union-attr]
        for i, block in enumerate([*language, *vision])
    ]
    results(llava, checkpointing="full")
    for hook in hooks:
        hook.remove()
    assert runs == [2, 2, 1, 1, 2, 1]  # the tower's last block comes after the features


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **(kwargs or {}))


def test_selective_checkpointing_does_no_matrix_product_again(llava: Llava) -> None:
    counts = {}
    for kind in ("none", "selective", "full"):
        with Products() as products:
            results(llava, checkpointing=kind)
        counts[kind] = products.count
    assert counts["none"] == counts["selective"] < counts["full"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_give_the_same_without_a_break_and_compile_once_for_all_lengths(
    llava: Llava, plain: dict[str, Tensor]
) -> None:
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with torch.no_grad(), computing(llava.model, compiled=True):
        for lengths in ((20, 30), (9, 40, 12, 7), (50,), (11, 12, 13, 14, 44)):
            ids = torch.cat(documents(llava, lengths))
            packed_forward(llava.model, ids, layout(lengths), pictures(len(lengths)), torch.arange(3))
    assert counters["stats"]["unique_graphs"] <= 2  # with and without padding
    assert_close(results(llava, compiled=True, checkpointing="selective"), plain)
    assert not counters["graph_break"]


def test_the_model_is_left_as_it_was_even_after_an_error(llava: Llava) -> None:
    def raising() -> Iterator[None]:
        with computing(llava.model, checkpointing="full"):
            raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        next(raising())
    assert not any("forward" in vars(m) for m in llava.model.modules())
    assert llava.config.text_config._attn_implementation == "sdpa"
