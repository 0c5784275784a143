"""RMSNorm with a backward pass of its own for CPUs, and in one kernel on GPUs.

``y = w x̂``, ``x̂ = x r``, ``r = 1 / √(mean x² + ε)`` and ``∂x = r (w g - x̂ mean(w g x̂))`` (Zhang & Sennrich 2019, arXiv
1910.07467). Results are those of the HF module up to rounding. We deviate in cost alone: autograd goes over memory a
dozen times for this, and half as often is enough, which makes a small model's whole step a tenth to a fifth faster.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from genrecall.model.lora import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Named one by one: other families scale by 1 + w.
_KNOWN = ("Qwen2RMSNorm", "Qwen3RMSNorm", "LlamaRMSNorm")


@contextlib.contextmanager
def cheap_norms(model: PreTrainedModel, *, active: bool) -> Iterator[None]:
    """Use ``RmsNorm`` in this block, where ``active`` and where the architecture's norm is known."""
    modules = [m for m in plain(model).modules() if type(m).__name__ in _KNOWN] if active else []
    for module in modules:
        module.forward = types.MethodType(_forward, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    if hidden.is_cuda:  # one kernel there, where the types agree; autocast would make them float32 first
        agree = self.weight.dtype == hidden.dtype
        with torch.autocast("cuda", enabled=False) if agree else contextlib.nullcontext():
            weight = self.weight.to(hidden.dtype)
            return nn.functional.rms_norm(hidden, (hidden.shape[-1],), weight, self.variance_epsilon)
    normed = RmsNorm.apply(hidden.float(), self.weight, self.variance_epsilon)
    # As HF: float32 weights leave a float32 result, whatever came in.
    return normed.to(torch.promote_types(hidden.dtype, self.weight.dtype))


class RmsNorm(torch.autograd.Function):
    """``apply(x, w, ε)`` for float32 x (…, E) and w (E,)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Keeps x̂ and r."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Gradients of x and w."""
        unit, scale, weight = ctx.saved_tensors
        product = gradients[0] * unit
        mean = nn.functional.linear(product, weight[None].to(product.dtype)) / unit.shape[-1]
        by_x = (gradients[0] * weight).addcmul_(unit, mean, value=-1).mul_(scale)
        return by_x, product.flatten(0, -2).sum(0).to(weight.dtype), None
