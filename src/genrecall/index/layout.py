"""The trie as tensors on a device: what kernels read during a search, in as few bytes as hold it.

    bytes = 4 (M + 1) + b (N − 1) + M,    M inner nodes of N;  b = 1, 2 or 4 as the largest level's codes need it

The compressed rows of Su et al. 2026 (arXiv 2602.22647). We deviate: edges are numbered as the nodes they lead to, so
that no child pointer is stored; a node's count of SIDs is cut to what a search asks of it, whether there are two; and
leaves, which come last, have no row, because nothing is ever extended from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from genrecall.errors import CapacityError
from genrecall.index.trie import Trie

_MOST_EDGES = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class TrieTensors:
    """CSR of N nodes, M of them inner ones; same numbering as ``Trie``: edge ``e`` leads to node ``e + 1``.

    Attributes:
        child_begin: int32 (M+1,).
        child_code: uint8, int16 or int32 (N-1,); not an index into tensors before it is made int64.
        branching: bool (M,), whether more than one SID stands below a node; else the rest of the SID is forced.
    """

    child_begin: torch.Tensor
    child_code: torch.Tensor
    branching: torch.Tensor

    @classmethod
    def of(cls, trie: Trie, device: torch.device) -> TrieTensors:
        """Copy a trie to a device.

        Raises:
            CapacityError: a catalog whose edges cannot be numbered in 31 bits.
        """
        if len(trie.child_code) > _MOST_EDGES:
            raise CapacityError(
                "the trie is too large for the engine",
                seen=f"{len(trie.child_code):,} edges",
                allowed=f"at most {_MOST_EDGES:,}",
                fix="use fewer items or fewer levels, or split the catalog",
            )
        code = np.uint8 if max(trie.space.codes) <= 256 else np.int16 if max(trie.space.codes) <= 2**15 else np.int32

        def tensor(array: np.ndarray, kind: type) -> torch.Tensor:
            return torch.from_numpy(array.astype(kind)).to(device)

        return cls(
            child_begin=tensor(trie.child_begin[: trie.leaves.start + 1], np.int32),
            child_code=tensor(trie.child_code, code),
            branching=tensor(_branching(trie), np.bool_),
        )

    def pinned(self) -> TrieTensors:
        """The same in page-locked memory."""
        return TrieTensors(
            child_begin=self.child_begin.pin_memory(),
            child_code=self.child_code.pin_memory(),
            branching=self.branching.pin_memory(),
        )

    @property
    def nbytes(self) -> int:
        """Of all three."""
        return self.child_begin.nbytes + self.child_code.nbytes + self.branching.nbytes


def _branching(trie: Trie) -> np.ndarray:
    """bool (M,): two children, or one below which there are two SIDs; the last level first."""
    inner = trie.leaves.start
    found = np.diff(trie.child_begin[: inner + 1]) > 1
    for depth in range(trie.space.levels - 2, -1, -1) if trie.num_items else ():
        level = trie.nodes_at(depth)
        found[level.start : level.stop] |= found[trie.child_begin[level.start : level.stop] + 1]
    return found
