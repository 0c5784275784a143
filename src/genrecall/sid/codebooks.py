"""Residual codebooks: L tables of C vectors whose sum stands for an input.

    r_0 = z,   a_l = argmin_k |r_l − e_{l,k}|²,   r_{l+1} = r_l − e_{l,a_l},   ẑ = Σ_l e_{l,a_l}

Source: residual (multi-stage) vector quantisation, Juang and Gray 1982; for semantic IDs Rajput et al. 2023,
arXiv:2305.05065. No deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.sid.kmeans import kmeans, lloyd, nearest, squared_distances
from genrecall.telemetry import Bar


@dataclass(eq=False)
class Codebooks:
    """``tables``: float32 (L, C, E)."""

    tables: torch.Tensor

    @classmethod
    def fit(
        cls,
        latent: torch.Tensor,
        *,
        levels: int,
        codes: int,
        steps: int,
        generator: torch.Generator,
        bar: Bar | None = None,
    ) -> Codebooks:
        """One k-means a level over what the levels before left of the (n, E) inputs."""
        residual, tables = latent, []
        for _ in range(levels):
            table = kmeans(residual, codes, steps=steps, generator=generator)
            residual = residual - table[nearest(residual, table)[0]]
            tables.append(table)
            if bar is not None:
                bar.advance(unexplained=float(residual.square().mean() / latent.square().mean().clamp(min=1e-12)))
        return cls(torch.stack(tables))

    def polished(self, latent: torch.Tensor, *, steps: int) -> Codebooks:
        """Lloyd steps from these tables on, level by level."""
        residual, tables = latent, []
        for before in self.tables:
            table = lloyd(residual, before, steps=steps)
            residual = residual - table[nearest(residual, table)[0]]
            tables.append(table)
        return Codebooks(torch.stack(tables))

    def encode(self, latent: torch.Tensor) -> torch.Tensor:
        """Codes int64 (n, L) of (n, E) inputs."""
        codes = []
        for table in self.tables:
            code = nearest(latent, table)[0]
            latent = latent - table[code]
            codes.append(code)
        return torch.stack(codes, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sums (n, E) of the first ``codes.shape[1]`` levels."""
        total = torch.zeros(len(codes), self.tables.shape[2], device=self.tables.device)
        for level in range(codes.shape[1]):
            total += self.tables[level, codes[:, level]]
        return total

    def distances(self, latent: torch.Tensor, codes: torch.Tensor, level: int) -> torch.Tensor:
        """(n, C) squared distances of what ``codes[:, :level]`` leave of the inputs to the codes of ``level``."""
        return squared_distances(latent - self.decode(codes[:, :level]), self.tables[level])
