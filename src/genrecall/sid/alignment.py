"""Codes of text that know behaviour: a contrastive loss between quantised latents and collaborative vectors.

    L = w · mean_i −log( exp(⟨P ẑ_i, c_i⟩/τ) / Σ_j exp(⟨P ẑ_i, c_j⟩/τ) ),   both sides of unit length, j in the batch

Source: InfoNCE (van den Oord et al. 2018, arXiv:1807.03748), used on quantised vectors by LETTER (Wang et al. 2024,
arXiv:2405.07314, section 3.3). We deviate: items without behaviour take no part instead of having a vector made up, and
P is a linear map that is thrown away after training, so that a new item's codes come from its text alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from genrecall.processes import share
from genrecall.sid.autoencoder import Bottleneck
from genrecall.sid.collaborative import unit_rows


class Aligned:
    """A bottleneck whose loss also asks the quantised latents to tell items apart as behaviour does."""

    def __init__(
        self, inner: Bottleneck, behaviour: np.ndarray, *, latent: int, weight: float, temperature: float,
        generator: torch.Generator, device: torch.device,
    ) -> None:  # fmt: skip
        self.inner, self.weight, self.temperature = inner, weight, temperature
        known = behaviour.any(1)
        centre = behaviour[known].mean(0) if known.any() else 0.0
        self.known = torch.from_numpy(known)
        self.targets = torch.from_numpy(unit_rows(behaviour - centre))
        start = torch.randn(behaviour.shape[1], latent, generator=generator) / latent**0.5
        self.projection = nn.Parameter(start.to(device))

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the bottleneck, and the projection."""
        return (*self.inner.parameters(), self.projection)

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantised latents and the sum of both losses; every process compares its items with all of the batch's."""
        quantised, loss = self.inner(z, rows)
        known = self.known[rows]
        total, own = int(known.sum()), known[share()]
        if total < 2 or not own.any():
            return quantised, loss
        written = F.normalize(quantised[own.to(z.device)] @ self.projection.T)
        behaved = self.targets[rows[known]].to(z.device)
        scores = written @ behaved.T / self.temperature
        answers = (known.cumsum(0) - 1)[share()][own].to(z.device)
        # A mean over this process's known items counts as much as these are among the batch's.
        part = (len(answers) / total) / (len(own) / len(rows))
        return quantised, loss + self.weight * part * F.cross_entropy(scores, answers)
