"""Sizes of the models that are trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass

from genrecall.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """One row of the table below."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int


# Parameters without the embedding, which adds ``hidden`` for every token: tiny 0.5 M, small 1.6 M, base 11 M.
SIZES = {
    "tiny": ModelSize(hidden=128, layers=3, heads=4, kv_heads=2, head_dim=32, ffn=320),
    "small": ModelSize(hidden=192, layers=4, heads=6, kv_heads=3, head_dim=32, ffn=512),
    "base": ModelSize(hidden=384, layers=6, heads=6, kv_heads=3, head_dim=64, ffn=1152),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Qwen3-architecture model without pretraining.

    Attributes:
        size: ``tiny``, ``small`` or ``base``.
        window: the longest sequence in tokens (prompt and answer).
        explicit: sizes of your own, in place of ``size``.
        seed: of the initial weights.
    """

    size: str = "tiny"
    window: int = 1024
    explicit: ModelSize | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.explicit is None and self.size not in SIZES:
            raise ConfigError(
                "unknown model size", seen=self.size, allowed=", ".join(SIZES), fix="choose another --size"
            )
        if self.window < 8:
            raise ConfigError("the model's window is too short", seen=self.window, allowed="8 or more", fix="raise it")

    @property
    def sizes(self) -> ModelSize:
        """The row of the table that holds."""
        return self.explicit or SIZES[self.size]
