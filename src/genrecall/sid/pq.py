"""Product codes: the vector is cut in L parts, and each part has its own k-means.

    z = R P x,   a_l = argmin_k |z^(l) − c_{l,k}|²,   x̂ = Pᵀ Rᵀ [c_{0,a_0}; …; c_{L−1,a_{L−1}}]

P: principal axes, whitened on request; R: a rotation that makes the parts fit for it ("opq"). Source: Jégou, Douze and
Schmid 2011 (PQ); Ge, He, Ke and Sun 2013 (OPQ, the non-parametric form: k-means and Procrustes' rotation in turn); long
parallel codes for generation: RPG, arXiv:2506.05781. We deviate: without a rotation the parts are stretches of the
principal axes, the leading ones first, so that level 0 is the coarsest although no level depends on another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from genrecall.hardware import pick_device
from genrecall.sid.autoencoder import principal_axes
from genrecall.sid.kmeans import CHUNK, kmeans, lloyd, nearest, squared_distances
from genrecall.sid.limits import require
from genrecall.sid.normaliser import RULES, Normaliser, Rule
from genrecall.telemetry import Bar

Rotation = Literal["axes", "opq"]


@dataclass(frozen=True, kw_only=True)
class PqConfig:
    """Settings of product quantisation.

    Attributes:
        dim: principal axes that are kept, rounded up to a multiple of L; None keeps all.
        whiten: 0 keeps the axes' variances, 1 makes them equal, and 0.5 lies between (variance to that power).
        rotation: "axes" (parts are stretches of the principal axes, for models that write code after code) or "opq"
            (a learned rotation that makes the parts equals: least error, for models that write all codes at once).
        rounds: of OPQ: rotation and k-means in turn.
        steps: most Lloyd steps a part.
        max_fit_items: items in memory for fitting (a seeded sample); all are encoded.
        normalise: "dimension" (standardise), "scalar" (centre, one scale) or "none".
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    dim: int | None = None
    whiten: float = 0.0
    rotation: Rotation = "axes"
    rounds: int = 10
    steps: int = 20
    max_fit_items: int = 262_144
    normalise: Rule = "dimension"
    device: str = "auto"

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("dim", self.dim is None or self.dim >= 1, "1 or more"),
                ("whiten", 0 <= self.whiten <= 1, "0 to 1"),
                ("rotation", self.rotation in get_args(Rotation), ", ".join(get_args(Rotation))),
                ("rounds", self.rounds >= 1, "1 or more"),
                ("steps", self.steps >= 1, "1 or more"),
                ("max_fit_items", self.max_fit_items >= 1, "1 or more"),
                ("normalise", self.normalise in RULES, ", ".join(RULES)),
            ),
        )


