"""The workload of one decoding step, kernel by kernel, with the bytes and FLOP that each cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.kernels import (
    level_logits,
    node_mask,
    paged_attention,
    quantized_linear,
    rms_norm,
    rotary_store,
    rows,
    swiglu,
    trie_select,
)
from genrecall.kernels.level_logits import reference as level_logits_reference
from genrecall.kernels.node_mask import reference as node_mask_reference
from genrecall.kernels.paged_attention import reference as paged_attention_reference
from genrecall.kernels.quantized_linear import reference as quantized_linear_reference
from genrecall.kernels.rms_norm import reference as rms_norm_reference
from genrecall.kernels.rotary_store import reference as rotary_store_reference
from genrecall.kernels.swiglu import reference as swiglu_reference
from genrecall.kernels.trie_select import reference as trie_select_reference
from genrecall.sid.space import SidSpace


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes; defaults are the reference workload (Qwen2-1.5B, 150 tokens in, SIDs of 4 x 256).

    Attributes:
        requests, beam: R and W; M = R * W rows.
        prompt, long_prompt: tokens a request.
        width, heads, kv_heads, head_width, hidden: E, H, K, D, and of the MLP.
        items: in the catalog, with random SIDs.
        levels, codes: of the SIDs.
        page: tokens.
    """

    requests: int = 8
    beam: int = 300
    prompt: int = 150
    long_prompt: int = 4000
    width: int = 1536
    heads: int = 12
    kv_heads: int = 2
    head_width: int = 128
    hidden: int = 8960
    items: int = 100_000
    levels: int = 4
    codes: int = 256
    page: int = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One kernel at one size; ``run`` and ``reference`` return a tensor or a tuple of tensors that must agree.

    Attributes:
        name, shape: what is printed.
        run, reference: no arguments.
        bytes, flop: that no implementation does without.
        fp8: whether its floor is that of fp8 tensor cores.
    """

    name: str
    shape: str
    run: Callable[[], Any]
    reference: Callable[[], Any]
    bytes: int
    flop: int = 0
    fp8: bool = False


def cases(work: Workload, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """All cases, built one after the other so that one set of inputs is alive at a time."""
    generator = torch.Generator(device=device).manual_seed(0)

    def rand(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(kind)

    yield from _attention(work, rand, device)
    yield from _layer(work, rand, device)
    yield from _linear(work, rand)
    yield from _selection(work, rand, device)
    yield _filter(work, device)


Rand = Callable[..., torch.Tensor]


def _ints(*values: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _paged(work: Workload, requests: int, tokens: int, rand: Rand, device: torch.device) -> paged_attention.PagedKV:
    pages = -(-tokens // work.page)
    table = torch.randperm(requests * pages, device=device).int().view(requests, pages)
    key, value = (rand(requests * pages, work.kv_heads, work.page, work.head_width) for _ in range(2))
    return paged_attention.PagedKV(
        key=key, value=value, table=table, length=torch.full((requests,), tokens, dtype=torch.int32, device=device)
    )


def _attention(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
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
        size = paged_attention.tile_size(work.heads, work.kv_heads, work.beam)
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
        size = paged_attention.tile_size(work.heads, work.kv_heads, tokens)
        tiles = rows.cut_rows(ranges, size, rows.most_tiles(count, requests, size))
        yield Case(
            name="attend_prompts",
            shape=f"{requests} x {tokens} tokens",
            run=partial(paged_attention.attend_prompts, query, prefix, ranges, tiles, scale),
            reference=partial(paged_attention_reference.attend_prompts, query, prefix, ranges, tiles, scale),
            bytes=2 * count * row_bytes + 2 * count * row_bytes // group,
            flop=2 * count * work.heads * work.head_width * (tokens + 1),
        )


def _layer(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
    count = work.requests * work.beam
    x, residual, weight = rand(count, work.width), rand(count, work.width), rand(work.width)
    size, shape = x.element_size(), f"{count} x {work.width}"
    yield Case(
        name="rms_norm",
        shape=f"{shape}, residual",
        run=lambda: rms_norm.rms_norm(x, weight, 1e-6, residual),
        reference=lambda: rms_norm_reference.rms_norm(x, weight, 1e-6, residual),
        bytes=4 * count * work.width * size,
    )
    yield Case(
        name="rms_norm_fp8",
        shape=f"{shape}, residual",
        run=lambda: _flat(rms_norm.rms_norm_fp8(x, weight, 1e-6, residual)),
        reference=lambda: rms_norm_reference.rms_norm_fp8(x, weight, 1e-6, residual),
        bytes=count * work.width * (3 * size + 1),
    )
    columns = (work.heads + 2 * work.kv_heads) * work.head_width
    qkv, bias, cos_sin = rand(count, columns), rand(columns), rand(2, 256, work.head_width // 2, kind=torch.float32)
    slot = torch.arange(count, device=device).int()
    key, value = torch.zeros(2, count, work.kv_heads, 1, work.head_width, dtype=x.dtype, device=device).unbind(0)
    arguments = qkv, bias, None, cos_sin, slot % 256, key, value, slot
    yield Case(
        name="rotary_store",
        shape=f"{count} x {work.heads}+2x{work.kv_heads} heads, bias",
        run=lambda: rotary_store.rotary_store(*arguments),
        reference=lambda: rotary_store_reference.rotary_store(*arguments),
        bytes=2 * count * columns * size,
    )
    gate_up = rand(count, 2 * work.hidden)
    yield Case(
        name="swiglu",
        shape=f"{count} x 2x{work.hidden}",
        run=lambda: swiglu.swiglu(gate_up),
        reference=lambda: swiglu_reference.swiglu(gate_up),
        bytes=3 * count * work.hidden * size,
    )
    yield Case(
        name="swiglu_fp8",
        shape=f"{count} x 2x{work.hidden}",
        run=lambda: _flat((swiglu.swiglu_fp8(gate_up),)),
        reference=lambda: swiglu_reference.swiglu_fp8(gate_up),
        bytes=count * work.hidden * (2 * size + 1),
    )


def _flat(result: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    quantised, *rest = result
    return (quantised.values, quantised.scale, *rest)


def _linear(work: Workload, rand: Rand) -> Iterator[Case]:
    count = work.requests * work.beam
    x, weight = rand(count, work.width), rand(2 * work.hidden, work.width)
    shape, flop = f"{count} x {work.width} x {2 * work.hidden}", 2 * count * work.width * 2 * work.hidden
    out_bytes = count * 2 * work.hidden * x.element_size()
    values, weights = quantized_linear.quantize_fp8(x), quantized_linear.quantize_fp8(weight)
    parts = values.values, values.scale, weights.values, weights.scale, None, x.dtype
    yield Case(
        name="fp8_linear",
        shape=shape,
        run=lambda: quantized_linear.fp8_linear(values, weights, None, x.dtype),
        reference=lambda: quantized_linear_reference.fp8_linear(*parts),
        bytes=values.values.numel() + weights.values.numel() + out_bytes,
        flop=flop,
        fp8=True,
    )
    packed = quantized_linear.quantize_int8(weight)
    yield Case(
        name="int8_linear",
        shape=shape,
        run=lambda: quantized_linear.int8_linear(x, packed),
        reference=lambda: quantized_linear_reference.int8_linear(x, packed.values, packed.scale, None),
        bytes=x.numel() * x.element_size() + packed.values.numel() + out_bytes,
        flop=flop,
    )
    head = rand(work.codes, work.width)
    yield Case(
        name="level_logits",
        shape=f"{count} x {work.width} x {work.codes}",
        run=lambda: level_logits.level_logits(x, head),
        reference=lambda: level_logits_reference.level_logits(x, head),
        bytes=(x.numel() + head.numel()) * x.element_size() + 4 * count * work.codes,
        flop=2 * count * work.width * work.codes,
    )


def _random_trie(work: Workload) -> Trie:
    sids = np.random.default_rng(0).integers(0, work.codes, (work.items, work.levels))
    return Trie.build(SidSpace.uniform(work.levels, work.codes), sids)


def _selection(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
    trie = _random_trie(work)
    tensors = TrieTensors.of(trie, device)
    rng = np.random.default_rng(1)
    width = torch.full((work.requests,), work.beam, dtype=torch.int32, device=device)
    begin = torch.arange(0, work.requests * work.beam + 1, work.beam, device=device).int()
    for level in range(work.levels):
        nodes = trie.nodes_at(level)
        live = min(work.beam, len(nodes))
        chosen = [np.sort(rng.choice(len(nodes), live, replace=False)) + nodes.start for _ in range(work.requests)]
        node = torch.from_numpy(np.concatenate(chosen).astype(np.int32)).to(device)
        count = work.requests * live
        beams = trie_select.Beams(
            node=node,
            score=rand(count, kind=torch.float32) - 3.0 * level,
            logits_row=torch.arange(count, device=device).int(),
            ranges=rows.RowRanges(
                begin=torch.arange(0, count + 1, live, device=device).int(),
                count=torch.full((work.requests,), live, dtype=torch.int32, device=device),
            ),
        )
        most = int(trie.num_children[nodes.start : nodes.stop].max())
        children = trie_select.Children(begin=tensors.child_begin, code=tensors.child_code, most=most)
        logits = rand(count, work.codes, kind=torch.float32)
        candidates = int(trie.num_children[node.cpu().numpy()].sum())
        yield Case(
            name="trie_select",
            shape=f"level {level}, {work.requests} x {live} beams, {candidates:,} candidates",
            run=partial(_select, logits, beams, children, width, begin, work, live),
            reference=partial(_select_by_reference, logits, beams, children, width, begin, work, live),
            bytes=4 * min(candidates, logits.numel()) + tensors.child_code.element_size() * candidates
            + 16 * int(width.sum()),
        )  # fmt: skip


def _select(
    logits: torch.Tensor,
    beams: trie_select.Beams,
    children: trie_select.Children,
    width: torch.Tensor,
    begin: torch.Tensor,
    work: Workload,
    live: int,
) -> tuple[torch.Tensor, ...]:
    rows_out = work.requests * work.beam
    found = trie_select.trie_select(
        logits, beams, children, width, begin, rows=rows_out, most_beams=live, normalise="trie"
    )
    return found.score, found.ranges.count


def _select_by_reference(
    logits: torch.Tensor,
    beams: trie_select.Beams,
    children: trie_select.Children,
    width: torch.Tensor,
    begin: torch.Tensor,
    work: Workload,
    live: int,
) -> tuple[torch.Tensor, ...]:
    rows_out = work.requests * work.beam
    return trie_select_reference.trie_select(logits, beams, children, width, begin, rows_out, live, True, None)[3:5]


def _filter(work: Workload, device: torch.device) -> Case:
    trie, masks = _random_trie(work), work.requests
    begin = np.append(trie.item_begin[trie.leaves.start :], trie.num_items).astype(np.int32)
    items = node_mask.LeafItems(
        order=torch.tensor(trie.item_order, device=device), begin=torch.from_numpy(begin).to(device)
    )
    tensors = TrieTensors.of(trie, device)
    chosen = np.random.default_rng(0).random((masks, work.items)) < 0.9
    bits = torch.from_numpy(np.packbits(chosen, axis=1, bitorder="little")).to(device)
    row = torch.arange(masks, dtype=torch.int32, device=device)
    out = torch.zeros(masks, trie.num_nodes, dtype=torch.bool, device=device)
    level_begin = trie.level_begin.tolist()

    def run(function: Callable[..., None]) -> torch.Tensor:
        function(bits, row, items, tensors.child_begin, level_begin, out)
        return out

    return Case(
        name="node_mask",
        shape=f"{masks} masks of {work.items:,} items, {trie.num_nodes:,} nodes",
        run=lambda: run(node_mask.node_mask),
        reference=lambda: run(node_mask_reference.node_mask),
        bytes=8 * work.items + 4 * trie.num_nodes + masks * (work.items // 8 + 2 * trie.num_nodes),
    )
