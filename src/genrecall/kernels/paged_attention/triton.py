"""Attention over pages on tensor cores: flash attention whose query tile is ``beams x heads`` of one request.

    o = Σ_blocks e^{s − max} V / Σ_blocks e^{s − max},    s = scale · Q Kᵀ    (Dao 2023, arXiv 2307.08691)

We deviate: the rows of a tile are all heads that share a KV head times beams (or prompt tokens) of one request, so that
its pages are read once a tile; the beams' own suffix tokens are one more block of keys, gathered by ancestry, in which
a row sees its own beam's alone (tensor cores make the masked part cheaper than a loop beside them). Long prompts with
few tiles are split; parts are joined by their log-sum-exp in a second launch (Flash-Decoding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.paged_attention.launch import LEAST_PART, Launch, LaunchKey, check_shapes, launch_for

if TYPE_CHECKING:
    from genrecall.kernels.paged_attention import PagedKV, SuffixKV
    from genrecall.kernels.rows import RowRanges, RowTiles

_LOG2_E = 1.4426950408889634


def attend_prompts(
    query: torch.Tensor, prefix: PagedKV, ranges: RowRanges, tiles: RowTiles, scale: float, launch: Launch | None = None
) -> torch.Tensor:
    """See the contract in ``__init__``; ``launch`` replaces the chosen shape of blocks."""
    return _run(query, prefix, None, tiles, scale, 1, ranges, launch)


def attend_beams(
    query: torch.Tensor,
    prefix: PagedKV,
    suffix: SuffixKV,
    tiles: RowTiles,
    scale: float,
    splits: int,
    launch: Launch | None = None,
) -> torch.Tensor:
    """See the contract in ``__init__``; ``launch`` replaces the chosen shape of blocks."""
    return _run(query, prefix, suffix, tiles, scale, splits, None, launch)


def _run(
    query: torch.Tensor,
    prefix: PagedKV,
    suffix: SuffixKV | None,
    tiles: RowTiles,
    scale: float,
    splits: int,
    ranges: RowRanges | None,
    launch: Launch | None,
) -> torch.Tensor:
    rows, heads, width = query.shape
    kv_heads, page = prefix.key.shape[1:3]
    check_shapes(query, prefix, suffix)
    require_packed(
        prefix.length, tiles.request, tiles.first, tiles.count, *((ranges.begin, ranges.count) if ranges else ())
    )
    group = heads // kv_heads
    block_m = max(16, triton.next_power_of_2(tiles.size * group))
    short = prefix.table.shape[1] * page <= LEAST_PART
    key = LaunchKey(block_m=block_m, width=width, dtype=query.dtype, causal=ranges is not None, short=short)
    launch = launch or launch_for(key)
    out = torch.empty(rows, heads, width, dtype=query.dtype, device=query.device)
    partial, lse = out, out
    if splits > 1:
        partial = torch.empty(splits, rows, heads, width, dtype=torch.float32, device=query.device)
        lse = torch.empty(splits, rows, heads, dtype=torch.float32, device=query.device)
    num_tiles = len(tiles.request)
    # Pointers that a variant does not read are given any tensor.
    begin, count = (ranges.begin, ranges.count) if ranges else (tiles.request, tiles.request)
    own_key, own_value, ancestry = (suffix.key, suffix.value, suffix.ancestry) if suffix else (query, query, query)
    levels = ancestry.shape[1] if suffix else 0
    # What is kept for later takes the place of a second program where tiles are large, heads wide or numbers long.
    roomy = block_m <= 64 and width <= 128 and query.dtype != torch.float32
    _attend[(num_tiles, kv_heads, splits)](
        query, *query.stride()[:2], prefix.key, *prefix.key.stride()[:3], prefix.value, *prefix.value.stride()[:3],
        prefix.table, prefix.table.stride(0), prefix.length, tiles.request, tiles.first, tiles.count, begin, count,
        own_key, *own_key.stride()[:2], own_value, *own_value.stride()[:2], ancestry, ancestry.stride(0),
        partial, lse, rows, scale * _LOG2_E,
        HEADS=heads, GROUP=group, WIDTH=width, PAGE=page, LEVELS=levels,
        ONE_OWN=roomy and 0 < tiles.size * levels <= launch.block_n, CAUSAL=ranges is not None, SPLITS=splits,
        LEAST_STEPS=max(1, LEAST_PART // launch.block_n), BLOCK_M=block_m, BLOCK_N=launch.block_n,
        PRECISION=_precision(query), num_warps=launch.warps, num_stages=launch.stages, maxnreg=launch.registers,
    )  # fmt: skip
    if splits > 1:
        _join[(num_tiles, kv_heads)](
            partial, lse, tiles.first, tiles.count, out, rows, HEADS=heads, GROUP=group, WIDTH=width, SPLITS=splits,
            BLOCK_M=block_m, num_warps=8,
        )  # fmt: skip
    return out


def _precision(query: torch.Tensor) -> str:
    """Float32 is multiplied as such, not rounded to tf32."""
    return "ieee" if query.dtype == torch.float32 else "tf32"


@triton.jit(do_not_specialize=["num_rows", "table_row", "ancestry_row"])
def _attend(
    query, query_row, query_head, key, key_page, key_head, key_token, value, value_page, value_head, value_token,
    table, table_row, length, tile_request, tile_first, tile_count, begin, count,
    own_key, own_key_row, own_key_head, own_value, own_value_row, own_value_head, ancestry, ancestry_row,
    out, lse, num_rows, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, LEVELS: tl.constexpr,
    ONE_OWN: tl.constexpr, CAUSAL: tl.constexpr, SPLITS: tl.constexpr, LEAST_STEPS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if CAUSAL:
        # The last tiles of a prompt see the most: they start first, so that none is waited for at the end.
        tile = tl.num_programs(0) - 1 - tile
    rows = tl.load(tile_count + tile)
    if rows == 0:
        return
    request, first = tl.load(tile_request + tile), tl.load(tile_first + tile)
    m = tl.arange(0, BLOCK_M)
    row = m // GROUP
    head = kv * GROUP + m % GROUP
    live = row < rows
    place = ((first + row) * HEADS + head).to(tl.int64)
    tokens = tl.load(length + request)
    if CAUSAL:
        # Row i of a request's n sees length - n + i + 1 tokens.
        unseen_by_first = tl.load(begin + request) + tl.load(count + request) - 1 - first
        limit = tokens - unseen_by_first + row
        all_see, stop = tokens - unseen_by_first, tokens - unseen_by_first + rows - 1
    else:
        limit = tokens + row * 0
        all_see, stop = tokens, tokens
    low, high = stop * 0, stop
    if SPLITS > 1:
        # A short prompt is left in fewer parts than its batch is launched for.
        part = tl.maximum(tl.cdiv(tl.cdiv(stop, BLOCK_N), SPLITS), LEAST_STEPS) * BLOCK_N
        low = split * part
        high = tl.minimum(stop, low + part)
        place += split.to(tl.int64) * num_rows * HEADS
        if (split > 0) & (low >= high):
            tl.store(lse + place, tl.full([BLOCK_M], float("-inf"), tl.float32), mask=live)
            return
    unmasked = tl.maximum(low, tl.minimum(high, all_see) // BLOCK_N * BLOCK_N)

    d = tl.arange(0, WIDTH)
    at = (first + row).to(tl.int64) * query_row + head * query_head
    q = tl.load(query + at[:, None] + d[None, :], mask=live[:, None], other=0.0)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    table += request * table_row
    key += kv * key_head
    value += kv * value_head
    n = tl.arange(0, BLOCK_N)
    if ONE_OWN:
        # Asked for before the prompt is walked through, so that it is there afterwards.
        beam, own_k, own_v = _own(
            own_key + kv * own_key_head, own_key_row, own_value + kv * own_value_head, own_value_row, ancestry,
            ancestry_row, first, rows, n, d, LEVELS,
        )  # fmt: skip
    for start in range(low, unmasked, BLOCK_N):
        token = start + n
        page = tl.load(table + token // PAGE).to(tl.int64)
        k = tl.load(key + (page * key_page + token % PAGE * key_token)[:, None] + d[None, :])
        v = tl.load(value + (page * value_page + token % PAGE * value_token)[:, None] + d[None, :])
        s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision=PRECISION)
        acc, peak, mass = _soften(s, v, acc, peak, mass, scale, q.dtype, PRECISION)
    for start in range(unmasked, high, BLOCK_N):
        token = start + n
        real = token < high
        page = tl.load(table + token // PAGE, mask=real, other=0).to(tl.int64)
        k = tl.load(key + (page * key_page + token % PAGE * key_token)[:, None] + d[None, :], real[:, None], 0.0)
        v = tl.load(value + (page * value_page + token % PAGE * value_token)[:, None] + d[None, :], real[:, None], 0.0)
        s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision=PRECISION)
        s = tl.where(real[None, :] & (token[None, :] < limit[:, None]), s, float("-inf"))
        acc, peak, mass = _soften(s, v, acc, peak, mass, scale, q.dtype, PRECISION)
    if ONE_OWN:
        if split == 0:
            s = tl.dot(q, tl.trans(own_k.to(q.dtype)), input_precision=PRECISION)
            s = tl.where((beam < rows)[None, :] & (beam[None, :] == row[:, None]), s, float("-inf"))
            acc, peak, mass = _soften(s, own_v, acc, peak, mass, scale, q.dtype, PRECISION)
    elif LEVELS > 0:
        if split == 0:
            for start in range(0, rows * LEVELS, BLOCK_N):
                beam, own_k, own_v = _own(
                    own_key + kv * own_key_head, own_key_row, own_value + kv * own_value_head, own_value_row, ancestry,
                    ancestry_row, first, rows, start + n, d, LEVELS,
                )  # fmt: skip
                s = tl.dot(q, tl.trans(own_k.to(q.dtype)), input_precision=PRECISION)
                s = tl.where((beam < rows)[None, :] & (beam[None, :] == row[:, None]), s, float("-inf"))
                acc, peak, mass = _soften(s, own_v, acc, peak, mass, scale, q.dtype, PRECISION)

    result = acc / tl.where(mass > 0, mass, 1.0)[:, None]
    if SPLITS > 1:
        tl.store(lse + place, tl.where(mass > 0, peak + tl.log2(mass), float("-inf")), mask=live)
    tl.store(out + place[:, None] * WIDTH + d[None, :], result.to(out.dtype.element_ty), mask=live[:, None])


@triton.jit
def _own(key, key_row, value, value_row, ancestry, ancestry_row, first, rows, n, d, LEVELS: tl.constexpr):
    """Of the own tokens of a tile's beams, one beam after the other: whose, keys, values."""
    beam = n // LEVELS
    real = beam < rows
    place = tl.load(ancestry + (first + beam) * ancestry_row + n % LEVELS, mask=real, other=0).to(tl.int64)
    k = tl.load(key + (place * key_row)[:, None] + d[None, :], real[:, None], 0.0)
    v = tl.load(value + (place * value_row)[:, None] + d[None, :], real[:, None], 0.0)
    return beam, k, v