class Pq:
    """Product codes; see the protocol ``Quantizer``."""

    name: ClassVar[str] = "pq"

    def __init__(self, *, levels: int, codes: int, config: PqConfig | None = None) -> None:
        self.levels, self.codes, self.config = levels, codes, config or PqConfig()
        self.normaliser: Normaliser
        self.forwards: torch.Tensor
        self.backwards: torch.Tensor
        self.tables: torch.Tensor

    def fit(self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None) -> Pq:
        """Learn axes, rotation and tables from (I, D) vectors."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        self.normaliser = Normaliser.fit(vectors, config.normalise, pick_device(config.device))
        sample = torch.randperm(len(vectors), generator=generator)[: config.max_fit_items].sort().values.numpy()
        rows = self.normaliser.rows(vectors[sample])
        width = -(-min(config.dim or rows.shape[1], rows.shape[1]) // self.levels)
        axes, variances = principal_axes(rows, width * self.levels)
        live = variances > 1e-6 * variances.max().clamp(min=1e-6)
        scale = torch.where(live, variances.sqrt() ** config.whiten, 1.0)
        axes = axes * live[:, None]
        points = rows @ (axes / scale[:, None]).T
        turn = torch.eye(len(axes), device=rows.device)
        if config.rotation == "opq":
            turn = _spread(variances / scale.square(), self.levels)
        self.tables = self._tables(points @ turn.T, generator, bar)
        for _ in range(config.rounds if config.rotation == "opq" else 0):
            turn = _procrustes(points, self._decoded(self._codes(points @ turn.T)))
            parts = zip(self._parts(points @ turn.T), self.tables, strict=True)
            self.tables = torch.stack([lloyd(part, table, steps=2) for part, table in parts])
        self.forwards = turn @ (axes / scale[:, None])
        self.backwards = (axes * scale[:, None]).T @ turn.T
        return self

    def _parts(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.contiguous() for part in z.chunk(self.levels, 1))

    def _tables(self, z: torch.Tensor, generator: torch.Generator, bar: Bar | None) -> torch.Tensor:
        tables = []
        for part in self._parts(z):
            tables.append(kmeans(part, self.codes, steps=self.config.steps, generator=generator))
            if bar is not None:
                bar.advance()
        return torch.stack(tables)

    def _codes(self, z: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [nearest(part, table)[0] for part, table in zip(self._parts(z), self.tables, strict=True)], 1
        )

    def _decoded(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents (n, E) of codes (n, ≤ L); parts that are not given stay at the mean, zero."""
        width = self.tables.shape[2]
        z = torch.zeros(len(codes), self.levels * width, device=codes.device)
        for level in range(codes.shape[1]):
            z[:, level * width : (level + 1) * width] = self.tables[level, codes[:, level]]
        return z

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        return self.normaliser.encode(vectors, lambda rows: self._codes(rows @ self.forwards.T), self.levels)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) of codes (n, ≤ L)."""
        return self.normaliser.decode(codes, lambda rows: self._decoded(rows) @ self.backwards.T)

    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised rows (n, D) of the first one, two, … of the codes (n, ≤ L)."""
        ways = zip(self.tables, self.backwards.split(self.tables.shape[2], 1), codes.T, strict=False)
        return accumulate((table[code] @ way.T for table, way, code in ways), torch.add)

    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances float32 (n, C) of the level's part to its codes, whatever the codes before it."""
        width = self.tables.shape[2]
        rows = self.normaliser.rows(vectors) @ self.forwards[level * width : (level + 1) * width].T
        return squared_distances(rows, self.tables[level]).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Sizes and configuration."""
        return {"levels": self.levels, "codes": self.codes, "config": asdict(self.config)}

    def state(self) -> dict[str, torch.Tensor]:
        """Normalisation, both linear maps and the tables."""
        state = {
            "mean": self.normaliser.mean, "scale": self.normaliser.scale, "forwards": self.forwards,
            "backwards": self.backwards, "tables": self.tables,
        }  # fmt: skip
        return {name: tensor.cpu() for name, tensor in state.items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Pq:
        """The fitted quantiser again; on the CPU when its device is missing here."""
        config = PqConfig(**settings["config"])
        device = pick_device(config.device if torch.cuda.is_available() else "cpu")
        fitted = cls(levels=settings["levels"], codes=settings["codes"], config=config)
        fitted.normaliser = Normaliser(mean=state["mean"].to(device), scale=state["scale"].to(device))
        fitted.forwards, fitted.backwards = state["forwards"].to(device), state["backwards"].to(device)
        fitted.tables = state["tables"].to(device)
        return fitted


def _spread(variances: torch.Tensor, parts: int) -> torch.Tensor:
    """Permutation matrix (E, E) that deals the axes to parts of equal size so that the parts' volumes come out alike.

    Source: "eigenvalue allocation" of Ge et al. 2013, section 3.2: the largest axis left goes to the part whose product
    of variances is smallest.
    """
    size = len(variances) // parts
    volume: list[float] = [0.0] * parts
    dealt: list[list[int]] = [[] for _ in range(parts)]
    logs = variances.double().clamp(min=1e-12).log().tolist()
    for axis in sorted(range(len(logs)), key=lambda at: -logs[at]):
        part = min((p for p in range(parts) if len(dealt[p]) < size), key=lambda p: (volume[p], p))
        dealt[part].append(axis)
        volume[part] += logs[axis] - min(logs)
    order = torch.tensor([axis for part in dealt for axis in part], device=variances.device)
    return torch.eye(len(variances), device=variances.device)[order]


def _procrustes(points: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """The rotation R (E, E) that brings R·points closest to what the codes stand for."""
    product = torch.zeros(points.shape[1], points.shape[1], dtype=torch.float64, device=points.device)
    for point, code in zip(points.split(CHUNK), quantised.split(CHUNK), strict=True):
        product += (code.T @ point).double()
    left, _, right = torch.linalg.svd(product.cpu())
    return (left @ right).float().to(points.device)
