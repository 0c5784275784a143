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


class Dropping:
    """A forward hook that drops from a module's output (the first of several) while the module trains.

    Args:
        p: share.
    """

    def __init__(self, p: float) -> None:
        self.p = p
        self.spared: torch.Tensor | None = None
        """bool (B,): rows of the next batches that nothing is dropped from."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Called by the module."""
        if not module.training:
            return None
        if isinstance(output, tuple):
            return (self.on(output[0]), *output[1:])
        return self.on(output)

    def on(self, x: torch.Tensor) -> torch.Tensor:
        """Drop from (B, T, E)."""
        dropped = drop(x, self.p)
        return dropped if self.spared is None else torch.where(self.spared[:, None, None], x, dropped)
