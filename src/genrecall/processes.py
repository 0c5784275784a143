"""The processes that torchrun started: which one this is, and rows that each of them made of a share of the work.

Sums and plans of one engine's ranks travel elsewhere (``engine.device.parallel``), gradients by accelerate or FSDP2;
this is for work that needs nobody else until it is done.
"""

from __future__ import annotations

import os

import numpy as np


def rank() -> int:
    """Of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Of this process on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    """How many processes there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process speaks and writes."""
    return rank() == 0


def share() -> slice:
    """Every ``world``-th row from this process's own on."""
    return slice(rank(), None, world())


def gathered(rows: np.ndarray, total: int) -> np.ndarray:
    """All ``total`` rows (N, D) in their order, on every process; ``rows`` are those of this one's ``share``."""
    if world() == 1:
        return rows
    import torch
    from torch import distributed

    _join()
    most = -(-total // world())
    own = torch.zeros(most, *rows.shape[1:], dtype=torch.from_numpy(rows[:0]).dtype)
    own[: len(rows)] = torch.from_numpy(rows)
    parts = [torch.empty_like(own) for _ in range(world())]
    distributed.all_gather(parts, own)
    return torch.stack(parts, dim=1).flatten(0, 1)[:total].numpy()


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        from torch import distributed

        _join()
        distributed.barrier()


def _join() -> None:
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
