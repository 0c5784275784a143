"""Forward passes of a decoder-only model over packed rows: prompts once, then only the beams' rows.

``h = Layer_n(… Layer_1(e))`` over all rows of a batch at once, after Hydragen (Juravsky et al. 2024, arXiv 2402.05099)
and xGR (arXiv 2512.11529): keys and values of prompts lie in pages that all beams of a request read; what beams add is
appended level by level and never reordered. We deviate: nothing is padded per request, and of the last layer a prompt
computes only what its last token needs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.arithmetic import Arithmetic, InBlocks, Plain, in_blocks
from genrecall.engine.device.graphs import cut
from genrecall.engine.device.layers import Layer, Sum, normed, rotation_table
from genrecall.engine.device.memory import PromptMemory, SuffixMemory
from genrecall.engine.device.sequence import ByTokens
from genrecall.engine.device.weights import Weights
from genrecall.kernels.level_logits import level_logits
from genrecall.kernels.paged_attention import PagedKV, SuffixKV, attend_beams, attend_prompts, most_splits, tile_size
from genrecall.kernels.rows import RowRanges, RowTiles, cut_rows, most_tiles

_LAYERS_A_GRAPH, _LAYERS_OF_THE_FIRST = 8, 2
"""Eight are about 70 kernels: launched before those of the graph before are done, even for one narrow beam. The device
waits until the first graph is launched as a whole.
"""

_PLAIN = Plain()


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptRows:
    """Where the T packed prompt tokens of R requests belong.

    Attributes:
        position: int32 (T,), in the prompt.
        slot: int32 (T,), where keys and values go: ``page * P + offset``; -1 for padding.
        ranges: the new tokens of each request.
        last: int32 (R,), the row of each prompt's last token.
        last_ranges: one row for each request that is there, none for an empty place.
        table: int32 (R, Q), pages.
        length: int32 (R,), tokens, cached and new.
    """

    position: torch.Tensor
    slot: torch.Tensor
    ranges: RowRanges
    last: torch.Tensor
    last_ranges: RowRanges
    table: torch.Tensor
    length: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamRows:
    """Where M beams belong.

    Attributes:
        ranges: which rows belong to which of R requests.
        request: int64 (M,), the same by row; any number in padding.
        ancestry: int32 (M, depth), suffix rows on each beam's path, the one it is about to write last.
        table, length: of the requests' prompts.
        widest: the most rows of one request.
    """

    ranges: RowRanges
    request: torch.Tensor
    ancestry: torch.Tensor
    table: torch.Tensor
    length: torch.Tensor
    widest: int

    @property
    def depth(self) -> int:
        """Codes that each beam has, at least 1."""
        return self.ancestry.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What reading R prompts leaves for their beams.

    Attributes:
        hidden: (R, E), the states that the first code is written from.
        state: (R, E), what the model made of the whole prompt: the user's state, for rankers.
        table: int32 (R, Q), pages that beams look back at.
        length: int32 (R,), tokens in them.
    """

    hidden: torch.Tensor
    state: torch.Tensor
    table: torch.Tensor
    length: torch.Tensor


