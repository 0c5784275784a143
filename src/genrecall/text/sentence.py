"""Encoders that need sentence-transformers: dense layers, prompts for documents, mixed pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.errors import DependencyError
from genrecall.hardware import pick_device
from genrecall.text.batching import encode_distinct
from genrecall.text.layout import digest_of, refuse_pickles
from genrecall.text.loading import loading

_BATCH_TEXTS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class SentenceEncoder:
    """A directory with modules beyond transformer and pooling, such as dense layers or prompts."""

    directory: Path
    device: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        refuse_pickles(self.directory)

    @cached_property
    def dim(self) -> int:
        """D, after the last module; asked by a text, as the method's name differs between versions."""
        return int(self._model.encode_document(["a"], show_progress_bar=False).shape[1])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, width, and the digest of weights and tokenizer; pooling is the directory's own."""
        return {
            "name": self.directory.resolve().name,
            "version": "",
            "dim": self.dim,
            "pooling": "sentence-transformers",
            "digest": digest_of(self.directory),
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D), with the model's prompt for documents where it has one."""
        return encode_distinct(texts, self.dim, self._encode_chunk, label=f"{self.directory.resolve().name} vectors")

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError:
            purpose = f"the encoder in {self.directory}"
            raise DependencyError("sentence-transformers", extra="text", purpose=purpose) from None
        with loading(self.directory):
            return SentenceTransformer(
                str(self.directory),
                device=str(pick_device(self.device)),
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )

    def _encode_chunk(self, texts: Sequence[str], done: Callable[[int], None]) -> np.ndarray:
        size = self.batch_size or _BATCH_TEXTS
        parts = []
        for begin in range(0, len(texts), size):
            batch = list(texts[begin : begin + size])
            parts.append(self._model.encode_document(batch, batch_size=size, show_progress_bar=False))
            done(len(batch))
        return np.concatenate(parts).astype(np.float32)
