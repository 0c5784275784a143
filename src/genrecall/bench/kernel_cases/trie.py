"""The constraint: the joint top-W of every level, and item filters as masks of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from genrecall.bench.kernel_cases.case import Case, Rand, Workload
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.kernels import node_mask, rows, trie_select
from genrecall.kernels.node_mask import reference as node_mask_reference
from genrecall.kernels.trie_select import reference as trie_select_reference
from genrecall.sid.space import SidSpace


def _random_trie(work: Workload) -> Trie:
    sids = np.random.default_rng(0).integers(0, work.codes, (work.items, work.levels))
    return Trie.build(SidSpace.uniform(work.levels, work.codes), sids)


def selection(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
    """Level by level."""
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


def filters(work: Workload, device: torch.device) -> Iterator[Case]:
    """A mask a request."""
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

    yield Case(
        name="node_mask",
        shape=f"{masks} masks of {work.items:,} items, {trie.num_nodes:,} nodes",
        run=lambda: run(node_mask.node_mask),
        reference=lambda: run(node_mask_reference.node_mask),
        bytes=8 * work.items + 4 * trie.num_nodes + masks * (work.items // 8 + 2 * trie.num_nodes),
    )
