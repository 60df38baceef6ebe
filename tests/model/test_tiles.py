"""Attention in matrix tiles: as exact as torch's, the same bits alone and in a pack, where it can run."""

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sharecap.model import tiles
from sharecap.model.attention import TILES, by_sdpa, by_tiles, layout
from sharecap.model.blocks import blocks_of, computing
from sharecap.model.build import Llava
from tests.model.test_blocks import results
from tests.model.tiny import tiny_llava

LENGTHS = (23, 1, 200, 32, 64, 33, 97)

with_tiles = pytest.mark.skipif(
    not (shutil.which("g++") and tiles.can_run()),
    reason="needs a processor with AMX and a C++ compiler",
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    """Heads are 32 wide."""
    made = tiny_llava(tmp_path_factory.mktemp("tiny"), hidden_size=64)
    made.model.train()
    return made


def inputs(heads: tuple[int, int], width: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries, keys, values, and a gradient of the result, rounded to bf16."""
    torch.manual_seed(0)
    shapes = [(sum(LENGTHS), n, width) for n in (heads[0], heads[1], heads[1], heads[0])]
    return [torch.randn(shape).bfloat16().to(dtype) for shape in shapes]


def attended(
    kernel: Callable[..., Tensor], given: list[Tensor], lengths: tuple[int, ...] = LENGTHS
) -> list[Tensor]:
    """The result and the gradients of queries, keys and values, in float32."""
    q, k, v, grad = (x.clone().requires_grad_() for x in given)
    out = kernel(q, k, v, layout(lengths), 0.2)
    return [x.detach().float() for x in (out, *torch.autograd.grad(out, (q, k, v), grad))]


@with_tiles
@pytest.mark.parametrize(("heads", "width"), [((4, 4), 64), ((4, 2), 32), ((2, 1), 96), ((1, 1), 128)])
def test_result_and_gradients_are_as_near_to_the_exact_ones_as_torchs_own(
    heads: tuple[int, int], width: int
) -> None:
    exact = attended(by_sdpa, inputs(heads, width, torch.float32))
    ours, theirs = (attended(kernel, inputs(heads, width)) for kernel in (by_tiles, by_sdpa))
    for a, b, c in zip(exact, ours, theirs, strict=True):
        assert not torch.equal(b, c), "torch's kernel compared with itself"
        assert (b - a).norm() <= 1.2 * (c - a).norm()


@with_tiles
def test_large_scores_and_small_ones_are_as_exact() -> None:
    for size in (1e-3, 30.0):
        given = [size * x for x in inputs((2, 2), 64)[:2]] + inputs((2, 2), 64)[2:]
        exact = attended(by_sdpa, [x.float() for x in given])
        ours, theirs = (attended(kernel, given) for kernel in (by_tiles, by_sdpa))
        for a, b, c in zip(exact, ours, theirs, strict=True):
            assert (b - a).norm() <= 1.2 * (c - a).norm() + 1e-6


@with_tiles
def test_a_document_has_the_same_bits_whatever_lies_beside_it() -> None:
    given = inputs((4, 4), 64)
    whole = attended(by_tiles, given)
    start = sum(LENGTHS[:2])
    own = slice(start, start + LENGTHS[2])
    alone = attended(by_tiles, [x[own] for x in given], LENGTHS[2:3])
    for x in given:
        x[:start], x[own.stop :] = float("nan"), float("inf")
    beside = attended(by_tiles, given)
    for a, b, c in zip(whole, alone, beside, strict=True):
        assert torch.equal(a[own], b)
        assert torch.equal(a[own], c[own])


@with_tiles
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_number_stays_so_and_in_its_document(which: int) -> None:
    start, place, end = sum(LENGTHS[:2]), sum(LENGTHS[:2]) + 40, sum(LENGTHS[:3])
    given = inputs((2, 2), 64)
    given[which][place] = float("nan")
    made = attended(by_tiles, given)
    assert made[0][place : place + 1 if which == 0 else end].isnan().all()
    assert all(x[start:end].isnan().any() for x in made[:3])
    assert not any(x[:start].isnan().any() or x[end:].isnan().any() for x in made)


@with_tiles
def test_other_tensors_are_refused() -> None:
    q, k, v = inputs((2, 2), 64)[:3]
    borders = layout(LENGTHS).borders
    for given in (
        (q.float(), k.float(), v.float(), borders),
        (q, k[:, :1], v, borders),
        (q[..., :48], k[..., :48], v[..., :48], borders),
        (q, k, v, borders.long()),
        (q, k, v, borders[:1]),
    ):
        with pytest.raises(AssertionError):
            tiles.attend_tiles(*given, 0.2)


@with_tiles
def test_threads_change_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = attended(by_tiles, inputs((4, 4), 64))
        torch.set_num_threads(3)
        three = attended(by_tiles, inputs((4, 4), 64))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@with_tiles
def test_views_are_read_as_what_they_show() -> None:
    given = inputs((4, 4), 64)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given]
    assert not turned[0].is_contiguous()
    for a, b in zip(attended(by_tiles, given), attended(by_tiles, turned), strict=True):
        assert torch.equal(a, b)


@with_tiles
def test_the_operator_keeps_the_rules_that_compiling_relies_on() -> None:
    q, k, v = (x.requires_grad_() for x in inputs((2, 2), 64)[:3])
    arguments = (q, k, v, layout(LENGTHS).borders, 0.3)
    torch.library.opcheck(tiles.attend_tiles, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_tiles_do_not_fit_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "call", lambda *_: pytest.fail("in tiles"))
    for width, dtype in ((16, torch.bfloat16), (64, torch.float32)):
        given = inputs((2, 1), width, dtype)
        for a, b in zip(attended(by_tiles, given), attended(by_sdpa, given), strict=True):
            assert torch.equal(a, b)


@with_tiles
def test_compiled_blocks_attend_in_tiles_and_learn_the_same(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    calls: list[str] = []
    call = tiles.call

    def counted(name: str, *rest: Any) -> None:
        calls.append(name)
        call(name, *rest)

    monkeypatch.setattr(tiles, "call", counted)
    exact = results(llava)
    with torch.autocast("cpu", torch.bfloat16):
        plain = results(llava)
        assert not calls
        ours = results(llava, compiled=True)

    def off(made: dict[str, Tensor]) -> float:
        return math.hypot(*(float((made[name] - x).norm()) for name, x in exact.items()))

    assert 0 < off(ours) <= 1.2 * off(plain)
    blocks = len(blocks_of(llava.model, "language"))
    assert sorted(calls) == ["attend"] * blocks + ["attend_gradient"] * blocks


def test_without_compiling_or_such_a_processor_attention_is_torchs(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = llava.model
    config = model.model.language_model.config
    with computing(model):
        assert config._attn_implementation != TILES
    monkeypatch.setattr(tiles, "can_run", lambda: False)
    monkeypatch.setattr(tiles, "library", tiles.library.__wrapped__)
    assert tiles.library() is None
    with computing(model, compiled=True):
        assert config._attn_implementation != TILES


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "ccache-not-there g++"])
def test_a_compiler_that_fails_is_warned_of(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "can_run", lambda: True)
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match="torch's slower kernel"):
        assert tiles.library.__wrapped__() is None
