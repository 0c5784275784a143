"""Sums over the GPUs of a host, added to the residual in the same launch: contract and dispatch.

Ranks are processes with a GPU each that read one another's memory (``torch.distributed._symmetric_memory``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation

PROGRAMS = 528
"""The most of a launch: four for each of an H100's multiprocessors, so that all of them wait at the same time."""


def shared_bytes(ranks: int, most: int) -> int:
    """Of the memory that each rank shares, for sums of up to ``most`` bytes, a multiple of 256."""
    assert most % 256 == 0, "16 bytes are read at a time"
    return 2 * most + 4 * PROGRAMS * ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedMemory:
    """Memory of ``shared_bytes`` on each of N ranks, zeros at first and used for nothing else.

    Attributes:
        places: int64 (N,), the addresses of all ranks' memory, on this rank's GPU.
        rank: this one.
        most: bytes of the largest sum.
    """

    places: torch.Tensor
    rank: int
    most: int


def rank_sum(x: torch.Tensor, residual: torch.Tensor, shared: SharedMemory, half: int) -> torch.Tensor:
    """``residual`` + the sum of all ranks' ``x``: the same bits on every rank whose residual is.

    All ranks call it, in the same order and with equal shapes. A launch ends when all ranks have written and this one
    has read; that nothing is written over before others have read it is up to ``half``, which must alternate.

    Args:
        x: (M, E), at most ``shared.most`` bytes.
        residual: (M, E) of x's dtype, written over.
        shared: what all ranks can read.
        half: 0 and 1 by turns.
    """
    assert x.nbytes <= shared.most, "more bytes than are shared"
    run = implementation(__name__, x).rank_sum
    run(x, residual, shared.places, shared.rank, half * shared.most, 2 * shared.most)
    return residual
