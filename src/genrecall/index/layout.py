"""The trie as tensors on a device: what kernels read during a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from genrecall.index.trie import Trie


@dataclass(frozen=True, kw_only=True, eq=False)
class TrieTensors:
    """CSR of N nodes; same numbering as ``Trie``: edge ``e`` leads to node ``e + 1``.

    Attributes:
        child_begin: int64 (N+1,).
        child_code: int64 (N-1,).
        num_sids: int64 (N,), distinct SIDs below each node; 1 means that the rest of the SID is forced.
    """

    child_begin: torch.Tensor
    child_code: torch.Tensor
    num_sids: torch.Tensor

    @classmethod
    def of(cls, trie: Trie, device: torch.device) -> TrieTensors:
        """Copy a trie to a device."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.int64)).to(device)

        return cls(
            child_begin=tensor(trie.child_begin),
            child_code=tensor(trie.child_code),
            num_sids=tensor(trie.num_sids),
        )
