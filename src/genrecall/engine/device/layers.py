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


Sum = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor | None]]
"""Of (M, E) over all ranks, beside a residual that may be added and written over; 0 and 1 by turns, as is asked."""


def alone(x: torch.Tensor, residual: torch.Tensor, half: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum over one rank."""
    return x, residual


class Layer:
    """One layer's weights with the arithmetic they are in; ``total`` sums over the ranks that share it."""

    def __init__(self, weights: LayerWeights, arithmetic: Arithmetic, epsilon: float, total: Sum = alone) -> None:
        self._weights, self._arithmetic, self._epsilon, self._sum = weights, arithmetic, epsilon, total
        self._head_norm = None
        if weights.head_norm is not None:
            self._head_norm = HeadNorm(weight=weights.head_norm, epsilon=epsilon)

    def project(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, keys and values (M, (H+2K)·D) of (M, E) rows, without bias; and ``x + residual``."""
        normed, total = self._arithmetic.norm(x, self._weights.input_norm, self._epsilon, residual)
        return self._arithmetic.product(normed, self._weights.qkv), total

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
        """Output projection and MLP of ``attended`` (M, H, D); the layer's result is the sum of what is returned.

        ``residual`` may be written over.
        """
        layer, arithmetic = self._weights, self._arithmetic
        out, rest = self._add(residual, arithmetic.ready(attended.flatten(1)), layer.out, layer.out_bias, 0)
        normed, total = arithmetic.norm(out, layer.mlp_norm, self._epsilon, rest)
        activated = arithmetic.activate(arithmetic.product(normed, layer.gate_up, layer.gate_up_bias))
        return self._add(total, activated, layer.down, layer.down_bias, 1)

    def _add(
        self, residual: torch.Tensor, x: Any, matrix: Any, bias: torch.Tensor | None, half: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._sum is alone:
            return self._arithmetic.add(residual, x, matrix, bias)
        return self._sum(self._arithmetic.product(x, matrix, bias), residual, half)
