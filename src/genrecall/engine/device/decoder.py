"""Forward passes of a decoder-only model for beams: the prompt once, then only the beams' rows.

``h = x + Attn(RMSNorm(x)); y = h + SwiGLU(RMSNorm(h))`` a layer, as in Llama (Touvron et al. 2023, arXiv 2302.13971).
We deviate in the cache, after Hydragen (Juravsky et al. 2024) and xGR (arXiv 2512.11529): prefix keys and values belong
to a request and are read by all its beams; suffix keys and values are appended level by level and never reordered (a
row's path through them is its ``ancestry``); and of the last layer a prompt computes only what its last token needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.layers import finish_layer, query_key_value, rms_norm, rotation
from genrecall.engine.device.weights import Weights
from genrecall.kernels.beam_attention import BeamRows, beam_attention


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Keys and values of R prompts: per layer (R, K, T, D), padded on the right; ``length`` int64 (R,)."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    length: torch.Tensor


class Suffix:
    """Keys and values that beams add: per layer (S, K, D), one row for each beam that went through the model."""

    def __init__(self, layers: int, capacity: int, like: torch.Tensor) -> None:
        kv_heads, width = like.shape[1], like.shape[3]
        self.keys = [like.new_empty(capacity, kv_heads, width) for _ in range(layers)]
        self.values = [like.new_empty(capacity, kv_heads, width) for _ in range(layers)]
        self.used = 0


class Decoder:
    """A Llama, Qwen2 or Qwen3 model. E model width, H heads, K KV heads, D head width."""

    def __init__(self, architecture: Architecture, weights: Weights) -> None:
        self.architecture = architecture
        self.weights = weights
        self._inverse_frequency = architecture.inverse_frequency.to(weights.embedding.device)
        self._scale = architecture.head_width**-0.5

    @property
    def window(self) -> int:
        """The most prompt tokens that leave room for the SID."""
        return self.architecture.window - len(self.weights.level_heads) + 1

    @property
    def max_rows(self) -> int:
        """How many beams fill a device without filling its memory."""
        return 4096

    @property
    def vocabulary(self) -> int:
        """V of prompts."""
        return self.architecture.vocabulary

    def read(self, tokens: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Prefix]:
        """``prefill`` of prompt tokens int64 (R, T), padded on the right with any token."""
        return self.prefill(F.embedding(tokens, self.weights.embedding), length)

    def prefill(self, x: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Prefix]:
        """Read R prompts.

        Args:
            x: input vectors (R, T, E), padded on the right with any.
            length: int64 (R,), at least 1.

        Returns:
            Normed hidden state of each prompt's last token (R, E), and the prefix.
        """
        prefix = Prefix(keys=[], values=[], length=length)
        width = x.shape[1]
        requests = torch.arange(len(x), device=x.device)
        cos_sin = self._rotation(torch.arange(width, device=x.device))
        for index, layer in enumerate(self.weights.layers):
            query, key, value = self._heads(x, index, cos_sin)
            key, value = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
            prefix.keys.append(key)
            prefix.values.append(value)
            if index < len(self.weights.layers) - 1:
                # Padding is on the right, where no real token looks under a causal mask.
                attended = _attention(query.transpose(1, 2), key, value, self._scale)
                attended = attended.transpose(1, 2).flatten(2)
            else:
                # Of the last layer only the last token's output is read.
                last = length - 1
                x, query = x[requests, last], query[requests, last]
                seen = torch.arange(width, device=x.device) < length[:, None]
                attended = _attention(query[:, :, None], key, value, self._scale, seen[:, None, None]).flatten(1)
            x = finish_layer(x, attended, layer, self.architecture.epsilon)
        return self._final(x), prefix

    def step(
        self,
        tokens: torch.Tensor,
        depth: int,
        rows: BeamRows,
        ancestry: torch.Tensor,
        prefix: Prefix,
        suffix: Suffix,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token to each of M beams.

        Args:
            tokens: int64 (M,), the code token that each beam ends with.
            depth: codes that each beam has, at least 1.
            rows: which request each beam belongs to.
            ancestry: int64 (M, depth-1), suffix rows of the beam's earlier tokens.
            prefix: of the requests.
            suffix: gets M new rows, in this order.

        Returns:
            Normed hidden states (M, E), and ``ancestry`` extended by the new rows, (M, depth).
        """
        begin, end = suffix.used, suffix.used + len(tokens)
        suffix.used = end
        assert end <= len(suffix.keys[0]), "the suffix block holds every row of its search"
        own = torch.arange(begin, end, device=tokens.device)
        ancestry = torch.cat([ancestry, own[:, None]], dim=1)
        cos_sin = self._rotation(prefix.length[rows.request] + depth - 1)
        x = F.embedding(tokens, self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            query, key, value = self._heads(x, index, cos_sin)
            suffix.keys[index][begin:end] = key
            suffix.values[index][begin:end] = value
            attended = beam_attention(
                query, prefix.keys[index], prefix.values[index], prefix.length, suffix.keys[index],
                suffix.values[index], ancestry, rows, self._scale,
            )  # fmt: skip
            x = finish_layer(x, attended.flatten(1), layer, self.architecture.epsilon)
        return self._final(x), ancestry

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """float32 (M, C) logits of one level's codes; no other row of the LM head is read."""
        return F.linear(hidden.float(), self.weights.level_heads[level])

    def _heads(
        self, x: torch.Tensor, index: int, cos_sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = self.architecture
        return query_key_value(x, self.weights.layers[index], cos_sin, shape.heads, shape.kv_heads, shape.epsilon)

    def _rotation(self, positions: torch.Tensor) -> torch.Tensor:
        return rotation(positions, self._inverse_frequency, self.architecture.rope_scale)

    def _final(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weights.norm, self.architecture.epsilon)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Grouped-query attention, causal unless a mask (True: seen) is given."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
