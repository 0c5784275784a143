"""Leaves are marked by their items, then every depth is an OR over its children: L + 2 launches; see ``reference``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

_ITEMS = 1024


def node_mask(
    items: torch.Tensor, leaf: torch.Tensor, child_begin: torch.Tensor, level_begin: Sequence[int], out: torch.Tensor
) -> None:
    """See the contract in ``__init__``."""
    require_packed(items, leaf, child_begin, out)
    out[level_begin[-2] : level_begin[-1]] = False
    marks, flags = out.view(torch.uint8), items.view(torch.uint8)
    _mark[(triton.cdiv(len(items), _ITEMS),)](flags, leaf, marks, len(items), BLOCK=_ITEMS, num_warps=4)
    for depth in range(len(level_begin) - 3, -1, -1):
        begin, end = level_begin[depth : depth + 2]
        # Few nodes have many children: then one program a node; else a thread a node.
        mean = max(1, (level_begin[depth + 2] - end) // (end - begin))
        columns = min(1024, triton.next_power_of_2(mean))
        nodes = 1024 // columns
        _gather[(triton.cdiv(end - begin, nodes),)](
            child_begin, marks, begin, end, NODES=nodes, COLUMNS=columns, num_warps=4
        )


@triton.jit(do_not_specialize=["items"])
def _mark(flags, leaf, marks, items, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    chosen = tl.load(flags + i, mask=i < items, other=0) != 0
    node = tl.load(leaf + i, mask=i < items, other=0)
    tl.store(marks + node, tl.full([BLOCK], 1, tl.uint8), mask=chosen)


@triton.jit(do_not_specialize=["begin", "end"])
def _gather(child_begin, marks, begin, end, NODES: tl.constexpr, COLUMNS: tl.constexpr):
    node = begin + tl.program_id(0) * NODES + tl.arange(0, NODES)
    exists = node < end
    edge = tl.load(child_begin + node, mask=exists, other=0)
    children = tl.load(child_begin + node + 1, mask=exists, other=0) - edge
    found = tl.zeros([NODES], tl.int32)
    for start in range(0, tl.max(children, 0), COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        mark = tl.load(marks + edge[:, None] + column + 1, mask=column < children[:, None], other=0)
        found = tl.maximum(found, tl.max(mark.to(tl.int32), 1))
    tl.store(marks + node, found.to(tl.uint8), mask=exists)
