"""Liger's kernels: equal to transformers' to rounding where there is a GPU; one clear line elsewhere."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sharecap.errors import UsageError
from sharecap.model import liger
from sharecap.model.attention import layout
from sharecap.model.blocks import computing
from sharecap.model.forward import packed_loss
from tests.model.tiny import tiny_llava

needs_gpu = pytest.mark.skipif(
    find_spec("liger_kernel") is None or not torch.cuda.is_available(),
    reason="Liger's kernels need the package liger-kernel and a GPU",
)


@needs_gpu
def test_loss_and_gradients_are_those_without_liger_and_nothing_of_it_stays(tmp_path: Path) -> None:
    model = tiny_llava(tmp_path).model.cuda()
    ids = torch.arange(5, 45, device="cuda")
    predict = torch.arange(0, 39, device="cuda")
    found = []
    for on in (False, True, False):
        model.zero_grad()
        with computing(model, fused=on):
            where = layout((25, 15), torch.device("cuda"))
            loss = packed_loss(model, ids, where, None, predict=predict, targets=ids[1:])
            loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grads))
    (plain, expected), (loss, grads), (after, again) = found
    torch.testing.assert_close(loss, plain, atol=1e-4, rtol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(grads[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
        torch.testing.assert_close(again[name], gradient, atol=0, rtol=0, msg=name)
    assert torch.equal(after, plain)


def test_without_the_package_or_a_gpu_liger_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liger, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"liger-kernel, which is not installed\. pip install liger-kernel"):
        liger.check(torch.device("cuda"))
    monkeypatch.setattr(liger, "find_spec", lambda _: object())
    with pytest.raises(UsageError, match=r"need a GPU, not 'cpu'\. leave liger away"):
        liger.check(torch.device("cpu"))
