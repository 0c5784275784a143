"""The processes of the ranks of one model: rank 0 starts the others, tells them what it does, and ends with them.

    rank 0:     message → launch n ─┬─ all-reduce ─┬─ … → answers
    rank r > 0: message → launch n ─┘              └─ …

Messages go through a pipe to each rank, which costs rank 0 a few microseconds and wakes the others at once. Crash-only,
after Candea & Fox 2003: whoever finds another rank gone ends, since nothing that it waits for will ever come.
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
from typing import Any, NoReturn

import torch
from torch import distributed

from genrecall.engine.config import Parallel
from genrecall.engine.device.parallel import Group
from genrecall.engine.device.shards import Shard
from genrecall.engine.messages import Inbox
from genrecall.engine.worker.frames import Frame, encode
from genrecall.errors import ConfigError
from genrecall.telemetry import log

STATUS = 70
"""Of a process that ends because another has."""
_POLL_S = 0.2
_LEAVE_S = 5.0

# NVLink multicast needs a fabric manager that hosts with a part of the GPUs often do not have; sums do not need it. All
# ranks are of one host.
_ENVIRONMENT = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


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
                bufsize=0,
                stdout=subprocess.DEVNULL,
            )
            for rank in range(1, ranks)
        ]  # fmt: skip
        self._pipes = [child.stdin for child in self._children if child.stdin is not None]
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        self.group = Group(Shard(rank=0, ranks=ranks), torch.device(devices[0]), store)
        atexit.register(self.end)

    @property
    def pids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [child.pid for child in self._children]

    def tell(self, message: bytes | memoryview) -> None:
        """To all other ranks. Where one is gone, all end: command lines take a broken pipe for their reader's, and end
        without a word.
        """
        try:
            self._send(message)
        except BrokenPipeError:
            self.lose("a rank reads no more")

    def _send(self, message: bytes | memoryview) -> None:
        for pipe in self._pipes:
            left = memoryview(message).cast("B")
            while left:
                left = left[pipe.write(left) :]

    def lose(self, why: str) -> NoReturn:
        """End all ranks, this process included."""
        log(f"the engine's ranks end together: {why}")
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        os._exit(STATUS)

    def end(self) -> None:
        """Let the others end; they are ended where they do not."""
        if self._ending:
            return
        self._require_alive()
        self._ending = True
        self.group.lock.acquire(timeout=_LEAVE_S)  # for good: nothing is told after this, and this not within a batch
        with contextlib.suppress(OSError):  # a rank that is gone needs not be told
            self._send(encode(Frame(head={"kind": "end"})))
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


def follow(arguments: Sequence[str]) -> tuple[Group, Inbox]:
    """Join as rank 1 or up, with the arguments that ``Leader`` gives, and hear what rank 0 tells; end with it."""
    port, rank, ranks, device, threads, parent = arguments
    torch.set_num_threads(int(threads))
    threading.Thread(target=_watch_parent, args=(int(parent),), name="rank 0", daemon=True).start()
    store = distributed.TCPStore("127.0.0.1", int(port), None, is_master=False)
    return Group(Shard(rank=int(rank), ranks=int(ranks)), torch.device(device), store), Inbox(
        open(0, "rb", buffering=0)
    )


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(STATUS)


def _require_devices(ranks: int, first: int, device: torch.device) -> None:
    there: Any = torch.cuda.device_count() - first if device.type == "cuda" else ranks
    if there < ranks:
        raise ConfigError(
            "there are fewer GPUs than ranks",
            seen=f"{ranks} ranks from cuda:{first} on, {there} GPUs",
            allowed=f"at most {there}",
            fix="lower --tp, or make more GPUs visible",
        )
