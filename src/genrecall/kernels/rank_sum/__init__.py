"""Sums over the GPUs of a host, the residual and the norm that follows in one launch: contract and dispatch.

Ranks are processes with a GPU each that write to one another's memory (``torch.distributed._symmetric_memory``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedMemory:
    """Memory of 2 · (N+1) · ``most`` bytes on each of N ranks, in which others write; used for nothing else.

    Attributes:
        places: the addresses of all ranks' memory, as this rank's GPU sees them.
        rank: this one.
        most: bytes of the largest sum, a multiple of 256.
    """

    places: tuple[int, ...]
    rank: int
    most: int


def shared(ranks: int, most: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The shape of what each rank shares for sums of up to ``most`` bytes of ``dtype``; all numbers are -0 at first."""
    assert most % 256 == 0, "16 bytes are read at a time"
    return 2, ranks + 1, most // dtype.itemsize


def rank_sum(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    memory: SharedMemory,
    half: int,
) -> torch.Tensor | None:
    """``residual`` + the sum of all ranks' ``x``, and its norm: the same bits on every rank whose residual is.

    All ranks call it, in the same order and with equal shapes. A launch ends when this rank has read what all have
    written; that nothing is written over before others have read it is up to ``half``, which must alternate.

    Args:
        x: (M, E), at most ``memory.most`` bytes.
        residual: (M, E) of x's dtype; becomes the sum.
        weight: (E,), of the norm; None for none.
        epsilon: see ``rms_norm``.
        memory: where the ranks write.
        half: 0 and 1 by turns.

    Returns:
        The norm (M, E): of the sum before it is rounded, as ``rms_norm`` takes it, or of the rounded sum where many
        bytes are summed by more than two ranks.
    """
    assert x.nbytes <= memory.most, "more bytes than are shared"
    run = implementation(__name__, x).rank_sum
    norm: torch.Tensor | None = run(x, residual, weight, epsilon, memory.places, memory.rank, memory.most, half)
    return norm
