"""How residual codebooks move while the network around them trains: by moving averages or by gradients.

    averages   n_k ← γ n_k + (1−γ) Σ_i [a_i = k],   s_k ← γ s_k + (1−γ) Σ_{i: a_i = k} r_i,   e_k = s_k / n_k
    gradients  minimise |sg(r) − e_a|²/E            both:  the encoder pays β |r − sg(e_a)|²/E

Source: van den Oord et al. 2017, arXiv:1711.00937, section 3.2 and appendix A.1; dead codes are replaced as in
Zeghidour et al. 2021, arXiv:2107.03312: a code whose average count falls below a bound moves onto the batch's worst
quantised input. No deviation. Averages are the default: they need no second learning rate and leave fewer collisions
(arXiv:2602.07774 reports 31% → 97.5% unique codes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import nn

from genrecall.processes import summed, together
from genrecall.sid.codebooks import Codebooks
from genrecall.sid.kmeans import nearest, revive


class Rates(Protocol):
    """The settings that count here; see ``RqVaeConfig``."""

    @property
    def commitment(self) -> float: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102
    @property
    def revive_below(self) -> float: ...  # noqa: D102


class Averages:
    """Moving averages of each code's count and sum; the codebooks are their quotient."""

    def __init__(self, codebooks: Codebooks, batch: int, rates: Rates) -> None:
        self.codebooks, self.rates = codebooks, rates
        levels, codes, _ = codebooks.tables.shape
        # As if every code had been met equally often; the first real batches correct it soon.
        self.counts = torch.full((levels, codes), batch / codes, device=codebooks.tables.device)
        self.sums = codebooks.tables * self.counts[..., None]

    def parameters(self) -> Iterable[nn.Parameter]:
        """Nothing moves by gradients."""
        return ()

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise (n, E) latents, then move the codebooks."""
        with torch.no_grad():
            residual, chosen, found = z, [], []
            for table in self.codebooks.tables:
                codes, distances = nearest(residual, table)
                code = table[codes]
                found.append((residual, codes, distances))
                chosen.append(code)
                residual = residual - code
            self._follow(found, len(rows))
        return z + ((z - residual) - z).detach(), self.rates.commitment * _commitment(z, chosen)

    def _follow(self, found: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], items: int) -> None:
        """By level: inputs, codes and distances of this process's share of the batch's items."""
        fresh = self.counts.shape[1]
        met = summed(torch.stack([torch.bincount(codes, minlength=fresh) for _, codes, _ in found]))
        added = torch.stack([torch.zeros_like(self.sums[0]).index_add_(0, codes, inputs) for inputs, codes, _ in found])
        self.counts.mul_(self.rates.decay).add_(met, alpha=1 - self.rates.decay)
        self.sums.mul_(self.rates.decay).add_(summed(added), alpha=1 - self.rates.decay)
        for level, (inputs, _, distances) in enumerate(found):
            counts, sums = self.counts[level], self.sums[level]
            table = sums / counts.clamp(min=1e-8)[:, None]
            dead = counts < self.rates.revive_below
            if bool(dead.any()):
                table = revive(table, dead, together(inputs, items), together(distances, items))
                counts[dead] = 1.0
                sums[dead] = table[dead]
            self.codebooks.tables[level] = table

    def finished(self) -> Codebooks:
        """The codebooks as they are now."""
        return self.codebooks


class Gradients:
    """Codebooks as parameters of the optimiser; counts are averaged only to find dead codes."""

    def __init__(self, codebooks: Codebooks, batch: int, rates: Rates) -> None:
        self.rates = rates
        self.tables = nn.Parameter(codebooks.tables.clone())
        levels, codes, _ = codebooks.tables.shape
        self.counts = torch.full((levels, codes), batch / codes, device=codebooks.tables.device)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The tables."""
        return (self.tables,)

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise (n, E) latents; the loss moves the codebooks at the optimiser's next step."""
        residual, chosen, loss = z.detach(), [], torch.zeros((), device=z.device)
        for level in range(len(self.tables)):
            self._revive(level, residual, len(rows))
            table = self.tables[level]
            code = table[nearest(residual, table.detach())[0]]
            loss = loss + (residual - code).square().mean()
            chosen.append(code.detach())
            residual = residual - code.detach()
        return z + (sum(chosen) - z).detach(), loss + self.rates.commitment * _commitment(z, chosen)

    @torch.no_grad()
    def _revive(self, level: int, inputs: torch.Tensor, items: int) -> None:
        codes, distances = nearest(inputs, self.tables[level])
        counts = self.counts[level]
        met = summed(torch.bincount(codes, minlength=len(counts)))
        counts.mul_(self.rates.decay).add_(met, alpha=1 - self.rates.decay)
        dead = counts < self.rates.revive_below
        if bool(dead.any()):
            inputs, distances = together(inputs, items), together(distances, items)
            self.tables[level] = revive(self.tables[level], dead, inputs, distances)
            counts[dead] = 1.0

    def finished(self) -> Codebooks:
        """The codebooks as they are now."""
        return Codebooks(self.tables.detach().clone())


def _commitment(z: torch.Tensor, chosen: list[torch.Tensor]) -> torch.Tensor:
    """Σ_l |r_l − e_l|²/E, with gradient to z alone."""
    total, residual = torch.zeros((), device=z.device), z
    for code in chosen:
        residual = residual - code
        total = total + residual.square().mean()
    return total