@triton.jit
def _soften(s, v, acc, peak, mass, scale, kind: tl.constexpr, PRECISION: tl.constexpr):
    """One block of the online softmax, in powers of two. Rows that have seen nothing yet stay empty."""
    above = tl.maximum(peak, tl.max(s, 1) * scale)
    shift = tl.where(above == float("-inf"), 0.0, above)
    p = tl.exp2(s * scale - shift[:, None])
    keep = tl.exp2(peak - shift)
    mass = mass * keep + tl.sum(p, 1)
    acc = tl.dot(p.to(kind), v.to(kind), acc * keep[:, None], input_precision=PRECISION)
    return acc, above, mass


@triton.jit(do_not_specialize=["num_rows"])
def _join(
    partial, lse, tile_first, tile_count, out, num_rows,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    tile, kv = tl.program_id(0), tl.program_id(1)
    rows = tl.load(tile_count + tile)
    if rows == 0:
        return
    m = tl.arange(0, BLOCK_M)
    live = m // GROUP < rows
    place = ((tl.load(tile_first + tile) + m // GROUP) * HEADS + kv * GROUP + m % GROUP).to(tl.int64)
    d = tl.arange(0, WIDTH)
    stride = num_rows.to(tl.int64) * HEADS
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for split in tl.static_range(SPLITS):
        peak = tl.maximum(peak, tl.load(lse + split * stride + place, mask=live, other=0.0))
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    for split in range(SPLITS):
        weight = tl.exp2(tl.load(lse + split * stride + place, mask=live, other=float("-inf")) - peak)
        at = (split * stride + place)[:, None] * WIDTH + d[None, :]
        # Parts that had nothing to do are not written.
        acc += weight[:, None] * tl.load(partial + at, mask=(weight > 0)[:, None], other=0.0)
        mass += weight
    tl.store(
        out + place[:, None] * WIDTH + d[None, :],
        (acc / tl.where(live, mass, 1.0)[:, None]).to(out.dtype.element_ty),
        live[:, None],
    )
