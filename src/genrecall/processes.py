"""The processes that torchrun started: which one this is, rows that each made of a share of the work, and sums.

Sums and batches of one engine's ranks travel elsewhere (``engine.device.parallel``, ``engine.leading``), a language
model's gradients by accelerate or FSDP2; this is for vectors and quantisers. Alone, nothing of torch.distributed is
loaded.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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

    return together(torch.from_numpy(rows), total).numpy()


def together(rows: torch.Tensor, total: int) -> torch.Tensor:
    """``gathered`` of a tensor (N, …), on its device."""
    if world() == 1:
        return rows
    import torch
    from torch import distributed

    _join()
    own = rows.new_zeros(-(-total // world()), *rows.shape[1:])
    own[: len(rows)] = rows
    parts = [torch.empty_like(own) for _ in range(world())]
    distributed.all_gather(parts, own)
    return torch.stack(parts, dim=1).flatten(0, 1)[:total]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all processes' tensors, in place; every process gets the same bits."""
    if world() > 1:
        from torch import distributed

        _join()
        distributed.all_reduce(tensor)
    return tensor


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        import torch

        summed(torch.zeros(1))


def _join() -> None:
    """Tensors of the host travel by gloo, those of GPUs by NCCL; without NVLink multicast, which not every host has."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    leave_at_exit()
    if torch.cuda.is_available():
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")


def leave_at_exit() -> None:
    """Let the threads of a group that is about to be made, by whomever, end before the interpreter.

    One that lets go of a tensor afterwards wants the interpreter's lock, is ended by it, and takes the process along
    (abort, -6), all work done.
    """
    # Its functions have the group of the moment as a default: imported later (by torch._dynamo) they would hold
    # ours to the end, and `_leave` would end no thread.
    importlib.import_module("torch.distributed.nn.functional")
    atexit.register(_leave)


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # models in cycles hold the group, too, and its threads end with the last who holds it
