"""Rows of crossed features of pairs of a request and a candidate: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """One side of C crosses of n things.

    Attributes:
        folded: int64 (C, n), bits of the unsigned 64-bit words.
        there: bool (C, n): whether there is a value.
    """

    folded: torch.Tensor
    there: torch.Tensor


def crossed_rows(
    requests: Codes, items: Codes, buckets: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Hash what requests say together with what items say.

    Args:
        requests: of R requests.
        items: of I items.
        buckets: int64 (C,), each below 2^62.
        owner: int64 (P,), the request of each pair.
        candidates: int32 (P,), its item.

    Returns:
        int64 (C, P), 0 where a side has no value, else 1 … buckets.
    """
    run = implementation(__name__, owner).crossed_rows
    found: torch.Tensor = run(requests, items, buckets, owner, candidates)
    return found
