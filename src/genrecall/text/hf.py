"""A transformer and a pooling: what most text encoders are, run by `transformers` itself.

    v = Σ_t m_t h_t / Σ_t m_t,   then v / ‖v‖        (mean pooling over the text's own tokens)

Reimers & Gurevych, "Sentence-BERT", EMNLP 2019. We deviate in nothing but speed: equal texts once, batches of equal
length under a budget of tokens instead of a fixed number of texts, bf16 weights where the processor has bf16 (cosine
to float32 above 0.9998 with MiniLM, 2.3 times as fast on AMX).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from genrecall.hardware import has_bf16, pick_device
from genrecall.text.batching import batches_of_tokens, encode_distinct
from genrecall.text.layout import Layout, digest_of, require_safetensors
from genrecall.text.loading import loading

# Padded tokens a batch. CPU: measured flat from 1k to 4k on two cores, slower at 16k as activations leave the cache.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
# RoBERTa numbers positions from the padding id on, so that the table holds two more than texts may have tokens.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")


@dataclass(frozen=True, kw_only=True, eq=False)
class HfEncoder:
    """A transformer whose last hidden states are pooled into one vector.

    Attributes:
        layout: where the model lies and how it pools.
        name: for the identity.
        version: of the package that brought the model; empty for a directory.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        batch_size: most texts a batch; None for no limit besides the budget of tokens.
    """

    layout: Layout
    name: str
    version: str
    device: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require_safetensors(self.layout.directory)

    @cached_property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self._config.hidden_size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, version, width, pooling, and the digest of weights and tokenizer."""
        return {
            "name": self.name,
            "version": self.version,
            "dim": self.dim,
            "pooling": self.layout.pooling,
            "normalised": self.layout.normalise,
            "digest": digest_of(self.layout.directory),
        }

    @cached_property
    def max_tokens(self) -> int:
        """Tokens after which a text is cut: what the directory says, the tokenizer admits and the positions hold."""
        limits = [self.layout.max_tokens or self._tokenizer.model_max_length, self._tokenizer.model_max_length]
        positions = self._config.to_dict().get("max_position_embeddings")
        if positions:
            offset = (self._config.pad_token_id or 0) + 1 if self._config.model_type in _OFFSET_POSITIONS else 0
            limits.append(positions - offset)
        return int(min(limits))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D)."""
        return encode_distinct(texts, self.dim, self._encode_chunk, label=f"{self.name} vectors")

    @cached_property
    def _place(self) -> torch.device:
        return pick_device(self.device)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        with loading(self.layout.directory):
            return AutoConfig.from_pretrained(self.layout.directory, local_files_only=True)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with loading(self.layout.directory):
            return AutoTokenizer.from_pretrained(self.layout.directory, local_files_only=True)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModel

        dtype = torch.bfloat16 if has_bf16(self._place) else torch.float32
        with loading(self.layout.directory):
            model = AutoModel.from_pretrained(
                self.layout.directory, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        return model.to(self._place).eval()

    def _encode_chunk(self, texts: Sequence[str], done: Callable[[int], None]) -> np.ndarray:
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for rows in batches_of_tokens(lengths, _BATCH_TOKENS[self._place.type], self.batch_size):
                vectors[rows] = self._forward([tokens[row] for row in rows]).cpu().numpy()
                done(len(rows))
        return vectors

    def _forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """float32 (n, D) for n token lists, padded on the right."""
        width = max(map(len, tokens))
        ids = np.full((len(tokens), width), self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        seen = torch.from_numpy(mask).to(self._place)
        hidden = self._model(input_ids=torch.from_numpy(ids).to(self._place), attention_mask=seen).last_hidden_state
        vectors = pool(hidden.float(), seen, self.layout.pooling)
        return normalize(vectors, dim=1) if self.layout.normalise else vectors


def pool(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a text.

    Args:
        hidden: float32 (n, T, D) last hidden states.
        mask: int64 (n, T), 1 on the text's tokens, 0 on the padding to the right of them.
        mode: one of ``layout.POOLINGS``.
    """
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    if mode == "max":
        return hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
    assert mode == "mean"
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
