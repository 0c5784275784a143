"""Attention over prompts that lie in pages: of prompt tokens while they are read, and of beams. Contract, dispatch.

Keys and values of one layer lie in pages (P, K, page, D); a request has a row of the page table. The page size
and D are powers of two (D from 16 to 256), D is contiguous, other strides are free. Rows that no tile covers are not
written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.paged_attention.launch import LEAST_PART
from genrecall.kernels.rows import RowRanges, RowTiles, most_tiles

_TILES = (64, 128)
"""Query rows of one tile, heads that share a KV head counted in: the larger is what a tensor core instruction chain
digests best; of few rows smaller ones end sooner, each on a multiprocessor of its own."""

_PROGRAMS = 140
"""That run at the same time on the 132 multiprocessors of an H100, a few of which have two."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PagedKV:
    """Prompts of R requests in one layer.

    Attributes:
        key: (P, K, page, D), rotated; of the query's dtype or float8_e4m3fn, which is widened as it is read.
        value: (P, K, page, D), likewise.
        table: int32 (R, Q); pages of each request in order; entries beyond its length are not read.
        length: int32 (R,); tokens of each request that are in the pages, cached and new.
    """

    key: torch.Tensor
    value: torch.Tensor
    table: torch.Tensor
    length: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SuffixKV:
    """What beams added in one layer: written once a level, never moved.

    Attributes:
        key: (S, K, D), rotated.
        value: (S, K, D).
        ancestry: int32 (M, G), G ≥ 1; the suffix rows on each row's path, its own last.
    """

    key: torch.Tensor
    value: torch.Tensor
    ancestry: torch.Tensor


def tile_size(heads: int, kv_heads: int, widest: int, rows: int, requests: int, prefix_tokens: int = 0) -> int:
    """Rows a tile, for ``cut_rows``: so few that all multiprocessors are busy.

    Args:
        heads, kv_heads: H, K.
        widest: the most rows of a request.
        rows, requests: of the batch.
        prefix_tokens: of the longest prompt, where that may be split.
    """
    parts = max(1, prefix_tokens // LEAST_PART)
    for tile in _TILES:
        size = max(1, min(tile // (heads // kv_heads), widest))
        if most_tiles(rows, requests, size) * kv_heads * parts <= _PROGRAMS:
            break
    return size


def most_splits(tiles: int, kv_heads: int, prefix_tokens: int, multiprocessors: int = 132) -> int:
    """Into how many parts to split prompts of up to ``prefix_tokens`` so that all multiprocessors are busy."""
    parts = min(multiprocessors // max(1, tiles * kv_heads), prefix_tokens // LEAST_PART)
    return max(1, min(16, parts))


def attend_prompts(
    query: torch.Tensor, prefix: PagedKV, ranges: RowRanges, tiles: RowTiles, scale: float
) -> torch.Tensor:
    """Causal attention of packed prompt tokens, after their own keys and values have been stored in the pages.

    Row ``i`` of a request's ``n`` rows stands at position ``length - n + i`` and sees all positions up to its own, so
    that a cached prefix is reused by giving only the tokens after it; the last token alone is ``n = 1``.

    Args:
        query: (M, H, D), rotated; rows may be strided.
        prefix: with the new tokens in it.
        ranges: which rows belong to which request; ``count`` is n.
        tiles: ``ranges`` cut by ``cut_rows``.
        scale: multiplies the scores.

    Returns:
        (M, H, D) in the query's dtype.
    """
    run = implementation(__name__, query).attend_prompts
    return run(query, prefix, ranges, tiles, scale)


def attend_beams(
    query: torch.Tensor, prefix: PagedKV, suffix: SuffixKV, tiles: RowTiles, scale: float, splits: int = 1
) -> torch.Tensor:
    """One softmax over the whole prompt of the row's request and the suffix tokens on the row's path.

    Args:
        query: (M, H, D), rotated; rows may be strided.
        prefix: shared by all rows of a request, read once a tile.
        suffix: of the M rows.
        tiles: live rows, cut by ``cut_rows``.
        scale: multiplies the scores.
        splits: parts that each prompt is split into, at the price of a second launch where above 1.

    Returns:
        (M, H, D) in the query's dtype.
    """
    return implementation(__name__, query).attend_beams(query, prefix, suffix, tiles, scale, splits)
