"""One decoder layer over packed rows, whatever they attend to.

``h = x + Attn(RMSNorm(x)); y = h + SwiGLU(RMSNorm(h))`` (Llama, Touvron et al. 2023, arXiv 2302.13971; RoPE of Su et
al. 2021, head norms of Qwen3). We deviate in order only: the residual of one block is added by its last product, or
in the norm of the next block, so that rows are read once, and the bias of queries, keys and values is added where they
are rotated and stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genrecall.engine.device.arithmetic import Arithmetic
from genrecall.engine.device.weights import LayerWeights
from genrecall.kernels.rotary_store import HeadNorm, rotary_store


def rotation_table(inverse_frequency: torch.Tensor, scale: float, positions: int) -> torch.Tensor:
    """Cosines and sines of all positions, float32 (2, positions, D/2)."""
    angle = torch.arange(positions, device=inverse_frequency.device, dtype=torch.float32)[:, None] * inverse_frequency
    return torch.stack([angle.cos(), angle.sin()]) * scale


Sum = Callable[[Arithmetic, torch.Tensor, torch.Tensor, float, torch.Tensor, int], tuple[Any, torch.Tensor]]
"""The norm of a residual and the sum of all ranks' (M, E), as an input of products, and what it is the norm of, which
may be written over the residual.

Takes arithmetic, (M, E), weight and epsilon of the norm, residual (M, E); 0 and 1 by turns, as is asked.
"""


def normed(
    total: Sum | None,
    arithmetic: Arithmetic,
    x: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
    half: int,
) -> tuple[Any, torch.Tensor]:
    """See ``Sum``; without a residual, or on one rank (None), ``x`` is whole."""
    if total is None or residual is None:
        return arithmetic.norm(x, weight, epsilon, residual)
    return total(arithmetic, x, weight, epsilon, residual, half)


class Layer:
    """One layer's weights with the arithmetic they are in; ``total`` sums over the ranks that share it.

    What a block adds to the residual is summed where it is read, in the norm of the next block.
    """

    def __init__(self, weights: LayerWeights, arithmetic: Arithmetic, epsilon: float, total: Sum | None = None) -> None:
        self._weights, self._arithmetic, self._epsilon, self._sum = weights, arithmetic, epsilon, total
        self._head_norm = None
        if weights.head_norm is not None:
            self._head_norm = HeadNorm(weight=weights.head_norm, epsilon=epsilon)

    def project(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, keys and values (M, (H+2K)·D) of (M, E) rows, without bias; and ``x + residual``."""
        read, total = self._norm(x, self._weights.input_norm, residual, 1)
        return self._arithmetic.product(read, self._weights.qkv), total

    def store(
        self,
        qkv: torch.Tensor,
        cos_sin: torch.Tensor,
        position: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        slot: torch.Tensor,
    ) -> torch.Tensor:
        """Store keys and values of what ``project`` gave; returns rotated queries (M, H, D)."""
        return rotary_store(qkv, self._weights.qkv_bias, self._head_norm, cos_sin, position, key, value, slot)

    def finish(self, attended: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output projection and MLP of ``attended`` (M, H, D); the layer's result is the sum of what is returned, over
        all ranks where there are several.

        ``residual`` may be written over.
        """
        layer, arithmetic = self._weights, self._arithmetic
        out, rest = self._add(residual, arithmetic.ready(attended.flatten(1)), layer.out, layer.out_bias)
        read, total = self._norm(out, layer.mlp_norm, rest, 0)
        activated = arithmetic.activate(arithmetic.product(read, layer.gate_up, layer.gate_up_bias))
        return self._add(total, activated, layer.down, layer.down_bias)

    def _norm(
        self, x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, half: int
    ) -> tuple[Any, torch.Tensor]:
        return normed(self._sum, self._arithmetic, x, weight, self._epsilon, residual, half)

    def _add(
        self, residual: torch.Tensor, x: Any, matrix: Any, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._sum is None:
            return self._arithmetic.add(residual, x, matrix, bias)
        return self._arithmetic.product(x, matrix, bias), residual
