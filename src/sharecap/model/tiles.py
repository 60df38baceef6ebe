"""Causal attention of a pack on a CPU that has matrix tiles (AMX), as an operator that compiling can pass.

On a CPU, attention and its gradient took two fifths of a small model's step with torch's kernel;
this one (tiles.cpp, built when compiling is asked for) takes a sixth of it, and a document has the same bits
whatever lies beside it. It must never be asked for where it was not built: who has no such processor, or no
compiler, computes in groups (grouped.py).

Shape letters: T tokens of the pack, H heads, D head width.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cpp")
FEATURES = {
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_bf16": "avx512bf16",
    "fma": "fma",
}
"""What the kernel asks of a processor: as Linux calls it, and the compiler."""

BUILD = ("-O3", "-std=c++17", "-fopenmp", "-fPIC", "-shared", *(f"-m{x}" for x in FEATURES.values()))
BLOCK = 32
"""Columns that a tile multiplies over."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, built once for this process in a few seconds; None where the processor has no tiles.

    If it can't be built, that is warned of once, since training goes on without.
    """
    if not can_run():
        return None
    try:
        built = build()
        if built.request_tiles() != 0:
            raise OSError("the system does not grant the processor's tiles")
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or "").strip() or str(error)
        why = said.splitlines()[0]
        warnings.warn(f"attention is computed by torch's slower kernel: {why}", stacklevel=2)
        return None
    return built


def build() -> ctypes.CDLL:
    """The kernel, compiled and loaded; its file is gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        to = Path(directory) / "tiles.so"
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        subprocess.run(
            [*compiler, *BUILD, str(SOURCE), "-o", str(to)], check=True, capture_output=True, text=True
        )
        return ctypes.CDLL(str(to))


def can_run() -> bool:
    """Whether this is Linux on a processor with tiles."""
    if platform.system() != "Linux":
        return False
    with open("/proc/cpuinfo") as lines:
        return any(line.startswith("flags") and FEATURES.keys() <= set(line.split()) for line in lines)


def takes(*heads: Tensor) -> bool:
    """Whether the kernel, where there is one, computes with these [T, H, D], all of one shape."""
    return all(
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.shape == heads[0].shape
        and x.shape[2] % BLOCK == 0
        for x in heads
    )


def call(name: str, tensors: list[Tensor], borders: Tensor, scale: float) -> None:
    """One of the kernel's functions; `tensors` are contiguous, the first of them [T, H, D]."""
    kernel = library()
    assert kernel is not None, "no tiles"
    assert borders.dtype == torch.int32, "borders are int32"
    assert len(borders) > 1, "a pack has a document"
    assert all(x.is_contiguous() for x in (*tensors, borders)), "rows lie one after another"
    sizes = [len(borders) - 1, *tensors[0].shape]
    getattr(kernel, name)(
        *(ctypes.c_void_p(x.data_ptr()) for x in (*tensors, borders)),
        *map(ctypes.c_int, sizes),
        ctypes.c_float(scale),
        ctypes.c_int(torch.get_num_threads()),
    )


@torch.library.custom_op("sharecap::attend_tiles", mutates_args=())
def attend_tiles(
    q: Tensor,  # [T, H, D] bf16
    k: Tensor,
    v: Tensor,
    borders: Tensor,  # [documents + 1] int32: where each begins, and T
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Each token's mixture of its document's values up to itself [T, H, D]; the log of its sums [H, T]."""
    assert takes(q, k, v), "bf16 on a CPU, of one shape, whole blocks wide"
    q, k, v = (x.contiguous() for x in (q, k, v))
    out, sums = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    call("attend", [q, k, v, out, sums], borders, scale)
    return out, sums


@torch.library.custom_op("sharecap::attend_tiles_gradient", mutates_args=())
def attend_tiles_gradient(  # noqa: PLR0917 - an operator's inputs are positional
    grad: Tensor,  # [T, H, D]
    out: Tensor,
    sums: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    borders: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    assert takes(q, k, v, grad, out), "bf16 on a CPU, of one shape, whole blocks wide"
    given = [x.contiguous() for x in (grad, out, sums, q, k, v)]
    dq, dk, dv = (torch.empty_like(given[0]) for _ in range(3))
    call("attend_gradient", [*given, dq, dk, dv], borders, scale)
    return dq, dk, dv


@attend_tiles.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    q = inputs[0]
    return torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[1], q.shape[0])


@attend_tiles_gradient.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = (torch.empty(x.shape, dtype=x.dtype) for x in inputs[3:6])
    return a, b, c


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:4])
    ctx.scale = inputs[4]


def gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    made = torch.ops.sharecap.attend_tiles_gradient(grad, *ctx.saved_tensors, ctx.scale)
    return (*made, None, None)


attend_tiles.register_autograd(gradients, setup_context=keep)
