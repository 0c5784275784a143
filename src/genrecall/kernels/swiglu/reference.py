"""``SwiGLU(g, u) = g · σ(g) · u`` (Shazeer 2020, arXiv 2002.05202): plain torch; float32 inside, rounded once."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from genrecall.kernels.quantized_linear.reference import quantize_rows


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """See the contract in ``__init__``."""
    return _product(gate_up).to(gate_up.dtype)


def swiglu_fp8(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns values, scale."""
    return quantize_rows(_product(gate_up))


def _product(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return F.silu(gate) * up
