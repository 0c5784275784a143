"""The processes that share one model: what they sum on the device, and what rank 0 tells the others.

    rank 0:     message → launch n ─┬─ all-reduce ─┬─ … → answers
    rank r > 0: message → launch n ─┘              └─ …

NCCL (on CPUs gloo) sums; messages go through a pipe to each rank, which costs rank 0 a few microseconds and wakes the
others at once. The one-shot sum (``kernels.rank_sum``) goes over PyTorch's symmetric memory: every rank gets what all
have written and adds it in one order, so that all hold the same bits. Crash-only, after Candea & Fox 2003: whoever
finds another rank gone ends, since nothing that it waits for will ever come.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import permutations
from typing import IO, Any, NoReturn

import torch
from torch import distributed

from genrecall.engine.config import Parallel
from genrecall.engine.device.arithmetic import Arithmetic, Plain
from genrecall.engine.device.layers import Sum
from genrecall.engine.device.shards import Shard
from genrecall.engine.messages import Inbox, Packed
from genrecall.engine.worker.frames import Frame, encode
from genrecall.errors import ConfigError
from genrecall.kernels.rank_sum import SharedMemory, rank_sum, shared
from genrecall.telemetry import log

_STATUS = 70
_POLL_S = 0.2
_LEAVE_S = 5.0
_AWAKE_S = 0.2

# NVLink multicast needs a fabric manager that hosts with a part of the GPUs often do not have; sums do not need it. All
# ranks are of one host.
_ENVIRONMENT = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


class Group:
    """This process as one of ``ranks``; at most one group a process.

    Args:
        shard: which rank it is.
        device: where it computes.
        store: where the ranks find each other.
        pipes: from rank 0 to each of the others, by rank; elsewhere the own one alone.
    """

    def __init__(
        self, shard: Shard, device: torch.device, store: distributed.Store, pipes: Sequence[IO[bytes]]
    ) -> None:
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
        self._pipes = pipes
        if shard.rank:
            self._inbox = Inbox(pipes[0])
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

    def send(self, message: bytes) -> None:
        """From rank 0 to all others, who ``receive``.

        Raises:
            BrokenPipeError: a rank is gone.
        """
        for pipe in self._pipes:
            pipe.write(message)
            pipe.flush()

    def receive(self) -> Frame | Packed:
        """The next message of rank 0, for which all GPUs wait; where that is gone, this process ends here."""
        self._inbox.watch(_AWAKE_S if self.device.type == "cuda" else 0.0)
        found = self._inbox.receive()
        if found is None:
            os._exit(_STATUS)
        return found

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


class Leader:
    """Rank 0's hold on the processes of the other ranks, which end with it, and it with them."""

    def __init__(self, ranks: int, device: torch.device) -> None:
        self.ranks, self.engines = ranks, 0
        first = (device.index or 0) if device.type == "cuda" else 0
        _require_devices(ranks, first, device)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        store = distributed.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        devices = [f"cuda:{first + rank}" if device.type == "cuda" else "cpu" for rank in range(ranks)]
        self._ending = False
        self._children = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "genrecall.engine.following", str(store.port), str(rank),
                    str(ranks), devices[rank], str(torch.get_num_threads()), str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            for rank in range(1, ranks)
        ]  # fmt: skip
        pipes = [child.stdin for child in self._children if child.stdin is not None]
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        atexit.register(self.end)
        self.group = Group(Shard(rank=0, ranks=ranks), torch.device(devices[0]), store, pipes)

    @property
    def pids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [child.pid for child in self._children]

    def tell(self, message: bytes) -> None:
        """To all other ranks. Where one is gone, all end: command lines take a broken pipe for their reader's, and end
        without a word.
        """
        try:
            self.group.send(message)
        except BrokenPipeError:
            self.lose("a rank reads no more")

    def lose(self, why: str) -> NoReturn:
        """End all ranks, this process included."""
        log(f"the engine's ranks end together: {why}")
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        os._exit(_STATUS)

    def end(self) -> None:
        """Let the others end; they are ended where they do not."""
        if self._ending:
            return
        self._require_alive()
        self._ending = True
        with contextlib.suppress(OSError):  # a rank that is gone needs not be told
            self.group.send(encode(Frame(head={"kind": "end"})))
        until = time.monotonic() + _LEAVE_S
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(until - time.monotonic(), 0.0))
            child.kill()
            child.wait()

    def _watch(self) -> None:
        while not self._ending:
            self._require_alive()
            time.sleep(_POLL_S)

    def _require_alive(self) -> None:
        for rank, child in enumerate(self._children, 1):
            status = child.poll()
            if status is not None and not self._ending:
                self.lose(f"rank {rank} ended with status {status}")


_leader: Leader | None = None


def lead(parallel: Parallel, device: torch.device) -> Leader:
    """The ranks of this process, started where there are none yet.

    Raises:
        ConfigError: fewer devices than ranks, or a group that was made for something else.
    """
    global _leader
    if parallel.all_reduce == "one_shot" and device.type != "cuda":
        raise ConfigError(
            "sums over symmetric memory need GPUs",
            seen=f"all_reduce=one_shot on {device.type}",
            allowed="auto, library",
            fix="leave --all-reduce out on CPUs",
        )
    if _leader is None:
        if distributed.is_initialized():
            raise ConfigError(
                "this process is in a group of torch.distributed already",
                seen=f"rank {distributed.get_rank()} of {distributed.get_world_size()}",
                allowed="an engine of one rank under torchrun; more ranks in a process of their own",
                fix="leave --tp out here",
            )
        _leader = Leader(parallel.ranks, device)
    elif _leader.ranks != parallel.ranks or _leader.group.device.type != device.type:
        raise ConfigError(
            "all engines of a process share one group of ranks",
            seen=f"{parallel.ranks} ranks on {device}",
            allowed=f"{_leader.ranks} from {_leader.group.device} on",
            fix="open the other engine in another process",
        )
    return _leader


def follow(arguments: Sequence[str]) -> Group:
    """Join as rank 1 or up, with the arguments that ``Leader`` gives; this process ends with rank 0."""
    port, rank, ranks, device, threads, parent = arguments
    torch.set_num_threads(int(threads))
    threading.Thread(target=_watch_parent, args=(int(parent),), name="rank 0", daemon=True).start()
    store = distributed.TCPStore("127.0.0.1", int(port), None, is_master=False)
    return Group(Shard(rank=int(rank), ranks=int(ranks)), torch.device(device), store, [open(0, "rb", buffering=0)])


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(_STATUS)


def _require_devices(ranks: int, first: int, device: torch.device) -> None:
    there: Any = torch.cuda.device_count() - first if device.type == "cuda" else ranks
    if there < ranks:
        raise ConfigError(
            "there are fewer GPUs than ranks",
            seen=f"{ranks} ranks from cuda:{first} on, {there} GPUs",
            allowed=f"at most {there}",
            fix="lower --tp, or make more GPUs visible",
        )
