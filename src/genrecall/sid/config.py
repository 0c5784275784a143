"""All settings of making SIDs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from genrecall.errors import ConfigError
from genrecall.sid import collisions, registry
from genrecall.sid.collaborative import CollaborativeConfig
from genrecall.sid.fsq import Fsq, FsqConfig
from genrecall.sid.pq import Pq, PqConfig
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.rq_kmeans import RqKMeans, RqKMeansConfig
from genrecall.sid.rq_vae import RqVae, RqVaeConfig
from genrecall.sid.space import SidSpace

Settings = RqVaeConfig | RqKMeansConfig | FsqConfig | PqConfig


@dataclass(frozen=True, kw_only=True)
class SidConfig:
    """How SIDs are made.

    Attributes:
        levels, codes: L and C.
        quantizer: "rq_vae", "rq_kmeans", "fsq" or "pq"; only the chosen one's settings count.
        collisions: "reassign", "sinkhorn", "extra_level" or "keep"; see ``collisions``.
        collaborative_weight: share of the squared distances that training behaviour decides, 0 (text alone) to 1.
        collaborative: settings of our own behaviour vectors, where no others are given.
        seed: of everything random.
    """

    levels: int = 4
    codes: int = 256
    quantizer: Literal["rq_vae", "rq_kmeans", "fsq", "pq"] = "rq_vae"
    rq_vae: RqVaeConfig = field(default_factory=RqVaeConfig)
    rq_kmeans: RqKMeansConfig = field(default_factory=RqKMeansConfig)
    fsq: FsqConfig = field(default_factory=FsqConfig)
    pq: PqConfig = field(default_factory=PqConfig)
    collisions: collisions.Rule = "reassign"
    collaborative_weight: float = 0.0
    collaborative: CollaborativeConfig = field(default_factory=CollaborativeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        registry.quantizer_class(self.quantizer)
        SidSpace.uniform(self.levels, self.codes)
        if self.collisions not in collisions.RULES:
            allowed = ", ".join(collisions.RULES)
            raise ConfigError(
                "this rule for collisions is unknown", seen=self.collisions, allowed=allowed, fix="choose one"
            )
        if not 0 <= self.collaborative_weight <= 1:
            raise ConfigError(
                "the collaborative weight is a share",
                seen=self.collaborative_weight, allowed="0 (text alone) to 1 (behaviour alone)", fix="try 0.5",
            )  # fmt: skip

    @property
    def aligned(self) -> bool:
        """Whether codes are aligned with behaviour while the quantiser trains."""
        return self.quantizer == "rq_vae" and self.rq_vae.alignment_weight > 0

    @property
    def needs_behaviour(self) -> bool:
        """Whether training events have a say in the SIDs."""
        return self.aligned or self.collaborative_weight > 0

    @property
    def chosen(self) -> Settings:
        """Settings of the quantiser that is used."""
        every: dict[str, Settings] = {
            "rq_vae": self.rq_vae, "rq_kmeans": self.rq_kmeans, "fsq": self.fsq, "pq": self.pq,
        }  # fmt: skip
        own = every[self.quantizer]
        # Fused blocks were weighted on purpose: scaling each dimension to variance 1 would undo that.
        return replace(own, normalise="scalar") if self.collaborative_weight else own

    def on(self, device: str) -> SidConfig:
        """The same, fitted on another device."""
        return replace(
            self,
            rq_vae=replace(self.rq_vae, device=device),
            rq_kmeans=replace(self.rq_kmeans, device=device),
            fsq=replace(self.fsq, device=device),
            pq=replace(self.pq, device=device),
        )

    def make(self) -> Quantizer:
        """The quantiser, not fitted."""
        match self.chosen:
            case RqVaeConfig() as own:
                return RqVae(levels=self.levels, codes=self.codes, config=own)
            case RqKMeansConfig() as own:
                return RqKMeans(levels=self.levels, codes=self.codes, config=own)
            case FsqConfig() as own:
                return Fsq(levels=self.levels, codes=self.codes, config=own)
            case PqConfig() as own:
                return Pq(levels=self.levels, codes=self.codes, config=own)

    def steps(self, items: int) -> int:
        """How often fitting advances its bar."""
        own = self.chosen
        if isinstance(own, RqVaeConfig):
            return own.for_codes(self.codes).steps(items)
        return own.steps(items) if isinstance(own, FsqConfig) else self.levels

    def resolved(self, encoder: dict[str, Any], behaviour: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the artifact records, apart from the space that came out.

        Args:
            encoder: identity of the text vectors.
            behaviour: identity of collaborative vectors that were given; None for our own.
        """
        quantizer = {"name": self.quantizer, **asdict(self.chosen)}
        quantizer.pop("device")  # where it ran is no part of what it is
        collaborative = (behaviour or asdict(self.collaborative)) if self.needs_behaviour else None
        return {
            "levels": self.levels,
            "codes": self.codes,
            "quantizer": quantizer,
            "collisions": self.collisions,
            "collaborative_weight": self.collaborative_weight,
            "collaborative": collaborative,
            "seed": self.seed,
            "encoder": encoder,
        }
