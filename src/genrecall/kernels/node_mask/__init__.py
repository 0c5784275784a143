"""Which trie nodes still lead to an allowed item, for several item masks at once: contract and dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class LeafItems:
    """Items of S leaves, in SID order. Buffers may be longer than needed.

    Attributes:
        order: int32 (I,), item numbers.
        begin: int32 (S+1,); leaf ``s`` has ``order[begin[s]:begin[s+1]]``, at least one.
    """

    order: torch.Tensor
    begin: torch.Tensor


def node_mask(
    bits: torch.Tensor,
    row: torch.Tensor,
    items: LeafItems,
    child_begin: torch.Tensor,
    level_begin: Sequence[int],
    out: torch.Tensor,
) -> None:
    """Propagate masks of items to the trie.

    Args:
        bits: uint8 (M, ⌈I/8⌉), M masks; bit ``i % 8`` of byte ``i // 8`` is set where item ``i`` may be returned.
        row: int32 (M,), distinct; which row of ``out`` each mask's nodes go to.
        items: of the leaves.
        child_begin: int32, CSR, one more than there are nodes that have children; edge ``e`` leads to node ``e + 1``.
        level_begin: L+2 numbers on the host; nodes of depth ``l`` are ``level_begin[l] … level_begin[l+1]-1``. They
            shape the launches: a graph that captures this is captured for one trie.
        out: bool (U, ≥ N), ``NodeFilter.allowed``; the first N entries of the M rows are written.
    """
    run = implementation(__name__, bits).node_mask
    run(bits, row, items, child_begin, level_begin, out)
