"""Dropout for architectures that have none: on what every attention and MLP block adds.

``y = x · m / (1 - p)`` with m ~ Bernoulli(1 - p) (Srivastava et al. 2014), where GPT-2 puts it. We deviate: hooks add
it, so that saved weights stay those of a plain Qwen or Llama, and on the CPU eight elements share one 64-bit random
number, which rounds p to 1/256 and makes a mask several times cheaper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """Inverted dropout; from the default generator of the device."""
    if p == 0 or x.device.type != "cpu":
        return nn.functional.dropout(x, p)
    keep = max(round((1 - p) * 256), 1)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), 2**63 - 1)
    noise = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (noise < keep).to(x.dtype).mul_(256 / keep)


def dropping(p: float) -> Any:
    """A forward hook that drops from a module's output (the first of several) while the module trains."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return None
        if isinstance(output, tuple):
            return (drop(output[0], p), *output[1:])
        return drop(output, p)

    return hook
