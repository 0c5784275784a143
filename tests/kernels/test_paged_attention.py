"""Attention over pages against one softmax a row, written out in float64."""

from __future__ import annotations

import pytest
import torch

from genrecall.kernels.paged_attention import attend_beams, attend_prompts, tile_size
from genrecall.kernels.paged_attention.reference import gather_prompt
from genrecall.kernels.rows import cut_rows, most_tiles
from tests.kernels.cases import paged_prompts, ranges_of, suffix_rows

SCALE = 0.3


def written_out(query, prefix, ranges, suffix=None, scale: float = SCALE) -> torch.Tensor:
    """float64, zeros in padding. Without a suffix the rows are a prompt's last tokens, and causal."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // prefix.key.shape[1]
    query = query.cpu().double()
    for request, (begin, count, length) in enumerate(
        zip(ranges.begin.tolist(), ranges.count.tolist(), prefix.length.tolist(), strict=False)
    ):
        keys, values = (
            gather_prompt(pages, prefix.table[request], length).cpu().double() for pages in (prefix.key, prefix.value)
        )
        for row in range(begin, begin + count):
            seen = length if suffix is not None else length - count + row - begin + 1
            for head in range(query.shape[1]):
                key, value = keys[head // group, :seen], values[head // group, :seen]
                if suffix is not None:
                    own = suffix.ancestry[row].cpu().long()
                    key = torch.cat([key, suffix.key.cpu()[own, head // group].double()])
                    value = torch.cat([value, suffix.value.cpu()[own, head // group].double()])
                out[row, head] = torch.softmax(key @ query[row, head] * scale, 0) @ value
    return out


def case(
    counts, padding, lengths, *, heads, kv_heads, width, page, dtype=torch.float32, device="cpu", levels=0, seed=0
):
    ranges = ranges_of(counts, padding, device)
    rows = int(ranges.begin[-1])
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads, width, generator=generator).to(device, dtype)
    prefix = paged_prompts(lengths, kv_heads, width, page, seed, dtype, device)
    size = tile_size(heads, kv_heads, max(counts))
    tiles = cut_rows(ranges, size, most_tiles(rows, len(counts), size))
    suffix = suffix_rows(rows, levels, kv_heads, width, seed, dtype, device) if levels else None
    return query, prefix, ranges, tiles, suffix


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_prompt_tokens_see_what_is_before_them(kv_heads):
    query, prefix, ranges, tiles, _ = case(
        [3, 0, 5, 1], [0, 2, 1, 0], [7, 4, 5, 9], heads=6, kv_heads=kv_heads, width=16, page=4
    )
    found = attend_prompts(query, prefix, ranges, tiles, SCALE)
    torch.testing.assert_close(found.double(), written_out(query, prefix, ranges), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_beams_see_their_prompt_and_their_own_path(kv_heads, levels):
    query, prefix, ranges, tiles, suffix = case(
        [5, 0, 2], [1, 2, 0], [7, 4, 16], heads=6, kv_heads=kv_heads, width=16, page=4, levels=levels
    )
    found = attend_beams(query, prefix, suffix, tiles, SCALE)
    torch.testing.assert_close(found.double(), written_out(query, prefix, ranges, suffix), atol=1e-5, rtol=1e-5)
