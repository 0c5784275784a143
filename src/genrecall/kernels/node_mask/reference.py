"""``allowed(n) = ∃ item below n that is allowed``, leaves first, then each depth from its children: plain torch.

A bottom-up OR over the CSR rows of Su et al. 2026 (arXiv 2602.22647). We deviate from ``index.trie.allowed_nodes``,
which counts over ranges of sorted items, because that needs two more integers a node on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def node_mask(
    items: torch.Tensor, leaf: torch.Tensor, child_begin: torch.Tensor, level_begin: Sequence[int], out: torch.Tensor
) -> None:
    """See the contract in ``__init__``."""
    nodes = level_begin[-1]
    out[:nodes] = False
    out[leaf[items].long()] = True
    for begin, end in zip(reversed(level_begin[:-2]), reversed(level_begin[1:-1]), strict=True):
        # How many allowed children come before each edge; edge e leads to node e + 1.
        before = torch.zeros(nodes, dtype=torch.int32, device=out.device)
        torch.cumsum(out[1:nodes], 0, dtype=torch.int32, out=before[1:])
        edges = child_begin[begin : end + 1].long()
        out[begin:end] = before[edges[1:]] > before[edges[:-1]]
