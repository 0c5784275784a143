"""RQ-VAE: an autoencoder whose latent vector is quantised residually.

    L = |x − D(ẑ)|²/D + β Σ_l |r_l − sg(e_{l,a_l})|²/E,   z = E(x),   ẑ = z + sg(Σ_l e_{l,a_l} − z)

Source: Rajput et al. 2023 (TIGER), arXiv:2305.05065, section 3.1; Zeghidour et al. 2021, arXiv:2107.03312 (codebooks by
moving averages, dead codes replaced). We deviate where the paper's schedule (20,000 epochs) or stability is trouble:

- Encoder and decoder start as the leading principal axes (see ``autoencoder``) and the codebooks as greedy k-means++ in
  them: step 0 is residual k-means in PCA space, and training improves on it in tens of epochs.
- Codebooks follow moving averages by default and dead codes are revived (see ``codebook_updates``). After training they
  get Lloyd steps on the final latents, which leaves no dead code where inputs differ.
- With ``alignment_weight`` above 0 the codes also learn what behaviour says of the items (see ``alignment``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from genrecall.errors import ConfigError
from genrecall.hardware import pick_device
from genrecall.sid.alignment import Aligned
from genrecall.sid.autoencoder import Autoencoder, Bottleneck, principal_axes
from genrecall.sid.codebook_updates import Averages, Gradients
from genrecall.sid.codebooks import Codebooks
from genrecall.sid.limits import require
from genrecall.sid.normaliser import RULES, Normaliser, Rule
from genrecall.telemetry import Bar

Updates = Literal["average", "gradient"]


@dataclass(frozen=True, kw_only=True)
class RqVaeConfig:
    """Settings of the RQ-VAE.

    Attributes:
        hidden: widths between input and latent, mirrored in the decoder.
        latent: E, the width that is quantised; at most D.
        epochs: passes over the items; ``min_steps`` and ``max_steps`` bound them for small and for large catalogs.
        batch: items a step; at least twice the codes, so that averages and restarts know every code (``for_codes``).
        learning_rate: peak of AdamW's, with a cosine down to zero.
        weight_decay: AdamW's.
        updates: how codebooks move: "average" or "gradient".
        commitment: β. TIGER's .25 explains less variance here; moving averages follow the encoder anyway.
        decay: of the codes' moving averages, a step.
        revive_below: average items a batch under which a code counts as dead.
        alignment_weight: of the contrastive loss with collaborative vectors; 0 leaves it out.
        alignment_temperature: τ of that loss.
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
    updates: Updates = "average"
    commitment: float = 0.01
    decay: float = 0.97
    revive_below: float = 0.02
    alignment_weight: float = 0.0
    alignment_temperature: float = 0.1
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
                ("updates", self.updates in get_args(Updates), ", ".join(get_args(Updates))),
                ("commitment", self.commitment >= 0, "0 or more"),
                ("decay", 0 <= self.decay < 1, "0 to below 1"),
                ("revive_below", self.revive_below >= 0, "0 or more"),
                ("alignment_weight", self.alignment_weight >= 0, "0 or more"),
                ("alignment_temperature", self.alignment_temperature > 0, "more than 0"),
                ("kmeans_steps", self.kmeans_steps >= 1, "1 or more"),
                ("max_fit_items", self.max_fit_items >= 1, "1 or more"),
                ("normalise", self.normalise in RULES, ", ".join(RULES)),
            ),
        )

    def for_codes(self, codes: int) -> RqVaeConfig:
        """These settings with a batch that suits C codes."""
        return replace(self, batch=max(self.batch, 2 * codes))

    def steps(self, items: int) -> int:
        """Training steps for so many items."""
        return min(max(self.epochs * (items // min(self.batch, items)), self.min_steps), self.max_steps)


class RqVae:
    """RQ-VAE; see the protocol ``Quantizer``."""

    name: ClassVar[str] = "rq_vae"

    def __init__(self, *, levels: int, codes: int, config: RqVaeConfig | None = None) -> None:
        self.levels, self.codes, self.config = levels, codes, config or RqVaeConfig()
        self.normaliser: Normaliser
        self.network: Autoencoder
        self.codebooks: Codebooks

    def fit(
        self, vectors: np.ndarray, *, seed: int, bar: Bar | None = None, behaviour: np.ndarray | None = None
    ) -> RqVae:
        """Learn encoder, codebooks and decoder from (I, D) vectors.

        Args:
            vectors: (I, D).
            seed: of everything random.
            bar: told of every training step.
            behaviour: float32 (I, K) collaborative vectors, zeros where an item has none; for ``alignment_weight``.
        """
        config, items = self.config.for_codes(self.codes), len(vectors)
        generator = torch.Generator().manual_seed(seed)
        device = pick_device(config.device)
        self.normaliser = Normaliser.fit(vectors, config.normalise, device)
        sample = torch.randperm(items, generator=generator)[: config.max_fit_items].sort().values.numpy()
        self.network = self._network(vectors.shape[1], device)
        axes, _ = principal_axes(self.normaliser.rows(vectors[sample]), min(config.latent, vectors.shape[1]))
        self.network.start(axes, generator)
        self.codebooks = Codebooks.fit(
            self.network.latents(vectors[sample], self.normaliser), levels=self.levels, codes=self.codes,
            steps=config.kmeans_steps, generator=generator,
        )  # fmt: skip
        batch = min(config.batch, items)
        updates = (Averages if config.updates == "average" else Gradients)(self.codebooks, batch, config)
        bottleneck = self._aligned(updates, behaviour, generator, device)
        self.network.train(vectors, self.normaliser, config, bottleneck, generator=generator, bar=bar)
        latents = self.network.latents(vectors[sample], self.normaliser)
        self.codebooks = updates.finished().polished(latents, steps=config.kmeans_steps)
        return self

    def _network(self, width: int, device: torch.device) -> Autoencoder:
        latent = min(self.config.latent, width)
        return Autoencoder(width=width, hidden=self.config.hidden, latent=latent, device=device)

    def _aligned(
        self, updates: Bottleneck, behaviour: np.ndarray | None, generator: torch.Generator, device: torch.device
    ) -> Bottleneck:
        config = self.config
        if not config.alignment_weight:
            return updates
        if behaviour is None:
            raise ConfigError(
                "alignment needs collaborative vectors",
                seen=f"alignment_weight={config.alignment_weight} and no behaviour", allowed="one vector an item",
                fix="pass behaviour, or leave alignment_weight at 0",
            )  # fmt: skip
        return Aligned(
            updates, behaviour, latent=self.codebooks.tables.shape[2], weight=config.alignment_weight,
            temperature=config.alignment_temperature, generator=generator, device=device,
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes int32 (n, L)."""
        return self.normaliser.encode(
            vectors, lambda rows: self.codebooks.encode(self.network.encoder(rows)), self.levels
        )

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, D) of codes (n, ≤ L)."""
        return self.normaliser.decode(codes, lambda rows: self.network.decoder(self.codebooks.decode(rows)))

    @torch.no_grad()
    def prefixes(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised rows (n, D) of the first one, two, … of the codes (n, ≤ L)."""
        yield from map(self.network.decoder, self.codebooks.prefixes(codes))

    @torch.no_grad()
    def distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances float32 (n, C) in latent space to the codes of ``level`` after ``codes[:, :level]``."""
        z = self.network.encoder(self.normaliser.rows(vectors))
        return self.codebooks.distances(z, torch.as_tensor(codes, device=z.device).long(), level).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Sizes and configuration."""
        return {"levels": self.levels, "codes": self.codes, "config": asdict(self.config)}

    def state(self) -> dict[str, torch.Tensor]:
        """Normalisation, encoder, codebooks and decoder."""
        state = {"mean": self.normaliser.mean, "scale": self.normaliser.scale}
        state |= self.codebooks.state() | self.network.state()
        return {name: tensor.cpu() for name, tensor in state.items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> RqVae:
        """The fitted quantiser again; on the CPU when its device is missing here."""
        config = RqVaeConfig(**{**settings["config"], "hidden": tuple(settings["config"]["hidden"])})
        device = pick_device(config.device if torch.cuda.is_available() else "cpu")
        fitted = cls(levels=settings["levels"], codes=settings["codes"], config=config)
        fitted.normaliser = Normaliser(mean=state["mean"].to(device), scale=state["scale"].to(device))
        fitted.codebooks = Codebooks.from_state(state, device)
        fitted.network = fitted._network(len(state["mean"]), device)
        fitted.network.load(state)
        return fitted
