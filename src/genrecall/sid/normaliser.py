"""Input normalisation of a quantiser, stored with it: one shift and one scale a dimension.

    y_d = (x_d - mean_d) / scale_d,    scale_d = std_d ("dimension") or sqrt(mean_d std_d²) ("scalar")

Without it residual quantisers collapse: a few outlier dimensions of a text encoder own the whole first level
(replications of TIGER, arXiv:2305.05065, report all items on one code; Paischer et al., arXiv:2412.08604, standardise).
"scalar" keeps the ratio of the dimensions, for inputs whose blocks were weighted on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

# Rows at once: what a step makes is then small enough for memory to be used again; new pages cost more than the sums.
CHUNK = 4_096
Rule = Literal["dimension", "scalar", "none"]
RULES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True, kw_only=True, eq=False)
class Normaliser:
    """``mean`` and ``scale``: float32 (D,) tensors on the quantiser's device."""

    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def fit(cls, vectors: np.ndarray, rule: Rule = "dimension", device: torch.device | str = "cpu") -> Normaliser:
        """Measure (I, D) vectors of any float type, in chunks, in float64; constant dimensions keep scale 1."""
        total = np.zeros(vectors.shape[1])
        for low in range(0, len(vectors), CHUNK):
            total += vectors[low : low + CHUNK].sum(0, dtype=np.float64)
        mean = total / len(vectors)
        squares = np.zeros(vectors.shape[1])
        for low in range(0, len(vectors), CHUNK):
            squares += np.square(vectors[low : low + CHUNK] - mean).sum(0)
        variance = squares / len(vectors)
        if rule == "scalar":
            variance = np.full_like(variance, variance.mean())
        if rule == "none":
            mean, variance = np.zeros_like(mean), np.ones_like(variance)
        # Rounding leaves constant dimensions a tiny variance; dividing by it would turn noise into signal.
        scale = np.where(variance > 1e-12 * (1 + mean**2), np.sqrt(variance), 1.0)
        return cls(
            mean=torch.tensor(mean, dtype=torch.float32, device=device),
            scale=torch.tensor(scale, dtype=torch.float32, device=device),
        )

    def rows(self, vectors: np.ndarray) -> torch.Tensor:
        """Normalise some rows: (n, D) of any float type to float32 (n, D) on the device."""
        rows = torch.from_numpy(np.array(vectors)).to(self.mean.device).float()
        return rows.sub_(self.mean).div_(self.scale)  # of a copy

    def chunks(self, vectors: np.ndarray, size: int = CHUNK) -> Iterator[torch.Tensor]:
        """All rows, normalised, a bounded piece at a time."""
        for low in range(0, len(vectors), size):
            yield self.rows(vectors[low : low + size])

    def undo(self, rows: torch.Tensor) -> torch.Tensor:
        """Back to the input's own units."""
        return rows * self.scale + self.mean

    def encode(self, vectors: np.ndarray, encode: Callable[[torch.Tensor], torch.Tensor], levels: int) -> np.ndarray:
        """Codes int32 (n, L) of raw vectors, where ``encode`` gives those of normalised rows."""
        codes = [encode(rows).cpu().numpy() for rows in self.chunks(vectors)]
        return np.concatenate(codes or [np.empty((0, levels))]).astype(np.int32)

    def decode(self, codes: np.ndarray, decode: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """Raw vectors float32 (n, D) of codes, where ``decode`` gives the normalised rows of int64 codes."""
        parts = [
            self.undo(decode(torch.as_tensor(codes[low : low + CHUNK], device=self.mean.device).long()))
            for low in range(0, len(codes), CHUNK)
        ]
        return torch.cat(parts).cpu().numpy() if parts else np.empty((0, len(self.mean)), np.float32)
