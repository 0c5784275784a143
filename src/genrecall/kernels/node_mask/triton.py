"""Leaves look up their items' bits, then every depth is an OR over its children: L + 1 launches; see ``reference``.

Every launch does all masks, those of one block of nodes beside each other, so that what they share (the order of items,
the CSR) comes from memory once. A mask of bits fits a cache; leaves in SID order write side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

if TYPE_CHECKING:
    from genrecall.kernels.node_mask import LeafItems

_BLOCK = 1024
"""Children that a program looks at in one step."""


def node_mask(
    bits: torch.Tensor,
    row: torch.Tensor,
    items: LeafItems,
    child_begin: torch.Tensor,
    level_begin: Sequence[int],
    out: torch.Tensor,
) -> None:
    """See the contract in ``__init__``."""
    require_packed(bits, row, items.order, items.begin, child_begin, out)
    marks, masks, count = out.view(torch.uint8), len(bits), bits.shape[1]
    first, end = level_begin[-2:]
    if end == first or masks == 0:
        return
    # Few nodes have many children: then one program a node; else a thread a node.
    columns, nodes = _block(8 * count / (end - first))
    _leaves[(masks * triton.cdiv(end - first, nodes),)](
        bits, count, row, items.order, items.begin, marks, marks.stride(0), masks, first, end, NODES=nodes,
        COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    for depth in range(len(level_begin) - 3, -1, -1):
        first, end, after = level_begin[depth : depth + 3]
        columns, nodes = _block((after - end) / (end - first))
        _gather[(masks * triton.cdiv(end - first, nodes),)](
            row, child_begin, marks, marks.stride(0), masks, first, end, NODES=nodes, COLUMNS=columns, num_warps=4
        )


def _block(mean: float) -> tuple[int, int]:
    columns = min(_BLOCK, triton.next_power_of_2(max(1, int(mean))))
    return columns, _BLOCK // columns


@triton.jit(do_not_specialize=["count", "masks", "first", "end"])
def _leaves(
    bits, count, row, order, begin, marks, stride, masks, first, end, NODES: tl.constexpr, COLUMNS: tl.constexpr
):
    mask = tl.program_id(0) % masks
    leaf = tl.program_id(0) // masks * NODES + tl.arange(0, NODES)
    exists = leaf < end - first
    start = tl.load(begin + leaf, mask=exists, other=0)
    items = tl.load(begin + leaf + 1, mask=exists, other=0) - start
    words = bits + mask.to(tl.int64) * count
    found = tl.zeros([NODES], tl.int32)
    for step in range(0, tl.max(items, 0), COLUMNS):
        column = step + tl.arange(0, COLUMNS)[None, :]
        inside = column < items[:, None]
        item = tl.load(order + start[:, None] + column, mask=inside, other=0)
        byte = tl.load(words + item // 8, mask=inside, other=0).to(tl.int32)
        found = tl.maximum(found, tl.max(byte >> (item % 8) & 1, 1))
    target = marks + tl.load(row + mask).to(tl.int64) * stride
    tl.store(target + first + leaf, found.to(tl.uint8), mask=exists)


@triton.jit(do_not_specialize=["masks", "first", "end"])
def _gather(row, child_begin, marks, stride, masks, first, end, NODES: tl.constexpr, COLUMNS: tl.constexpr):
    mask = tl.program_id(0) % masks
    node = first + tl.program_id(0) // masks * NODES + tl.arange(0, NODES)
    exists = node < end
    edge = tl.load(child_begin + node, mask=exists, other=0)
    children = tl.load(child_begin + node + 1, mask=exists, other=0) - edge
    own = marks + tl.load(row + mask).to(tl.int64) * stride
    found = tl.zeros([NODES], tl.int32)
    for start in range(0, tl.max(children, 0), COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        mark = tl.load(own + edge[:, None] + column + 1, mask=column < children[:, None], other=0)
        found = tl.maximum(found, tl.max(mark.to(tl.int32), 1))
    tl.store(own + node, found.to(tl.uint8), mask=exists)
