"""Attention in groups: results and gradients against torch's, and padding that reaches nothing."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sharecap.model.attention import by_sdpa, layout, one_by_one
from sharecap.model.grouped import attend_groups

LENGTHS = (23, 9, 40, 21, 23, 1)


def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_sdpa(q, k, v, layout(LENGTHS), 0.3)


def alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Document by document, by torch's autograd."""
    made = []
    for parts in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True):
        heads = [x.transpose(0, 1)[None] for x in parts]
        out = scaled_dot_product_attention(*heads, is_causal=True, scale=0.3, enable_gqa=True)
        made.append(out[0].transpose(0, 1))
    return torch.cat(made)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_result_and_gradients_are_torchs_own(heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(sum(LENGTHS), n, 16, requires_grad=True) for n in (heads[0], heads[1], heads[1])]
    grad = torch.randn(sum(LENGTHS), heads[0], 16)
    ours, theirs = packed(*inputs), alone(*inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    pairs = zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, atol=5e-6, rtol=1e-5)


def test_document_by_document_gives_the_same() -> None:
    q, k, v = (torch.randn(sum(LENGTHS), 2, 16) for _ in range(3))
    ours = one_by_one(q, k, v, layout(LENGTHS), 0.3)
    torch.testing.assert_close(ours, alone(q, k, v), atol=1e-6, rtol=1e-6)


def test_the_operator_keeps_the_rules_that_compiling_relies_on() -> None:
    where = layout(LENGTHS)
    q, k, v = (torch.randn(sum(LENGTHS), 2, 16, requires_grad=True) for _ in range(3))
    arguments = (q, k, v, where.groups, where.spread, where.back, 0.3)
    torch.library.opcheck(attend_groups, arguments, test_utils=("test_schema", "test_faketensor"))