class Decoder:
    """A Llama, Qwen2 or Qwen3 model, or one rank's part of it. E model width, H heads, K KV heads, D head width.

    Args:
        architecture: of the part.
        weights: of the part.
        arithmetic: that the weights are in.
        total: sums what the ranks' products add to the residual; every rank then holds the same. None: there is one.
        by_tokens: how the ranks share long prompts; None: as they share everything.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        arithmetic: Arithmetic,
        total: Sum | None = None,
        by_tokens: ByTokens | None = None,
    ) -> None:
        self.architecture = architecture
        self.weights = weights
        self._layers = [Layer(layer, arithmetic, architecture.epsilon, total) for layer in weights.layers]
        self._sum, self._by_tokens = total, by_tokens
        frequency = architecture.inverse_frequency.to(weights.embedding.device)
        self._cos_sin = rotation_table(frequency, architecture.rope_scale, architecture.window)
        self._scale = architecture.head_width**-0.5
        self.invariant = isinstance(arithmetic, InBlocks)
        self.memory: PromptMemory
        self.suffix: SuffixMemory

    @property
    def window(self) -> int:
        """The most prompt tokens that leave room for the SID."""
        return self.architecture.window - len(self.weights.level_heads) + 1

    @property
    def vocabulary(self) -> int:
        """V of prompts."""
        return self.architecture.vocabulary

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input vectors (M, E) of int32 (M,) tokens."""
        return F.embedding(tokens, self.weights.embedding)

    def allocate(
        self, *, pages: int, page_tokens: int, prompt_dtype: torch.dtype, suffix_rows: int, requests: int
    ) -> None:
        """Make room for prompts and beams; ``requests`` is the most of one batch."""
        like = self.weights.embedding
        self.memory = PromptMemory(
            self.architecture, pages=pages, page_tokens=page_tokens, dtype=prompt_dtype, device=like.device
        )
        self.suffix = SuffixMemory(self.architecture, rows=suffix_rows, dtype=like.dtype, device=like.device)

    def wipe(self) -> None:
        """Overwrite what batches left behind outside the pages of prompts."""
        self.suffix.wipe()

    def read(self, tokens: torch.Tensor, rows: PromptRows) -> Reading:
        """``prefill`` of packed prompt tokens int32 (T,)."""
        hidden = self.prefill(self.embed(tokens), rows)
        return Reading(hidden=hidden, state=hidden, table=rows.table, length=rows.length)

    def prefill(self, x: torch.Tensor, rows: PromptRows) -> torch.Tensor:
        """Read prompts from input vectors (T, E). Returns normed hidden states (R, E) of the prompts' last tokens."""
        tiles = self._tiles(rows.ranges, len(x), rows.table.shape[0], len(x))
        memory = self.memory

        def store(index: int, qkv: torch.Tensor) -> tuple[torch.Tensor, PagedKV]:
            key, value = memory.keys[index], memory.values[index]
            query = self._layers[index].store(qkv, self._cos_sin, rows.position, key, value, rows.slot)
            return query, PagedKV(key=key, value=value, table=rows.table, length=rows.length)

        def attend(index: int, qkv: torch.Tensor) -> torch.Tensor:
            query, prefix = store(index, qkv)
            return attend_prompts(query, prefix, rows.ranges, tiles, self._scale)

        residual: torch.Tensor | None = None
        if self._by_tokens is not None and self._by_tokens.takes(len(x)):
            x = self._by_tokens.read(x, attend)
        else:
            for index, layer in enumerate(self._layers[:-1]):
                qkv, total = layer.project(x, residual)
                x, residual = self._finish(index, attend(index, qkv), total)
        # Of the last layer only the last token's output is read.
        last = self._layers[-1]
        qkv, total = last.project(x, residual)
        query, prefix = store(len(self._layers) - 1, qkv)
        query, total = query[rows.last], total[rows.last]
        tiles = self._tiles(rows.last_ranges, len(query), len(query), 1)
        return self._final(*last.finish(attend_prompts(query, prefix, rows.last_ranges, tiles, self._scale), total))

    def step(self, tokens: torch.Tensor, *levels: BeamRows) -> torch.Tensor:
        """Append one token each to M beams: of one level, or of several levels whose paths are known, in one pass.

        Each row sees its prompt and its own path: what stands above a row is known, so a layer's keys of all levels are
        stored before any of them is attended to. Tree attention (SpecInfer, Miao et al. 2023, arXiv 2305.09781); we
        deviate: levels are attended to one after the other, because paths of a level are equally long.

        Args:
            tokens: int32 (M,), of the rows of all levels, one level after the other.
            levels: where they belong; a row's path names suffix rows of this pass or of earlier ones.

        Returns:
            Normed hidden states (M, E).
        """
        x, memory, suffix = self.embed(tokens), self.memory, self.suffix
        pages = levels[0].table.shape[1] * memory.page_tokens
        tiles = [self._tiles(one.ranges, len(one.ancestry), one.table.shape[0], one.widest, pages) for one in levels]
        kv_heads = self.architecture.kv_heads
        splits = [1 if self.invariant else most_splits(len(one.count), kv_heads, pages) for one in tiles]
        sizes = [len(one.ancestry) for one in levels]
        position = _joined([one.length[one.request] + (one.depth - 1) for one in levels])
        slot = _joined([one.ancestry[:, -1].contiguous() for one in levels])
        residual: torch.Tensor | None = None
        for index, layer in enumerate(self._layers):
            key, value = suffix.keys[index], suffix.values[index]
            qkv, total = layer.project(x, residual)
            query = layer.store(qkv, self._cos_sin, position, key.unsqueeze(2), value.unsqueeze(2), slot)
            parts = [
                attend_beams(
                    own,
                    PagedKV(key=memory.keys[index], value=memory.values[index], table=one.table, length=one.length),
                    SuffixKV(key=key, value=value, ancestry=one.ancestry),
                    cut_of, self._scale, split,
                )
                for own, one, cut_of, split in zip(query.split(sizes), levels, tiles, splits, strict=True)
            ]  # fmt: skip
            x, residual = self._finish(index, _joined(parts), total)
        return self._final(x, residual)

    def _finish(
        self, index: int, attended: torch.Tensor, total: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        found = self._layers[index].finish(attended, total)
        if (index + 1) % _LAYERS_A_GRAPH == _LAYERS_OF_THE_FIRST:
            cut()
        return found

    def level_logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """float32 (M, C) logits of one level's codes; no other row of the LM head is read."""
        head = self.weights.level_heads[level]
        if self.invariant:
            return in_blocks(lambda part: level_logits(part, head), hidden)
        return level_logits(hidden, head)

    def _tiles(self, ranges: RowRanges, rows: int, requests: int, widest: int, prefix_tokens: int = 0) -> RowTiles:
        # Where answers may not depend on the batch, tiles are those of the largest there could be.
        sizes = (sys.maxsize, sys.maxsize, 1, 0) if self.invariant else (widest, rows, requests, prefix_tokens)
        size = tile_size(self.architecture.heads, self.architecture.kv_heads, *sizes)
        return cut_rows(ranges, size, most_tiles(rows, requests, size))

    def _final(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        weight, epsilon = self.weights.norm, self.architecture.epsilon
        hidden: torch.Tensor = normed(self._sum, _PLAIN, x, weight, epsilon, residual, 1)[0]
        return hidden


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """One after the other; one alone is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]
