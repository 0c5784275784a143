"""Moving average of the weights: ``a ← d a + (1 - d) w`` after every step (Polyak & Juditsky 1992, exponential form).

We deviate: the decay is ``min(d, (1 + n) / (10 + n))`` at step n, so that the random start is forgotten early.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from genrecall.train.sharding import part_of


class Average:
    """Average of trained parameters; nothing where ``decay`` is 0."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()} if decay else {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(part_of(tensor, self.tensors[name]))

    def weight(self, step: int) -> float:
        """The weights' share of the average after optimiser step number ``step``."""
        return 1 - min(self._decay, (1 + step) / (10 + step))

    def update(self, step: int) -> None:
        """After optimiser step number ``step``."""
        self.blend(self.weight(step))

    @torch.no_grad()
    def blend(self, weight: float | torch.Tensor) -> None:
        """Move towards the weights by this share; a tensor () may change between replays of a CUDA graph."""
        for name, average in self.tensors.items():
            average.lerp_(self._parameters[name], weight)

    @contextlib.contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The model holds the average inside this block."""
        kept = {name: self._parameters[name].detach().clone() for name in self.tensors}
        try:
            for name, average in self.tensors.items():
                self._parameters[name].copy_(average)
            yield
        finally:
            for name, tensor in kept.items():
                self._parameters[name].copy_(tensor)
