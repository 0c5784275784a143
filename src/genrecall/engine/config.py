"""Settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrecall.errors import ConfigError

Normalise = Literal["trie", "level"]
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How answers are computed; none of it but ``normalise`` and the precision changes them.

    Attributes:
        beam: W of requests that name none.
        normalise: softmax over the valid codes of each prefix ("trie") or over all codes of the level ("level", for
            checkpoints trained with a plain loss).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: precision of the linear layers; ``auto`` is bfloat16 on CUDA, float32 on the CPU. Scores are always
            float32.
        max_rows: the most beams of one forward pass; None: what suits model and device.
        max_prompt_tokens: the most prompt tokens, padding counted, of one forward pass.
    """

    beam: int = 50
    normalise: Normalise = "trie"
    device: str = "auto"
    dtype: str = "auto"
    max_rows: int | None = None
    max_prompt_tokens: int = 16384

    def __post_init__(self) -> None:
        if self.normalise not in ("trie", "level"):
            raise ConfigError(
                "unknown score normalisation",
                seen=self.normalise,
                allowed="trie, level",
                fix="use the one that the model was trained for; the bundle records it",
            )
        if self.dtype not in DTYPES:
            raise ConfigError(
                "unknown engine precision", seen=self.dtype, allowed=", ".join(DTYPES), fix="choose another dtype"
            )
        for name in ("beam", "max_rows", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"the engine's {name} must be positive",
                    seen=getattr(self, name),
                    allowed="1 or more",
                    fix=f"raise {name}",
                )
