"""SwiGLU of a stacked gate and up projection, rows quantised where asked: contract and dispatch."""

from __future__ import annotations

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.quantized_linear import Quantized


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) · up`` of (M, 2F), gate first; (M, F) in the same dtype."""
    return implementation(__name__, gate_up).swiglu(gate_up)


def swiglu_fp8(gate_up: torch.Tensor) -> Quantized:
    """As ``swiglu``, in fp8 with one scale a row."""
    run = implementation(__name__, gate_up).swiglu_fp8
    values, scale = run(gate_up)
    return Quantized(values=values, scale=scale)
