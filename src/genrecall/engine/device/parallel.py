"""The processes that share one model, as what they are to each other's devices: sums, and what all must agree on.

NCCL (on CPUs gloo) sums. The one-shot sum (``kernels.rank_sum``) goes over PyTorch's symmetric memory: every rank gets
what all have written and adds it in one order, so that all hold the same bits. Who starts whom: ``engine.ranks``; what
rank 0 tells the others: ``engine.leading``.
"""

from __future__ import annotations

import threading
from itertools import permutations
from typing import Any

import torch
from torch import distributed

from genrecall.engine.config import Parallel
from genrecall.engine.device.arithmetic import Arithmetic, Plain
from genrecall.engine.device.layers import Sum
from genrecall.engine.device.shards import Shard
from genrecall.kernels.rank_sum import SharedMemory, rank_sum, shared
from genrecall.telemetry import log


class Group:
    """This process as one of ``ranks``; at most one group a process.

    Args:
        shard: which rank it is.
        device: where it computes.
        store: where the ranks find each other.
    """

    def __init__(self, shard: Shard, device: torch.device, store: distributed.Store) -> None:
        self.shard, self.device, self.lock = shard, device, threading.RLock()
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=shard.rank,
            world_size=shard.ranks,
            device_id=device if cuda else None,
        )
        self._telling = distributed.new_group(backend="gloo")
        self._memory: list[torch.Tensor] = []
        self._shared: dict[tuple[int, torch.dtype], SharedMemory] = {}

    def sum(self, parallel: Parallel, dtype: torch.dtype, *, invariant: bool) -> Sum:
        """What sums contiguous tensors over the ranks, and norms them; all get the same bits.

        All ranks must ask, outside of graphs: this allocates what small sums need. ``invariant``: whatever their size.
        """
        way = parallel.all_reduce
        if way == "auto":
            way = "library" if invariant or not self._reach_each_other() else "one_shot"
        if self.shard.rank == 0:
            log(f"{self.shard.ranks} ranks sum by {way}")
        if way == "library":
            return _sum
        return self._one_shot(parallel.one_shot_bytes // (self.shard.ranks - 1) // 256 * 256, dtype)

    def _reach_each_other(self) -> bool:
        """Whether every rank's GPU may write to the memory of all others; over some buses none may."""
        if self.device.type != "cuda":
            return False
        first = (self.device.index or 0) - self.shard.rank
        devices = range(first, first + self.shard.ranks)
        return all(torch.cuda.can_device_access_peer(*two) for two in permutations(devices, 2))

    def swap(self, x: torch.Tensor) -> torch.Tensor:
        """See ``sequence.Exchange``."""
        found = torch.empty_like(x)
        distributed.all_to_all_single(found, x)
        return found

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """See ``sequence.Exchange``."""
        found = x.new_empty(self.shard.ranks, *x.shape)
        distributed.all_gather(list(found.unbind()), x)
        return found.flatten(0, 1)

    def share(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor on every rank; contiguous and of equal shape and type on all."""
        distributed.broadcast(tensor.view(torch.uint8) if tensor.dim() else tensor, 0)
        return tensor

    def least(self, value: int) -> int:
        """The smallest value of all ranks."""
        found = torch.tensor(value, dtype=torch.int64)
        distributed.all_reduce(found, distributed.ReduceOp.MIN, group=self._telling)
        return int(found)

    def gather(self, value: int) -> list[int]:
        """The values of all ranks, by rank."""
        found = [torch.zeros((), dtype=torch.int64) for _ in range(self.shard.ranks)]
        distributed.all_gather(found, torch.tensor(value, dtype=torch.int64), group=self._telling)
        return [int(one) for one in found]

    def _one_shot(self, most: int, dtype: torch.dtype) -> Sum:
        memory = self._shared.get((most, dtype))
        if memory is None:
            memory = self._shared[most, dtype] = self._share_memory(most, dtype)

        def add(
            arithmetic: Arithmetic, x: torch.Tensor, weight: torch.Tensor, epsilon: float, rest: torch.Tensor, half: int
        ) -> tuple[Any, torch.Tensor]:
            if x.nbytes > most:
                return _sum(arithmetic, x, weight, epsilon, rest, half)
            fused = isinstance(arithmetic, Plain)
            norm = rank_sum(x, rest, weight if fused else None, epsilon, memory, half)
            return (norm, rest) if fused else arithmetic.norm(rest, weight, epsilon, None)

        return add

    def _share_memory(self, most: int, dtype: torch.dtype) -> SharedMemory:
        from torch.distributed import _symmetric_memory as symmetric

        world = distributed.group.WORLD
        assert world is not None, "the group exists"
        memory = symmetric.empty(*shared(self.shard.ranks, most, dtype), dtype=dtype, device=self.device).fill_(-0.0)
        handle = symmetric.rendezvous(memory, world.group_name)
        torch.cuda.synchronize(self.device)
        self.least(0)  # nobody writes before all are ready
        self._memory.append(memory)
        return SharedMemory(places=tuple(handle.buffer_ptrs), rank=self.shard.rank, most=most)


def _sum(
    arithmetic: Arithmetic, x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor, half: int
) -> tuple[Any, torch.Tensor]:
    distributed.all_reduce(x)
    return arithmetic.norm(x, weight, epsilon, residual)
