"""``o_m = softmax([q_m·Kp(r)ᵀ ; q_m·Ks(m)ᵀ]·scale) [Vp(r) ; Vs(m)]`` with ``Kp`` in pages: plain torch, tile by tile.

Pages as in vLLM (Kwon et al. 2023, arXiv 2309.06180), the shared prefix as in Hydragen (Juravsky et al. 2024, arXiv
2402.05099). We deviate: prompt and suffix are softened together, and a beam's suffix is found by its ancestry. Python
loops over requests, so this reads the tiles on the host: it is the definition, and what a CPU runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from genrecall.kernels.paged_attention import PagedKV, SuffixKV
    from genrecall.kernels.rows import RowRanges, RowTiles


def gather_prompt(pages: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """One request's keys or values (K, length, D) out of pages (P, K, page, D)."""
    page = pages.shape[2]
    chosen = pages[table[: -(-length // page)].long()]  # (pages, K, page, D)
    return chosen.transpose(0, 1).flatten(1, 2)[:, :length]


def attend_prompts(
    query: torch.Tensor, prefix: PagedKV, ranges: RowRanges, tiles: RowTiles, scale: float
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    begins, counts, lengths = ranges.begin.tolist(), ranges.count.tolist(), prefix.length.tolist()
    for request, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        if count == 0:
            continue
        rows = slice(begins[request], begins[request] + count)
        key, value = (gather_prompt(pages, prefix.table[request], length) for pages in (prefix.key, prefix.value))
        seen = (
            torch.arange(length, device=query.device)
            <= torch.arange(length - count, length, device=query.device)[:, None]
        )
        score = _scores(query[rows], key, scale).masked_fill_(~seen[:, None, None], float("-inf"))
        out[rows] = _softmax_of(score, value.to(query.dtype))
    return out


def attend_beams(
    query: torch.Tensor, prefix: PagedKV, suffix: SuffixKV, tiles: RowTiles, scale: float, splits: int
) -> torch.Tensor:
    """See the contract in ``__init__``; ``splits`` changes nothing here."""
    out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    cut = zip(tiles.request.tolist(), tiles.first.tolist(), tiles.count.tolist(), strict=True)
    lengths = prefix.length.tolist()
    spans: dict[int, tuple[int, int]] = {}
    for request, first, count in cut:
        if count:
            spans[request] = (spans.get(request, (first, 0))[0], first + count)  # tiles of a request are adjacent
    for request, (first, last) in spans.items():
        rows = slice(first, last)
        key, value = (
            gather_prompt(pages, prefix.table[request], lengths[request]) for pages in (prefix.key, prefix.value)
        )
        own = suffix.ancestry[rows].long()
        grouped = _grouped(query[rows], key.shape[0]) * scale
        own_key, own_value = suffix.key[own].to(query.dtype), suffix.value[own].to(query.dtype)  # (n, G, K, D)
        score = torch.cat(
            [_scores(query[rows], key, scale), torch.einsum("nkgd,nskd->nkgs", grouped, own_key).float()], dim=-1
        )
        weight = torch.softmax(score, dim=-1).to(query.dtype)
        length = key.shape[1]
        shared = torch.einsum("nkgt,ktd->nkgd", weight[..., :length], value.to(query.dtype))
        shared += torch.einsum("nkgs,nskd->nkgd", weight[..., length:], own_value)
        out[rows] = shared.flatten(1, 2)
    return out


def _grouped(query: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(n, H, D) as (n, K, H/K, D)."""
    return query.unflatten(1, (kv_heads, -1))


def _scores(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """float32 (n, K, H/K, T)."""
    return torch.einsum("nkgd,ktd->nkgt", _grouped(query, key.shape[0]) * scale, key.to(query.dtype)).float()


def _softmax_of(score: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(n, H, D)."""
    return torch.einsum("nkgt,ktd->nkgd", torch.softmax(score, dim=-1).to(value.dtype), value).flatten(1, 2)
