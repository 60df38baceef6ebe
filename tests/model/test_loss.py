"""The loss in chunks: equal to the plain one, its gradients too, and the head as it was afterwards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharecap.model import loss
from sharecap.model.loss import summed_loss

Results = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=[1, 7, 1000], ids=lambda rows: f"{rows} rows a chunk")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK", request.param * 50)


def both(compute: Callable[[nn.Linear, Tensor, Tensor], Tensor], precision: torch.dtype) -> Results:
    """A loss and its gradients by the hidden states and the head's weight."""
    torch.manual_seed(0)
    head = nn.Linear(24, 50, bias=False)
    hidden = (2 * torch.randn(1, 23, 24)).requires_grad_()
    targets = torch.randint(0, 50, (23,))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        made = compute(head, hidden, targets)
    (made / 7).backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32
    return made.detach(), hidden.grad, head.weight.grad


def plain(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden)[0].float(), targets, reduction="sum")


def chunked(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    with summed_loss(head, targets):
        made: Tensor = head(hidden)
    assert head(hidden).shape == (1, 23, 50)
    return made[0]


@pytest.mark.usefixtures("chunks")
def test_loss_and_gradients_are_those_of_the_whole_logits_to_a_millionth() -> None:
    for ours, theirs in zip(both(chunked, torch.float32), both(plain, torch.float32), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("chunks")
def test_rows_filled_up_for_compiling_change_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()

    def chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        assert len(logits) == len(targets) > 0
        return loss.chunk_loss(logits, targets)

    def filled(rows: Tensor, count: int) -> Tensor:
        sizes.add(count)
        return fill(rows, count)

    fill = loss.filled
    monkeypatch.setattr(loss, "EVEN", 5)
    monkeypatch.setattr(loss, "filled", filled)
    monkeypatch.setattr(loss, "compiled_chunk", lambda: chunk)
    for ours, theirs in zip(both(fused, torch.float32), both(plain, torch.float32), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    # All 23 rows as they are in chunks of one, filled up to fives in chunks of 5 and in one of 25.
    assert sizes == {1: {23, 1}, 7: {25, 5}, 1000: {25}}[loss.CHUNK // 50]


def fused(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    with summed_loss(head, targets, fused=True):
        made: Tensor = head(hidden)
    return made[0]


@pytest.mark.usefixtures("chunks")
def test_in_half_precision_they_are_as_near_to_the_exact_ones_as_the_plain_loss_is() -> None:
    exact, ours, theirs = (
        both(plain, torch.float32),
        both(chunked, torch.bfloat16),
        both(plain, torch.bfloat16),
    )
    for a, b, c in zip(exact, ours, theirs, strict=True):
        assert (b - a).norm() <= 1.5 * (c - a).norm() + 1e-3 * a.norm()


def test_a_frozen_head_still_passes_the_gradient_on_and_gets_none() -> None:
    head = nn.Linear(8, 20, bias=False).requires_grad_(False)
    hidden = torch.randn(1, 5, 8, requires_grad=True)
    with summed_loss(head, torch.arange(5)):
        head(hidden).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.any()


def test_the_head_is_put_back_after_an_error() -> None:
    head = nn.Linear(8, 20, bias=False)
    with pytest.raises(RuntimeError), summed_loss(head, torch.arange(5)):
        head(torch.randn(1, 5, 9))
    assert head(torch.randn(1, 5, 8)).shape == (1, 5, 20)
