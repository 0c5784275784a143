"""RQ-VAE: an autoencoder whose latent vector is quantised residually.

    L = |x − D(ẑ)|²/D + β Σ_l |r_l − sg(e_{l,a_l})|²/E,   z = E(x),   ẑ = z + sg(Σ_l e_{l,a_l} − z)

Source: Rajput et al. 2023 (TIGER), arXiv:2305.05065, section 3.1; Zeghidour et al. 2021, arXiv:2107.03312 (codebooks by
moving averages, dead codes replaced). We deviate where the paper's schedule (20,000 epochs) or stability is trouble:

- Encoder and decoder are a linear map plus an MLP whose last layer starts at zero. The linear map starts as the leading
  principal axes, so step 0 is residual k-means in PCA space and training improves on it: tens of epochs, not thousands.
- Codebooks follow an exponential moving average instead of gradients: no codebook loss, no second learning rate, and
  fewer collisions (arXiv:2602.07774 reports 31% → 97.5% unique codes). They start with greedy k-means++.
- A code whose average count falls below ``revive_below`` moves onto the batch's worst quantised input. After training
  the codebooks get Lloyd steps on the final latents, which leaves no dead code where inputs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from genrecall.hardware import pick_device
from genrecall.sid.codebooks import Codebooks
from genrecall.sid.kmeans import nearest, revive
from genrecall.sid.limits import require
from genrecall.sid.normaliser import CHUNK, RULES, Normaliser, Rule
from genrecall.telemetry import Bar


@dataclass(frozen=True, kw_only=True)
class RqVaeConfig:
    """Settings of the RQ-VAE.

    Attributes:
        hidden: widths between input and latent, mirrored in the decoder.
        latent: E, the width that is quantised; at most D.
        epochs: passes over the items; ``min_steps`` and ``max_steps`` bound them for small and for large catalogs.
        batch: items a step.
        learning_rate: peak of AdamW's, with a cosine down to zero.
        weight_decay: AdamW's.
        commitment: β. TIGER's .25 explains less variance here; moving averages follow the encoder anyway.
        decay: of the codebooks' moving averages, a step.
        revive_below: average items a batch under which a code counts as dead.
        kmeans_steps: most Lloyd steps a level, when the codebooks start and again when training ends.
        max_fit_items: items in memory for k-means and PCA (a seeded sample).
        normalise: "dimension" (standardise), "scalar" (centre, one scale) or "none".
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    hidden: tuple[int, ...] = (256,)
    latent: int = 128
    epochs: int = 30
    min_steps: int = 250
    max_steps: int = 10_000
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    commitment: float = 0.01
    decay: float = 0.97
    revive_below: float = 0.02
    kmeans_steps: int = 20
    max_fit_items: int = 262_144
    normalise: Rule = "dimension"
    device: str = "auto"

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("hidden", all(width >= 1 for width in self.hidden), "widths of 1 or more"),
                ("latent", self.latent >= 1, "1 or more"),
                ("epochs", self.epochs >= 1, "1 or more"),
                ("min_steps", self.min_steps >= 0, "0 or more"),
                ("max_steps", self.max_steps >= 1, "1 or more"),
                ("batch", self.batch >= 1, "1 or more"),
                ("learning_rate", self.learning_rate > 0, "more than 0"),
                ("weight_decay", self.weight_decay >= 0, "0 or more"),
                ("commitment", self.commitment >= 0, "0 or more"),
                ("decay", 0 <= self.decay < 1, "0 to below 1"),
                ("revive_below", self.revive_below >= 0, "0 or more"),
                ("kmeans_steps", self.kmeans_steps >= 1, "1 or more"),
                ("max_fit_items", self.max_fit_items >= 1, "1 or more"),
                ("normalise", self.normalise in RULES, ", ".join(RULES)),
            ),
        )

    def steps(self, items: int) -> int:
        """Training steps for so many items."""
        return min(max(self.epochs * (items // min(self.batch, items)), self.min_steps), self.max_steps)


class Skip(nn.Module):
    """``x W + b + MLP(x)``; the MLP's last layer starts at zero, so the map starts linear."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(widths[0], widths[-1])
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def start(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Start as the linear map ``weight`` (out, in), whatever the global random state."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    noise = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
                    parameter.copy_(noise * (2**0.5 if name.startswith("mlp") else 1))
                else:
                    parameter.zero_()
            self.linear.weight.copy_(weight)
            last = self.mlp[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in) to (n, out)."""
        return self.linear(x) + self.mlp(x)


class RqVae:
    """RQ-VAE; see the protocol ``Quantizer``."""

    name: ClassVar[str] = "rq_vae"

    def __init__(self, *, levels: int, codes: int, config: RqVaeConfig | None = None) -> None:
        self.levels, self.codes, self.config = levels, codes, config or RqVaeConfig()
        self.normaliser: Normaliser
        self.encoder: Skip
        self.decoder: Skip
        self.codebooks: Codebooks

    def fit(self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None) -> RqVae:
        """Learn encoder, codebooks and decoder from (I, D) vectors."""
        config, items = self.config, len(vectors)
        generator = torch.Generator().manual_seed(seed)
        device = pick_device(config.device)
        self.normaliser = Normaliser.fit(vectors, config.normalise, device)
        sample = torch.randperm(items, generator=generator)[: config.max_fit_items].sort().values.numpy()
        self._build(vectors.shape[1], device)
        axes = _principal_axes(self.normaliser.rows(vectors[sample]), self.encoder.linear.out_features)
        self.encoder.start(axes, generator)
        self.decoder.start(axes.T, generator)
        self.codebooks = Codebooks.fit(
            self._latents(vectors[sample]), levels=self.levels, codes=self.codes, steps=config.kmeans_steps,
            generator=generator,
        )  # fmt: skip
        self._train(vectors, generator, bar)
        self.codebooks = self.codebooks.polished(self._latents(vectors[sample]), steps=config.kmeans_steps)
        return self

    def _build(self, width: int, device: torch.device) -> None:
        widths = (width, *self.config.hidden, min(self.config.latent, width))
        self.encoder, self.decoder = Skip(widths).to(device), Skip(widths[::-1]).to(device)

    def _train(self, vectors: np.ndarray, generator: torch.Generator, bar: Bar | None) -> None:
        config, items = self.config, len(vectors)
        batch = min(config.batch, items)
        per_epoch = items // batch
        steps = config.steps(items)
        weights = [*self.encoder.parameters(), *self.decoder.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        averages = Averages(self.codebooks, batch)
        order = torch.empty(0, dtype=torch.int64)
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(items, generator=generator)
            at = (step % per_epoch) * batch
            # Ascending rows: a memory map is then read forwards.
            x = self.normaliser.rows(vectors[order[at : at + batch].sort().values.numpy()])
            z = self.encoder(x)
            with torch.no_grad():
                quantised, gaps = averages.step(z, config)
            commitment = sum(gap.square().mean() for gap in _residuals(z, gaps))
            reconstruction = F.mse_loss(self.decoder(z + (quantised - z).detach()), x)
            optimiser.zero_grad()
            (reconstruction + config.commitment * commitment).backward()
            optimiser.step()
            schedule.step()
            if bar is not None:
                bar.advance(reconstruction=float(reconstruction.detach()))

    @torch.no_grad()
    def _latents(self, vectors: np.ndarray) -> torch.Tensor:
        return torch.cat([self.encoder(rows) for rows in self.normaliser.chunks(vectors)])

    @torch.no_grad()
    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        codes = [self.codebooks.encode(self.encoder(rows)).cpu().numpy() for rows in self.normaliser.chunks(vectors)]
        return np.concatenate(codes or [np.empty((0, self.levels))]).astype(np.int32)

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) of codes (n, ≤ L)."""
        device = self.normaliser.mean.device
        parts = []
        for low in range(0, len(codes), CHUNK):
            rows = self.codebooks.decode(torch.as_tensor(codes[low : low + CHUNK], device=device).long())
            parts.append(self.normaliser.undo(self.decoder(rows)))
        return torch.cat(parts).cpu().numpy() if parts else np.empty((0, len(self.normaliser.mean)), np.float32)

    @torch.no_grad()
    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances float32 (n, C) in latent space to the codes of ``level`` after ``codes[:, :level]``."""
        z = self.encoder(self.normaliser.rows(vectors))
        return self.codebooks.distances(z, torch.as_tensor(codes, device=z.device).long(), level).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Sizes and configuration."""
        return {"levels": self.levels, "codes": self.codes, "config": asdict(self.config)}

    def state(self) -> dict[str, torch.Tensor]:
        """Normalisation, encoder, codebooks and decoder."""
        state = {"mean": self.normaliser.mean, "scale": self.normaliser.scale, "codebooks": self.codebooks.tables}
        for part, module in (("encoder", self.encoder), ("decoder", self.decoder)):
            state |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> RqVae:
        """The fitted quantiser again; on the CPU when its device is missing here."""
        config = RqVaeConfig(**{**settings["config"], "hidden": tuple(settings["config"]["hidden"])})
        device = pick_device(config.device if torch.cuda.is_available() else "cpu")
        fitted = cls(levels=settings["levels"], codes=settings["codes"], config=config)
        fitted.normaliser = Normaliser(mean=state["mean"].to(device), scale=state["scale"].to(device))
        fitted.codebooks = Codebooks(state["codebooks"].to(device))
        fitted._build(len(state["mean"]), device)
        for part, module in (("encoder", fitted.encoder), ("decoder", fitted.decoder)):
            head = part + "."
            module.load_state_dict({k.removeprefix(head): v for k, v in state.items() if k.startswith(head)})
        return fitted


class Averages:
    """Moving averages of each code's count and sum; the codebooks are their quotient."""

    def __init__(self, codebooks: Codebooks, batch: int) -> None:
        self.codebooks = codebooks
        levels, codes, _ = codebooks.tables.shape
        # As if every code had been met equally often; the first real batches correct it soon.
        self.counts = torch.full((levels, codes), batch / codes, device=codebooks.tables.device)
        self.sums = codebooks.tables * self.counts[..., None]

    def step(self, z: torch.Tensor, config: RqVaeConfig) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Quantise (n, E) latents, then move the codebooks; returns Σ_l e_l and the e_l of each level."""
        residual, chosen = z, []
        for level, table in enumerate(self.codebooks.tables):
            codes, distances = nearest(residual, table)
            code = table[codes].clone()
            self._follow(level, residual, codes, distances, config)
            chosen.append(code)
            residual = residual - code
        return z - residual, chosen

    def _follow(
        self, level: int, inputs: torch.Tensor, codes: torch.Tensor, distances: torch.Tensor, config: RqVaeConfig
    ) -> None:
        counts, sums = self.counts[level], self.sums[level]
        share = 1 - config.decay
        counts.mul_(config.decay).add_(torch.bincount(codes, minlength=len(counts)), alpha=share)
        sums.mul_(config.decay).add_(torch.zeros_like(sums).index_add_(0, codes, inputs), alpha=share)
        table = sums / counts.clamp(min=1e-8)[:, None]
        dead = counts < config.revive_below
        if bool(dead.any()):
            table = revive(table, dead, inputs, distances)
            counts[dead] = 1.0
            sums[dead] = table[dead]
        self.codebooks.tables[level] = table


def _residuals(z: torch.Tensor, chosen: list[torch.Tensor]) -> list[torch.Tensor]:
    """r_l − e_l of every level, with gradient to z alone."""
    gaps, residual = [], z
    for code in chosen:
        residual = residual - code
        gaps.append(residual)
    return gaps


def _principal_axes(rows: torch.Tensor, count: int) -> torch.Tensor:
    """(count, D) leading eigenvectors of the covariance, the largest entry of each positive (signs are arbitrary)."""
    covariance = (rows.T @ rows / len(rows)).double().cpu()
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count].T
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (axes * signs).float().to(rows.device)
