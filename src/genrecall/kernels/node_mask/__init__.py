"""Which trie nodes still lead to an allowed item: contract and dispatch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genrecall.kernels.dispatch import implementation


def node_mask(
    items: torch.Tensor, leaf: torch.Tensor, child_begin: torch.Tensor, level_begin: Sequence[int], out: torch.Tensor
) -> None:
    """Propagate a mask of items to the trie.

    Args:
        items: bool (I,), True where the item may be returned.
        leaf: int32 (I,), the trie node of each item's SID; several items may share one.
        child_begin: int32, CSR, one more than there are nodes that have children; edge ``e`` leads to node ``e + 1``.
        level_begin: L+2 numbers on the host; nodes of depth ``l`` are ``level_begin[l] … level_begin[l+1]-1``. They
            shape the launches: a graph that captures this is captured for one trie.
        out: bool (≥ N,), a row of ``NodeFilter.allowed``; its first N entries are written.
    """
    run = implementation(__name__, items).node_mask
    run(items, leaf, child_begin, level_begin, out)
