"""FSQ: no codebook; each latent dimension is rounded to a few fixed values, and a code counts through a group of them.

    digit_d = argmin_j |z_d − Φ⁻¹((j + ½)/n_d)|,   code_l = Σ_{d in group l} digit_d Π_{e after d} n_e,   z = E(x)

Source: Mentzer et al. 2023, "Finite scalar quantization", arXiv:2309.15505. We deviate: the encoder starts as whitened
principal axes and the decoder as the way back (see ``autoencoder``); the values lie at the normal distribution's
quantiles instead of tanh's, so that they are used about equally from the start; and the groups are the levels of a SID:
level 0 holds the leading axes, so that codes go from coarse to fine although no level depends on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from genrecall.errors import ConfigError
from genrecall.hardware import pick_device
from genrecall.sid.autoencoder import Autoencoder, principal_axes
from genrecall.sid.limits import require
from genrecall.sid.normaliser import RULES, Normaliser, Rule
from genrecall.telemetry import Bar

LARGEST_GRID = 16


@dataclass(frozen=True, kw_only=True)
class FsqConfig:
    """Settings of FSQ.

    Attributes:
        values: most values a latent dimension takes; C is factored into such numbers.
        hidden: widths between input and latent, mirrored in the decoder.
        epochs: passes over the items; 0 leaves the principal axes as they are.
        min_steps, max_steps: bounds of the steps that ``epochs`` come to.
        batch: items a step.
        learning_rate: peak of AdamW's, with a cosine down to zero.
        weight_decay: AdamW's.
        max_fit_items: items in memory for the axes (a seeded sample).
        normalise: "dimension" (standardise), "scalar" (centre, one scale) or "none".
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    values: int = 4
    hidden: tuple[int, ...] = (256,)
    epochs: int = 30
    min_steps: int = 250
    max_steps: int = 10_000
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_fit_items: int = 262_144
    normalise: Rule = "dimension"
    device: str = "auto"

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("values", 2 <= self.values <= LARGEST_GRID, f"2 to {LARGEST_GRID}"),
                ("hidden", all(width >= 1 for width in self.hidden), "widths of 1 or more"),
                ("epochs", self.epochs >= 0, "0 or more"),
                ("min_steps", self.min_steps >= 0, "0 or more"),
                ("max_steps", self.max_steps >= 1, "1 or more"),
                ("batch", self.batch >= 1, "1 or more"),
                ("learning_rate", self.learning_rate > 0, "more than 0"),
                ("weight_decay", self.weight_decay >= 0, "0 or more"),
                ("max_fit_items", self.max_fit_items >= 1, "1 or more"),
                ("normalise", self.normalise in RULES, ", ".join(RULES)),
            ),
        )

    def steps(self, items: int) -> int:
        """Training steps for so many items."""
        if not self.epochs:
            return 0
        return min(max(self.epochs * (items // min(self.batch, items)), self.min_steps), self.max_steps)


class Grid:
    """The values of one level's dimensions: ``points`` float32 (C, E/L), in the order of the codes."""

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.shape = shape
        axes = [torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size).float() for size in shape]
        self.points = torch.cartesian_prod(*axes).reshape(prod(shape), len(shape)).to(device)
        self._axes = [axis.to(device) for axis in axes]
        # Half a step beyond the outermost value, in every dimension.
        outer = [(axis[-1], axis[max(len(axis) - 2, 0)]) for axis in axes]
        self.reach = torch.stack([last + (last - inner) / 2 for last, inner in outer]).to(device)

    def codes(self, z: torch.Tensor) -> torch.Tensor:
        """Codes int64 (n,) of latents (n, E/L): the nearest value in every dimension."""
        code = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        for axis, column in zip(self._axes, z.T, strict=True):
            borders = (axis[1:] + axis[:-1]) / 2
            code = code * len(axis) + torch.bucketize(column.contiguous(), borders)
        return code


class Fsq:
    """FSQ; see the protocol ``Quantizer``."""

    name: ClassVar[str] = "fsq"

    def __init__(self, *, levels: int, codes: int, config: FsqConfig | None = None) -> None:
        self.levels, self.codes, self.config = levels, codes, config or FsqConfig()
        self.grid = Grid(grid_shape(codes, self.config.values))
        self.normaliser: Normaliser
        self.network: Autoencoder

    def fit(self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None) -> Fsq:
        """Learn encoder and decoder from (I, D) vectors."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        device = pick_device(config.device)
        self.normaliser = Normaliser.fit(vectors, config.normalise, device)
        self._build(vectors.shape[1], device)
        sample = torch.randperm(len(vectors), generator=generator)[: config.max_fit_items].sort().values.numpy()
        axes, variances = principal_axes(self.normaliser.rows(vectors[sample]), self._width())
        # Axes without variance hold rounding noise, and dividing by it would spread equal items over codes.
        live = variances > 1e-6 * variances.max().clamp(min=1e-6)
        axes, scale = axes * live[:, None], torch.where(live, variances.sqrt(), 1.0)
        self.network.start(axes, generator, scale=scale)
        self.network.train(vectors, self.normaliser, config, Rounding(self), generator=generator, bar=bar)
        return self

    def _width(self) -> int:
        return self.levels * len(self.grid.shape)

    def _build(self, width: int, device: torch.device) -> None:
        self.grid = Grid(self.grid.shape, device)
        self.network = Autoencoder(width=width, hidden=self.config.hidden, latent=self._width(), device=device)

    def latent_codes(self, z: torch.Tensor) -> torch.Tensor:
        """Codes int64 (n, L) of latents (n, E)."""
        return torch.stack([self.grid.codes(part) for part in z.split(len(self.grid.shape), 1)], 1)

    def latent_values(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents (n, E) that codes int64 (n, ≤ L) stand for; levels that are not given stay at their middle."""
        z = torch.zeros(len(codes), self._width(), device=self.grid.points.device)
        known = self.grid.points[codes].reshape(len(codes), -1)
        z[:, : known.shape[1]] = known
        return z

    @torch.no_grad()
    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        return self.normaliser.encode(vectors, lambda rows: self.latent_codes(self.network.encoder(rows)), self.levels)

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) of codes (n, ≤ L)."""
        return self.normaliser.decode(codes, lambda rows: self.network.decoder(self.latent_values(rows)))

    @torch.no_grad()
    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised rows (n, D) of the first one, two, … of the codes (n, ≤ L)."""
        for depth in range(1, codes.shape[1] + 1):
            yield self.network.decoder(self.latent_values(codes[:, :depth]))

    @torch.no_grad()
    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances float32 (n, C) in latent space to the codes of ``level``, whatever the codes before it."""
        width = len(self.grid.shape)
        z = self.network.encoder(self.normaliser.rows(vectors))[:, level * width : (level + 1) * width]
        return torch.cdist(z, self.grid.points).square().cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Sizes and configuration."""
        return {"levels": self.levels, "codes": self.codes, "config": asdict(self.config)}

    def state(self) -> dict[str, torch.Tensor]:
        """Normalisation, encoder and decoder."""
        state = {"mean": self.normaliser.mean, "scale": self.normaliser.scale} | self.network.state()
        return {name: tensor.cpu() for name, tensor in state.items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Fsq:
        """The fitted quantiser again; on the CPU when its device is missing here."""
        config = FsqConfig(**{**settings["config"], "hidden": tuple(settings["config"]["hidden"])})
        device = pick_device(config.device if torch.cuda.is_available() else "cpu")
        fitted = cls(levels=settings["levels"], codes=settings["codes"], config=config)
        fitted.normaliser = Normaliser(mean=state["mean"].to(device), scale=state["scale"].to(device))
        fitted._build(len(state["mean"]), device)
        fitted.network.load(state)
        return fitted


class Rounding:
    """The bottleneck of training: rounded latents, whose gradient passes as if they were not rounded, only bounded.

    Where a latent lies beyond the grid no gradient passes: it would push the latent ever further, to no effect on the
    codes (tried: latents of 400 standard deviations, 50 of 256 codes in use).
    """

    def __init__(self, quantizer: Fsq) -> None:
        self.quantizer = quantizer

    def parameters(self) -> Iterable[nn.Parameter]:
        """Nothing to learn."""
        return ()

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rounded latents (n, E) and no loss of its own."""
        reach = self.quantizer.grid.reach.repeat(self.quantizer.levels)
        bounded = torch.clamp(z, -reach, reach)
        with torch.no_grad():
            gap = self.quantizer.latent_values(self.quantizer.latent_codes(z)) - bounded
        return bounded + gap, torch.zeros((), device=z.device)


def grid_shape(codes: int, values: int) -> tuple[int, ...]:
    """How many values each dimension of a level takes: factors of C, none above ``values``, as large as they go.

    Raises:
        ConfigError: C has a prime factor above ``values``.
    """
    shape: list[int] = []
    left = codes
    while left > 1:
        factor = next((size for size in range(values, 1, -1) if left % size == 0), 0)
        if not factor:
            raise ConfigError(
                "FSQ cannot make a level of so many codes", seen=codes,
                allowed=f"a product of numbers from 2 to {values}", fix="take a power of two, for example 256",
            )  # fmt: skip
        shape.append(factor)
        left //= factor
    return tuple(shape) or (1,)
