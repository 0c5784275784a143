"""Rows of a table in host memory through a set-associative cache on the device: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation

WAYS = 8
"""Slots of a set: their tags are one sector of 32 bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """S sets of ``WAYS`` slots on the device.

    Attributes:
        tags: int32 (S, WAYS): the row in each slot; -1: none.
        used: int32 (S, WAYS): when it was looked at last.
        held: (S · WAYS, d) of the table's type.
        missed: int64 (1,): lookups so far that had to go to the table.
    """

    tags: torch.Tensor
    used: torch.Tensor
    held: torch.Tensor
    missed: torch.Tensor

    @classmethod
    def empty(cls, sets: int, like: torch.Tensor, device: torch.device) -> Cache:
        """For a table like this one."""
        return cls(
            tags=torch.full((sets, WAYS), -1, dtype=torch.int32, device=device),
            used=torch.zeros((sets, WAYS), dtype=torch.int32, device=device),
            held=torch.zeros(sets * WAYS, like.shape[1], dtype=like.dtype, device=device),
            missed=torch.zeros(1, dtype=torch.int64, device=device),
        )

    @staticmethod
    def bytes_a_set(like: torch.Tensor) -> int:
        """Of device memory."""
        return WAYS * (8 + like.shape[1] * like.element_size())


def set_of(rows: torch.Tensor, sets: int) -> torch.Tensor:
    """int64 set of each row, int64 below 2^31."""
    return ((rows * 2654435769 & 0xFFFFFFFF) * sets) >> 32


def cached_rows(rows: torch.Tensor, table: torch.Tensor, cache: Cache, now: int) -> torch.Tensor:
    """Look rows up and keep those that were missed; nothing here waits for the device.

    Args:
        rows: int64 (n,), on the cache's device.
        table: (N, d), N < 2^31; on the same device, or in pinned host memory that the device reads.
        cache: is changed.
        now: rises from call to call, from 1 on.

    Returns:
        (n, d), the table's rows.
    """
    found: torch.Tensor = implementation(__name__, rows).cached_rows(rows, table, cache, now)
    return found
