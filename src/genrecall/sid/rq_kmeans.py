"""Residual k-means: one k-means a level over what the levels before left.

    a_l = argmin_k |r_l − c_{l,k}|²,   r_{l+1} = r_l − c_{l,a_l},   r_0 = normalised vector

Source: GRID (arXiv:2507.22224) and OpenOneRec use it in place of RQ-VAE. We deviate: inputs are standardised, seeds are
greedy k-means++, clusters that run empty are revived, and with ``balance`` the load of a code is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from genrecall.hardware import pick_device
from genrecall.sid.codebooks import Codebooks
from genrecall.sid.limits import require
from genrecall.sid.normaliser import RULES, Normaliser, Rule
from genrecall.telemetry import Bar


@dataclass(frozen=True, kw_only=True)
class RqKMeansConfig:
    """Settings of residual k-means.

    Attributes:
        steps: most Lloyd steps a level.
        balance: largest load of a code over the mean load, above 1 (see ``balance``); None leaves loads as they fall.
        max_fit_items: at most so many items are held in memory for fitting (a seeded sample); all are encoded.
        normalise: "dimension" (standardise), "scalar" (centre, one scale) or "none".
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    steps: int = 30
    balance: float | None = None
    max_fit_items: int = 262_144
    normalise: Rule = "dimension"
    device: str = "auto"

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("steps", self.steps >= 1, "1 or more"),
                ("balance", self.balance is None or self.balance > 1, "more than 1, for example 1.5"),
                ("max_fit_items", self.max_fit_items >= 1, "1 or more"),
                ("normalise", self.normalise in RULES, ", ".join(RULES)),
            ),
        )


class RqKMeans:
    """Residual k-means; see the protocol ``Quantizer``."""

    name: ClassVar[str] = "rq_kmeans"

    def __init__(self, *, levels: int, codes: int, config: RqKMeansConfig | None = None) -> None:
        self.levels, self.codes, self.config = levels, codes, config or RqKMeansConfig()
        self.normaliser: Normaliser
        self.codebooks: Codebooks

    def fit(self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None) -> RqKMeans:
        """Learn the codebooks from (I, D) vectors."""
        generator = torch.Generator().manual_seed(seed)
        self.normaliser = Normaliser.fit(vectors, self.config.normalise, pick_device(self.config.device))
        if len(vectors) > self.config.max_fit_items:
            sample = torch.randperm(len(vectors), generator=generator)[: self.config.max_fit_items]
            vectors = vectors[sample.sort().values.numpy()]
        points = self.normaliser.rows(vectors)
        self.codebooks = Codebooks.fit(
            points, levels=self.levels, codes=self.codes, steps=self.config.steps, generator=generator,
            balance=self.config.balance, bar=bar,
        )  # fmt: skip
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        return self.normaliser.encode(vectors, self.codebooks.encode, self.levels)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) of codes (n, ≤ L)."""
        return self.normaliser.decode(codes, self.codebooks.decode)

    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised rows (n, D) of the first one, two, … of the codes (n, ≤ L)."""
        return self.codebooks.prefixes(codes)

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances float32 (n, C) to the codes of ``level`` after ``codes[:, :level]``."""
        rows = self.normaliser.rows(vectors)
        return self.codebooks.distances(rows, torch.as_tensor(codes, device=rows.device).long(), level).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Sizes and configuration."""
        return {"levels": self.levels, "codes": self.codes, "config": asdict(self.config)}

    def state(self) -> dict[str, torch.Tensor]:
        """Normalisation and codebooks."""
        state = {"mean": self.normaliser.mean, "scale": self.normaliser.scale}
        return {name: tensor.cpu() for name, tensor in (state | self.codebooks.state()).items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> RqKMeans:
        """The fitted quantiser again; on the CPU when its device is missing here."""
        config = RqKMeansConfig(**settings["config"])
        device = pick_device(config.device if torch.cuda.is_available() else "cpu")
        fitted = cls(levels=settings["levels"], codes=settings["codes"], config=config)
        fitted.normaliser = Normaliser(mean=state["mean"].to(device), scale=state["scale"].to(device))
        fitted.codebooks = Codebooks.from_state(state, device)
        return fitted
