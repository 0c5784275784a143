"""Residual codebooks: L tables of C vectors whose sum stands for an input.

    r_0 = z,   a_l = argmin_k |r_l − e_{l,k}|² + p_{l,k},   r_{l+1} = r_l − e_{l,a_l},   ẑ = Σ_l e_{l,a_l}

Source: residual (multi-stage) vector quantisation, Juang and Gray 1982; for semantic IDs Rajput et al. 2023,
arXiv:2305.05065. We deviate where loads are bounded: then codes have prices p (see ``balance``), else none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch

from genrecall.processes import share, together
from genrecall.sid.balance import balanced_kmeans
from genrecall.sid.kmeans import CHUNK, kmeans, lloyd, nearest, squared_distances
from genrecall.telemetry import Bar


@dataclass(eq=False)
class Codebooks:
    """``tables``: float32 (L, C, E); ``prices``: float32 (L, C), or None where loads are as they fall."""

    tables: torch.Tensor
    prices: torch.Tensor | None = None

    @classmethod
    def fit(
        cls,
        latent: torch.Tensor,
        *,
        levels: int,
        codes: int,
        steps: int,
        generator: torch.Generator,
        balance: float | None = None,
        bar: Bar | None = None,
    ) -> Codebooks:
        """One k-means a level over what the levels before left of the (n, E) inputs; ``balance`` bounds the loads."""
        residual, tables, prices = latent, [], []
        total = float(latent.square().mean().clamp(min=1e-12))
        for _ in range(levels):
            price = None
            if balance is None:
                table = kmeans(residual, codes, steps=steps, generator=generator)
            else:
                table, price = balanced_kmeans(residual, codes, bound=balance, steps=steps, generator=generator)
                prices.append(price)
            residual = _left(residual, table, _assigned(residual, table, price))
            tables.append(table)
            if bar is not None:
                bar.advance(unexplained=float(residual.square().mean()) / total)
        return cls(torch.stack(tables), torch.stack(prices) if prices else None)

    def polished(self, latent: torch.Tensor, *, steps: int) -> Codebooks:
        """Lloyd steps from these tables on, level by level."""
        residual, tables = latent, []
        for before in self.tables:
            table = lloyd(residual, before, steps=steps)
            residual = _left(residual, table, _assigned(residual, table))
            tables.append(table)
        return Codebooks(torch.stack(tables))

    def encode(self, latent: torch.Tensor) -> torch.Tensor:
        """Codes int64 (n, L) of (n, E) inputs."""
        codes = []
        for level, table in enumerate(self.tables):
            code = nearest(latent, table, prices=self._price(level))[0]
            latent = latent - table[code]
            codes.append(code)
        return torch.stack(codes, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sums (n, E) of the first ``codes.shape[1]`` levels."""
        total = torch.zeros(len(codes), self.tables.shape[2], device=self.tables.device)
        for part in self._parts(codes):
            total += part
        return total

    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Sums (n, E) of the first level, of the first two, and so on."""
        return accumulate(self._parts(codes), torch.add)

    def _parts(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        return (self.tables[level, codes[:, level]] for level in range(codes.shape[1]))

    def distances(self, latent: torch.Tensor, codes: torch.Tensor, level: int) -> torch.Tensor:
        """(n, C) squared distances, with prices, from what ``codes[:, :level]`` leave to the codes of ``level``."""
        cost = squared_distances(latent - self.decode(codes[:, :level]), self.tables[level])
        price = self._price(level)
        return cost if price is None else cost + price

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to store."""
        return {"codebooks": self.tables} | ({} if self.prices is None else {"prices": self.prices})

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], device: torch.device) -> Codebooks:
        """The same codebooks again."""
        prices = state.get("prices")
        return cls(state["codebooks"].to(device), None if prices is None else prices.to(device))

    def _price(self, level: int) -> torch.Tensor | None:
        return None if self.prices is None else self.prices[level]


def _assigned(points: torch.Tensor, table: torch.Tensor, prices: torch.Tensor | None = None) -> torch.Tensor:
    """Codes of all points, of which each process looks at its share."""
    return together(nearest(points[share()], table, prices=prices)[0], len(points))


def _left(points: torch.Tensor, table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """What the codes leave of the points, in one piece of new memory."""
    left = torch.empty_like(points)
    for low in range(0, len(points), CHUNK):
        torch.sub(points[low : low + CHUNK], table[codes[low : low + CHUNK]], out=left[low : low + CHUNK])
    return left
