"""Random inputs of the static-shaped kernels, and the rule by which a GPU result is judged."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import torch

from genrecall.kernels.paged_attention import PagedKV, SuffixKV
from genrecall.kernels.rows import RowRanges
from genrecall.kernels.trie_select import Beams, Children, NodeFilter


def ranges_of(counts: list[int], padding: list[int], device: str = "cpu") -> RowRanges:
    """Requests with so many live rows, each followed by so much padding."""
    begin = np.concatenate([[0], np.cumsum(np.array(counts) + np.array(padding))]).astype(np.int32)
    return RowRanges(
        begin=torch.from_numpy(begin).to(device), count=torch.tensor(counts, dtype=torch.int32, device=device)
    )


def paged_prompts(
    lengths: list[int], kv_heads: int, width: int, page: int, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> PagedKV:
    """Prompts in shuffled pages; what no prompt owns is NaN, so that reading it shows."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // page) for length in lengths]
    order = torch.randperm(sum(needed) + 3, generator=generator)
    key, value = torch.full((2, len(order), kv_heads, page, width), float("nan")).unbind(0)
    table = torch.full((len(lengths), max(needed) + 1), 2**30, dtype=torch.int32)
    used = 0
    for request, (length, pages) in enumerate(zip(lengths, needed, strict=True)):
        chosen = order[used : used + pages]
        used += pages
        table[request, :pages] = chosen.int()
        for token in range(length):
            at = chosen[token // page], slice(None), token % page
            key[at] = torch.randn(kv_heads, width, generator=generator)
            value[at] = torch.randn(kv_heads, width, generator=generator)
    length = torch.tensor(lengths, dtype=torch.int32)
    return PagedKV(
        key=key.to(device, dtype), value=value.to(device, dtype), table=table.to(device), length=length.to(device)
    )


def suffix_rows(
    rows: int, levels: int, kv_heads: int, width: int, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> SuffixKV:
    """A suffix block and random paths through it."""
    generator = torch.Generator().manual_seed(seed)
    key, value = torch.randn(2, rows * levels + 1, kv_heads, width, generator=generator).unbind(0)
    ancestry = torch.randint(0, rows * levels + 1, (rows, levels), generator=generator, dtype=torch.int32)
    return SuffixKV(key=key.to(device, dtype), value=value.to(device, dtype), ancestry=ancestry.to(device))


def selection_case(
    seed: int, normalise: str, *, codes: int = 7, requests: int = 3, nodes: int = 9, device: str = "cpu"
):
    """Arguments of ``trie_select``: random children, forced rows, filters; logits are small integers, to make ties."""
    rng = np.random.default_rng(seed)
    children = [np.sort(rng.choice(codes, size=int(rng.integers(1, codes + 1)), replace=False)) for _ in range(nodes)]
    counts = np.array([len(found) for found in children])
    edges = int(counts.sum())
    begin = np.concatenate([[0], np.cumsum(counts), np.full(max(edges + 1 - nodes, 0), edges)]).astype(np.int32)
    beams = [np.sort(rng.choice(nodes, size=int(rng.integers(0, nodes + 1)), replace=False)) for _ in range(requests)]
    ranges = ranges_of([len(found) for found in beams], rng.integers(0, 3, requests).tolist())
    rows = int(ranges.begin[-1])
    # Padding is poisoned: nodes and logits rows that do not exist.
    node = np.full(rows, 2**30, dtype=np.int32)
    logits_row = np.full(rows, 2**30, dtype=np.int32)
    score = np.full(rows, np.nan, dtype=np.float32)
    live = np.concatenate([np.arange(len(b)) + s for b, s in zip(beams, ranges.begin.tolist(), strict=False)]).astype(
        int
    )
    node[live] = np.concatenate(beams)
    score[live] = -rng.integers(0, 3, len(live))
    forced = (counts[node[live]] == 1) & (rng.random(len(live)) < 0.5) & (normalise == "trie")
    logits_row[live[forced]] = -1
    logits_row[live[~forced]] = rng.permutation(int((~forced).sum()))
    width = rng.integers(0, 2 * codes, requests).astype(np.int32)
    out_begin = np.concatenate([[0], np.cumsum(width + rng.integers(0, 3, requests))]).astype(np.int32)
    logits = rng.integers(-2, 3, (max(int((~forced).sum()), 1), codes)).astype(np.float32)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return {
        "logits": tensor(logits),
        "beams": Beams(
            node=tensor(node),
            score=tensor(score),
            logits_row=tensor(logits_row),
            ranges=RowRanges(begin=ranges.begin.to(device), count=ranges.count.to(device)),
        ),
        "children": Children(
            begin=tensor(begin),
            code=tensor(np.concatenate(children).astype(np.uint8)),
            most=int(counts.max() + rng.integers(0, 3)),
        ),
        "width": tensor(width),
        "begin": tensor(out_begin),
        "rows": int(out_begin[-1]),
        "most_beams": nodes,
        "normalise": normalise,
        "node_filter": NodeFilter(
            allowed=tensor(rng.random((2, edges + 1)) < 0.7),
            row=tensor(rng.integers(-1, 2, requests).astype(np.int32)),
        ),
    }  # fmt: skip


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest absolute difference, in float64; NaN where either has one."""
    return float((found.double().cpu() - exact.double().cpu()).abs().max())


def wide_case(
    codes: int, nodes: int, most: int, normalise: str, *, requests: int = 4, seed: int = 0, spread: float = 3.0
):
    """As ``selection_case`` with up to ``nodes`` beams a request and ``most`` children a node, and real logits."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, nodes)
    code = np.concatenate([np.sort(rng.choice(codes, size=count, replace=False)) for count in counts]).astype(np.int32)
    edges = len(code)
    begin = np.concatenate([[0], np.cumsum(counts), np.full(max(edges + 1 - nodes, 0), edges)]).astype(np.int32)
    live = [nodes if r == 0 else int(rng.integers(1, nodes + 1)) for r in range(requests)]
    ranges = ranges_of(live, [nodes - count for count in live])
    node = np.concatenate([np.sort(rng.permutation(nodes)[:count]).tolist() + [0] * (nodes - count) for count in live])
    rows = requests * nodes
    width = np.array([nodes, *rng.integers(1, nodes + 1, requests - 1)], dtype=np.int32)
    return {
        "logits": torch.from_numpy(rng.normal(0, spread, (rows, codes)).astype(np.float32)),
        "beams": Beams(
            node=torch.from_numpy(node.astype(np.int32)),
            score=torch.from_numpy(-rng.exponential(5, rows).astype(np.float32)),
            logits_row=torch.from_numpy(rng.permutation(rows).astype(np.int32)),
            ranges=ranges,
        ),
        "children": Children(begin=torch.from_numpy(begin), code=torch.from_numpy(code), most=most),
        "width": torch.from_numpy(width),
        "begin": torch.arange(0, rows + 1, nodes, dtype=torch.int32),
        "rows": rows,
        "most_beams": nodes,
        "normalise": normalise,
        "node_filter": NodeFilter(
            allowed=torch.from_numpy(rng.random((2, edges + 1)) < 0.7),
            row=torch.from_numpy(rng.integers(-1, 2, requests).astype(np.int32)),
        ),
    }


def to_device(thing, device: str):
    """Tensors of a case, also those within its dataclasses, on a device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if is_dataclass(thing):
        return replace(thing, **{field.name: to_device(getattr(thing, field.name), device) for field in fields(thing)})
    return thing
