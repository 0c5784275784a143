"""Attention over pages against one softmax a row, written out in float64."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace

import pytest
import torch

from genrecall.errors import ConfigError
from genrecall.kernels.paged_attention import PagedKV, SuffixKV, attend_beams, attend_prompts, reference, tile_size
from genrecall.kernels.paged_attention.launch import check_shapes
from genrecall.kernels.paged_attention.reference import gather_prompt
from genrecall.kernels.rows import cut_rows, most_tiles
from tests.kernels.cases import error, paged_prompts, ranges_of, suffix_rows

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
    size = tile_size(heads, kv_heads, max(counts), rows, len(counts))
    tiles = cut_rows(ranges, size, most_tiles(rows, len(counts), size))
    suffix = suffix_rows(rows, levels, kv_heads, width, seed, dtype, device) if levels else None
    return query, prefix, ranges, tiles, suffix


def live_rows(ranges) -> torch.Tensor:
    """bool (M,) on the CPU."""
    live = torch.zeros(int(ranges.begin[-1]), dtype=torch.bool)
    for begin, count in zip(ranges.begin.tolist(), ranges.count.tolist(), strict=False):
        live[begin : begin + count] = True
    return live


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_prompt_tokens_see_what_is_before_them(device, kv_heads):
    query, prefix, ranges, tiles, _ = case(
        [3, 0, 25, 1], [0, 2, 1, 0], [7, 4, 40, 9], heads=6, kv_heads=kv_heads, width=16, page=4, device=device
    )
    found = attend_prompts(query, prefix, ranges, tiles, SCALE).cpu().double()
    live = live_rows(ranges)
    torch.testing.assert_close(found[live], written_out(query, prefix, ranges)[live], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("kv_heads", "levels"), [(1, 3), (2, 1), (6, 2)])
def test_beams_see_their_prompt_and_their_own_path(device, kv_heads, levels, splits, monkeypatch):
    if device == "cuda" or importlib.util.find_spec("triton"):
        from genrecall.kernels.paged_attention import triton

        monkeypatch.setattr(triton, "LEAST_PART", 32)  # so that 70 tokens are two of three parts
    query, prefix, ranges, tiles, suffix = case(
        [12, 0, 2], [1, 2, 0], [70, 4, 16], heads=6, kv_heads=kv_heads, width=16, page=8, levels=levels, device=device
    )
    found = attend_beams(query, prefix, suffix, tiles, SCALE, splits).cpu().double()
    live = live_rows(ranges)
    torch.testing.assert_close(found[live], written_out(query, prefix, ranges, suffix)[live], atol=1e-5, rtol=1e-5)


def test_a_cached_prefix_changes_nothing(device):
    query, prefix, ranges, tiles, _ = case([9], [0], [9], heads=2, kv_heads=1, width=16, page=4, device=device)
    whole = attend_prompts(query, prefix, ranges, tiles, SCALE)
    rest = ranges_of([4], [0], device)
    found = attend_prompts(query[5:], prefix, rest, cut_rows(rest, 4, 2), SCALE)
    torch.testing.assert_close(found, whole[5:], atol=1e-5, rtol=1e-5)


def test_a_cache_in_fp8_is_widened(fp8_device):
    query, prefix, ranges, tiles, suffix = case(
        [12, 2], [1, 0], [70, 16], heads=4, kv_heads=2, width=32, page=8, levels=2, device=fp8_device
    )

    def narrow(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.nan_to_num(0.0).to(torch.float8_e4m3fn)

    prefix, suffix = _converted(prefix, narrow), _converted(suffix, narrow)
    wide = [_converted(one, torch.Tensor.float) for one in (prefix, suffix)]
    live = live_rows(ranges)
    torch.testing.assert_close(
        attend_beams(query, prefix, suffix, tiles, SCALE)[live], attend_beams(query, *wide, tiles, SCALE)[live]
    )
    torch.testing.assert_close(
        attend_prompts(query, prefix, ranges, tiles, SCALE)[live],
        attend_prompts(query, wide[0], ranges, tiles, SCALE)[live],
    )


@pytest.mark.parametrize(("width", "page"), [(24, 16), (16, 12)])
def test_shapes_that_the_kernel_cannot_index_are_refused(width, page):
    query, prefix, *_ = case([2], [0], [5], heads=2, kv_heads=1, width=width, page=page)
    with pytest.raises(ConfigError, match="cannot take this"):
        check_shapes(query, prefix, None)


# heads, KV heads, D: Qwen2-1.5B, Qwen3-1.7B, Qwen2.5-7B, a small model without groups.
SHAPES = [(12, 2, 128), (16, 8, 128), (28, 4, 128), (4, 4, 64), (8, 1, 256)]


@pytest.mark.gpu
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), SHAPES)
def test_half_precision_errs_no_more_than_torch(heads, kv_heads, width, splits):
    """Error against float64 at most twice that of the torch reference in bfloat16, on beams and on prompts."""
    shape = {"heads": heads, "kv_heads": kv_heads, "width": width, "page": 16, "dtype": torch.bfloat16}
    for seed, counts in enumerate([[5, 300, 0, 2, 64], [1], [2048]]):
        rng = random.Random(seed)
        lengths = [rng.choice([16, 150, 257, 700]) for _ in counts]
        query, prefix, ranges, tiles, suffix = case(
            counts, [3] * len(counts), lengths, levels=3, device="cuda", seed=seed, **shape
        )
        live = live_rows(ranges)
        scale = width**-0.5
        found = attend_beams(query, prefix, suffix, tiles, scale, splits)
        _errs_like_torch(found, reference.attend_beams, query, prefix, suffix, tiles, scale, 1, live=live)
        counts = [min(count, length) for count, length in zip(counts, lengths, strict=True)]
        query, prefix, ranges, tiles, _ = case(counts, [3] * len(counts), lengths, device="cuda", seed=seed, **shape)
        found = attend_prompts(query, prefix, ranges, tiles, scale)
        _errs_like_torch(found, reference.attend_prompts, query, prefix, ranges, tiles, scale, live=live_rows(ranges))


def _errs_like_torch(found, function, query, prefix, *rest, live) -> None:
    def exact(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double()

    precise = [_converted(one, exact) for one in (query, prefix, *rest)]
    expected, torchs = function(*precise), function(query, prefix, *rest)
    assert error(found[live], expected[live]) <= 2 * error(torchs[live], expected[live]) + 1e-5


def _converted(thing, convert):
    if isinstance(thing, torch.Tensor) and thing.is_floating_point():
        return convert(thing)
    if isinstance(thing, PagedKV | SuffixKV):
        return replace(thing, key=convert(thing.key), value=convert(thing.value))
    return thing


@pytest.mark.gpu
def test_tuning_changes_the_launch_and_not_the_answer():
    from genrecall.kernels.paged_attention import triton
    from genrecall.kernels.paged_attention.launch import LaunchKey, launch_for
    from genrecall.kernels.paged_attention.tuning import tune

    query, prefix, _, tiles, suffix = case(
        [30], [0], [40], heads=4, kv_heads=2, width=64, page=16, dtype=torch.bfloat16, levels=2, device="cuda"
    )
    before = attend_beams(query, prefix, suffix, tiles, SCALE)
    key = LaunchKey(block_m=64, width=64, dtype=torch.bfloat16, causal=False, short=True)
    best = tune(lambda launch: triton.attend_beams(query, prefix, suffix, tiles, SCALE, 1, launch), key)
    assert launch_for(key) == best
    torch.testing.assert_close(attend_beams(query, prefix, suffix, tiles, SCALE), before, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "widest", "rows", "requests", "tokens", "size"),
    [
        (28, 4, 50, 50, 1, 256, 9),  # one request: tiles of 64 query rows, 7 heads each
        (7, 1, 300, 300, 1, 256, 9),
        (28, 4, 300, 300, 1, 256, 9),  # 136 programs
        (28, 4, 512, 512, 1, 256, 18),  # 228 would run in two turns
        (28, 4, 300, 2400, 8, 256, 18),
        (7, 1, 50, 50, 1, 4096, 9),  # in 16 parts
        (7, 1, 64, 64, 1, 8192, 18),  # in 32
        (28, 4, 3, 3, 1, 256, 3),
    ],
)
def test_few_rows_are_cut_into_smaller_tiles(heads, kv_heads, widest, rows, requests, tokens, size):
    assert tile_size(heads, kv_heads, widest, rows, requests, tokens) == size
