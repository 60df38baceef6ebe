"""Causal attention of a pack on a CPU that has matrix tiles (AMX), as an operator that compiling can pass.

On a CPU, torch's kernel spends more time on the gradient of attention than a small model's step on all else;
this one (tiles.cpp, built when compiling is asked for) takes a sixth of it, and a document has the same bits
whatever lies beside it. It must never be asked for where it was not built: who has no such processor, or no
compiler, computes in groups (grouped.py).

Shape letters: T tokens of the pack, H heads, D head width.
"""

import ctypes
import os
import platform
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cpp")
NEEDS = {"amx_tile", "amx_bf16", "avx512_bf16"}
BUILD = ("-O3", "-std=c++17", "-march=sapphirerapids", "-fopenmp", "-fPIC", "-shared")
BLOCK = 32
"""Columns that a tile multiplies over."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, built once for this process in a few seconds; None where the processor has no tiles.

    A compiler that can't build it is warned of once, since training goes on without.
    """
    if not can_run():
        return None
    with tempfile.TemporaryDirectory() as directory:
        built = Path(directory) / "tiles.so"
        try:
            line = [os.environ.get("CXX", "g++"), *BUILD, str(SOURCE), "-o", str(built)]
            subprocess.run(line, check=True, capture_output=True, text=True)
            made = ctypes.CDLL(str(built))
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            why = said.strip().splitlines()[0]
            warnings.warn(f"attention is computed by torch's slower kernel: {why}", stacklevel=2)
            return None
    return made if made.request_tiles() == 0 else None


def can_run() -> bool:
    """Whether this is Linux on a processor with tiles."""
    if platform.system() != "Linux":
        return False
    with open("/proc/cpuinfo") as lines:
        return any(line.startswith("flags") and NEEDS.issubset(line.split()) for line in lines)


def takes(q: Tensor) -> bool:
    """Whether the kernel, where there is one, computes with such heads [T, H, D]."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] % BLOCK == 0


def call(name: str, tensors: list[Tensor], borders: Tensor, scale: float) -> None:
    """One of the kernel's functions; `tensors` are contiguous, the first of them [T, H, D]."""
    made = library()
    assert made is not None, "no tiles"
    sizes = [len(borders) - 1, *tensors[0].shape]
    getattr(made, name)(
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
