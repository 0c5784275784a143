"""A matrix product of two accumulators whose end is SwiGLU: persistent programs, tiles brought by the copy engine.

    tile (m, n):  g = Σ_k X_mk G_nkᵀ,  u = Σ_k X_mk U_nkᵀ,  y = g σ(g) u

The persistent product of Triton's tutorial 09 (Tillet et al. 2019, "Triton", MAPL). We deviate: one tile of X meets two
tiles of weights, so that gate and up of the same outputs meet in registers; of 6·M·F·E FLOP nothing is lost, and the
4·M·F elements that would be written and read between product and SwiGLU stay out of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Rows, outputs and summands of a step, and how a program is compiled."""

    rows: int
    outputs: int
    summands: int
    warps: int
    stages: int


def gated_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tile: Tile | None = None
) -> torch.Tensor:
    """See the contract in ``__init__``; ``tile`` replaces the chosen one."""
    return _run(x, None, weight, None, bias, x.dtype, tile)


def gated_linear_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    tile: Tile | None = None,
) -> torch.Tensor:
    """See the contract in ``__init__``; ``tile`` replaces the chosen one."""
    return _run(x, x_scale, weight, weight_scale, bias, dtype, tile)


def tile_for(rows: int, element_bytes: int) -> Tile:
    """A step moves 64 kB at most; few rows get narrow tiles, so that all multiprocessors read weights."""
    summands = 128 // element_bytes
    if rows > 128:
        return Tile(rows=128, outputs=128, summands=summands, warps=8, stages=3)
    return Tile(rows=64 if rows <= 64 else 128, outputs=64, summands=summands, warps=4, stages=4)


def _run(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    tile: Tile | None,
) -> torch.Tensor:
    rows, width = x.shape
    hidden = len(weight) // 2
    tile = tile or tile_for(rows, x.element_size())
    out = torch.empty(rows, hidden, dtype=dtype, device=x.device)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(hidden, tile.outputs)
    programs = min(tiles, _multiprocessors(x.device) * (2 if tile.warps == 4 else 1))
    _gated[(programs,)](
        TensorDescriptor.from_tensor(x, [tile.rows, tile.summands]),
        TensorDescriptor.from_tensor(weight, [tile.outputs, tile.summands]),
        TensorDescriptor.from_tensor(out, [tile.rows, tile.outputs]),
        x if x_scale is None else x_scale, x if weight_scale is None else weight_scale, x if bias is None else bias,
        rows, hidden, width, programs,
        SCALED=x_scale is not None, BIAS=bias is not None, BLOCK_M=tile.rows, BLOCK_N=tile.outputs,
        BLOCK_K=tile.summands, PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=tile.warps,
        num_stages=tile.stages,
    )  # fmt: skip
    return out


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@triton.jit(do_not_specialize=["rows"])
def _gated(
    x, weight, out, x_scale, weight_scale, bias, rows, hidden, width, programs,
    SCALED: tl.constexpr, BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, GROUP: tl.constexpr = 8,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(hidden, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, programs, flatten=True):
        # Groups of row tiles go through all outputs together, so that both operands are found in cache.
        group = tile // (GROUP * tiles_n)
        members = tl.minimum(tiles_m - group * GROUP, GROUP)
        m = (group * GROUP + tile % (GROUP * tiles_n) % members) * BLOCK_M
        n = tile % (GROUP * tiles_n) // members * BLOCK_N
        gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(0, width, BLOCK_K):
            a = x.load([m, k])
            gate = tl.dot(a, weight.load([n, k]).T, gate, input_precision=PRECISION)
            up = tl.dot(a, weight.load([hidden + n, k]).T, up, input_precision=PRECISION)
        at_n = n + tl.arange(0, BLOCK_N)
        if SCALED:
            at_m = m + tl.arange(0, BLOCK_M)
            row = tl.load(x_scale + at_m, mask=at_m < rows, other=0.0)[:, None]
            gate *= row * tl.load(weight_scale + at_n, mask=at_n < hidden, other=0.0)[None, :]
            up *= row * tl.load(weight_scale + hidden + at_n, mask=at_n < hidden, other=0.0)[None, :]
        if BIAS:
            gate += tl.load(bias + at_n, mask=at_n < hidden, other=0.0).to(tl.float32)[None, :]
            up += tl.load(bias + hidden + at_n, mask=at_n < hidden, other=0.0).to(tl.float32)[None, :]
        out.store([m, n], (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype))
