"""``allowed(n) = ∃ item below n that is allowed``, leaves first, then each depth from its children: plain torch.

A bottom-up OR over the CSR rows of Su et al. 2026 (arXiv 2602.22647). We deviate from ``index.trie.allowed_nodes``,
which counts over ranges of sorted items, because that needs two more integers a node on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from genrecall.kernels.node_mask import LeafItems


def node_mask(
    bits: torch.Tensor,
    row: torch.Tensor,
    items: LeafItems,
    child_begin: torch.Tensor,
    level_begin: Sequence[int],
    out: torch.Tensor,
) -> None:
    """See the contract in ``__init__``."""
    leaves, nodes = level_begin[-2], level_begin[-1]
    begin = items.begin[: nodes - leaves + 1].long()
    order = items.order[: int(begin[-1])].long()
    shift = torch.arange(8, dtype=torch.uint8, device=bits.device)
    flags = (bits[:, :, None] >> shift & 1).flatten(1)[:, order]
    found = torch.zeros(len(bits), nodes, dtype=torch.bool, device=bits.device)
    found[:, leaves:] = _any(flags, begin)
    for first, end in zip(reversed(level_begin[:-2]), reversed(level_begin[1:-1]), strict=True):
        found[:, first:end] = _any(found[:, 1:], child_begin[first : end + 1].long())
    out[row.long(), :nodes] = found


def _any(flags: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
    """bool (M, n): whether one of ``flags[:, begin[j]:begin[j+1]]`` is set."""
    before = torch.zeros(len(flags), flags.shape[1] + 1, dtype=torch.int32, device=flags.device)
    torch.cumsum(flags, 1, dtype=torch.int32, out=before[:, 1:])
    return before[:, begin[1:]] > before[:, begin[:-1]]
