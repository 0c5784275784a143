"""Attention of a step: beams over prompts and their own suffixes, and prompts over themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from genrecall.bench.kernel_cases.case import Case, Rand, Workload
from genrecall.kernels import paged_attention, rows
from genrecall.kernels.paged_attention import reference as paged_attention_reference


def _paged(work: Workload, requests: int, tokens: int, rand: Rand, device: torch.device) -> paged_attention.PagedKV:
    pages = -(-tokens // work.page)
    table = torch.randperm(requests * pages, device=device).int().view(requests, pages)
    key, value = (rand(requests * pages, work.kv_heads, work.page, work.head_width) for _ in range(2))
    return paged_attention.PagedKV(
        key=key, value=value, table=table, length=torch.full((requests,), tokens, dtype=torch.int32, device=device)
    )


def attention(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
    """Of short and long prompts."""
    group, scale = work.heads // work.kv_heads, work.head_width**-0.5
    row_bytes = work.heads * work.head_width * rand(1).element_size()
    for requests, tokens in ((work.requests, work.prompt), (work.requests, work.long_prompt), (1, work.long_prompt)):
        suffix_levels, count = work.levels - 1, requests * work.beam
        prefix = _paged(work, requests, tokens, rand, device)
        own_key, own_value = (rand(count * suffix_levels, work.kv_heads, work.head_width) for _ in range(2))
        ancestry = torch.arange(count * suffix_levels, device=device).int().view(count, suffix_levels)
        suffix = paged_attention.SuffixKV(key=own_key, value=own_value, ancestry=ancestry)
        query = rand(count, work.heads, work.head_width)
        ranges = rows.RowRanges(
            begin=torch.arange(0, count + 1, work.beam, device=device).int(),
            count=torch.full((requests,), work.beam, dtype=torch.int32, device=device),
        )
        size = paged_attention.tile_size(work.heads, work.kv_heads, work.beam, count, requests, tokens)
        tiles = rows.cut_rows(ranges, size, rows.most_tiles(count, requests, size))
        splits = paged_attention.most_splits(len(tiles.request), work.kv_heads, tokens)
        keys = requests * tokens + count * suffix_levels
        yield Case(
            name="attend_beams",
            shape=f"{requests} x {work.beam} beams, {tokens} tokens, {splits} splits",
            run=partial(paged_attention.attend_beams, query, prefix, suffix, tiles, scale, splits),
            reference=partial(paged_attention_reference.attend_beams, query, prefix, suffix, tiles, scale, 1),
            bytes=2 * count * row_bytes + 2 * keys * row_bytes // group,
            flop=4 * count * work.heads * work.head_width * (tokens + suffix_levels),
        )
    for requests, tokens in ((4 * work.requests, work.prompt), (1, work.long_prompt)):
        count = requests * tokens
        prefix, query = _paged(work, requests, tokens, rand, device), rand(count, work.heads, work.head_width)
        ranges = rows.RowRanges(
            begin=torch.arange(0, count + 1, tokens, device=device).int(),
            count=torch.full((requests,), tokens, dtype=torch.int32, device=device),
        )
        size = paged_attention.tile_size(work.heads, work.kv_heads, tokens, count, requests)
        tiles = rows.cut_rows(ranges, size, rows.most_tiles(count, requests, size))
        yield Case(
            name="attend_prompts",
            shape=f"{requests} x {tokens} tokens",
            run=partial(paged_attention.attend_prompts, query, prefix, ranges, tiles, scale),
            reference=partial(paged_attention_reference.attend_prompts, query, prefix, ranges, tiles, scale),
            bytes=2 * count * row_bytes + 2 * count * row_bytes // group,
            flop=2 * count * work.heads * work.head_width * (tokens + 1),
        )
