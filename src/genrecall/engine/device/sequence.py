"""Long prompts by tokens: each of N ranks carries T/N rows through whole weights, and attends with its own heads.

    (T/N, E) –norm, W_qkv→ (T/N, heads) –swap→ (T, heads/N) –attention→ (T, heads/N) –swap→ (T/N, heads) –W_out, MLP→

After DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509). We deviate: only batches that read many tokens take this
way, beams go on by heads, so that pages hold what tensor parallelism puts there and attention is the same kernel.

Elements that a rank sends a layer, of T tokens:

    by heads   2 sums = 4 · (N-1)/N · T·E              by tokens   (N-1)/N · T/N · (2H + 2K)·D

which is 3.5 (N=2) and 7 (N=4) times fewer for the sizes of Qwen2.5-7B, and norms read 1/N of the rows. Megatron's
sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198) saves the norms alone: a reduce-scatter and an
all-gather move what a sum does. The price is memory, whole weights beside the rank's part, and that few rows would wait
for them to be read: T/N should be 300 or more, so that products and not weights take the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from genrecall.engine.device.arithmetic import Arithmetic
from genrecall.engine.device.layers import Layer
from genrecall.engine.device.shards import Shard
from genrecall.engine.device.weights import LayerWeights


class Exchange(Protocol):
    """Ranks that trade rows."""

    @property
    def shard(self) -> Shard:
        """Which one this is."""
        ...

    def swap(self, x: torch.Tensor) -> torch.Tensor:
        """Of (N, …), a part for each rank, what each rank has for this one: (N, …), by rank."""
        ...

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """(N·M, …) of every rank's (M, …), by rank."""
        ...


class ByTokens:
    """All layers but the last, of which a prompt computes little.

    Args:
        layers: whole, but for ``qkv``: rows in the order of the ranks, each with the heads that it attends with.
        arithmetic: that they are in.
        epsilon: of their norms.
        exchange: with the other ranks.
        least: tokens of a batch from which on it takes this way.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], arithmetic: Arithmetic, epsilon: float, exchange: Exchange, least: int
    ) -> None:
        self._layers = [Layer(layer, arithmetic, epsilon) for layer in layers]
        self._exchange, self._least = exchange, least

    def takes(self, tokens: int) -> bool:
        """Whether a batch that reads so many tokens, padding included, goes this way: the same on every rank."""
        return tokens >= self._least and tokens % self._exchange.shard.ranks == 0 and len(self._layers) > 0

    def read(self, x: torch.Tensor, attend: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Input vectors (T, E) to what the last layer takes: (T, E), the same on every rank.

        Args:
            x: of all tokens, on every rank.
            attend: by layer, from this rank's queries, keys and values (T, (H+2K)·D) to its heads' results (T, H, D).
        """
        ranks, swap, join = self._exchange.shard.ranks, self._exchange.swap, self._exchange.join
        own = x[self._exchange.shard.even(len(x))]
        residual: torch.Tensor | None = None
        for index, layer in enumerate(self._layers):
            qkv, total = layer.project(own, residual)
            by_rank = qkv.view(len(own), ranks, -1).transpose(0, 1).contiguous()
            attended = attend(index, swap(by_rank).flatten(0, 1))
            _, heads, width = attended.shape
            mine = swap(attended.view(ranks, len(own), heads, width)).transpose(0, 1)
            own, residual = layer.finish(mine.reshape(len(own), ranks * heads, width), total)
        return join(own if residual is None else own + residual)
