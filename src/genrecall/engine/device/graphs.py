"""CUDA graphs of functions of static shapes, captured when a shape comes back.

A function that is called with a key for the first time runs as it is, which also compiles its kernels; the second time
it is captured; from then on it is replayed. The function reads and writes the same addresses every time, and what it
returns is overwritten by the next replay. Where there are no graphs (CPU), it just runs.

A graph gives way to another only once it has not been used for long: where more sizes of batches come than are kept,
some run as they are, which takes no longer than to capture them, and nothing is captured again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch

from genrecall.telemetry import log

T = TypeVar("T")
_IDLE = 8
"""A graph may go once so many times as many others have been asked for as are kept."""


class Graphs:
    """Captures by key.

    Args:
        device: graphs exist on CUDA alone.
        most: graphs that are kept.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self._most = most if device.type == "cuda" else 0
        self._seen: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = OrderedDict()  # least recently used first
        self._used: dict[Hashable, int] = {}
        self._pool: Any = None
        self._told = False
        self.captured = self.replayed = self.eager = 0

    @property
    def unusual(self) -> int:
        """Runs so far that compiled or captured something: what they took says nothing of later ones."""
        return self.captured + len(self._seen) if self._most else 0

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """The function's result, by whichever way."""
        now = self.captured + self.replayed + self.eager
        if key in self._kept:
            self._kept.move_to_end(key)
            self._used[key] = now
            graph, result = self._kept[key]
            graph.replay()
            self.replayed += 1
            return cast(T, result)
        if self._most and key in self._seen and self._room(now):
            graph, result = self._capture(function)
            self._kept[key], self._used[key] = (graph, result), now
            graph.replay()
            return cast(T, result)
        self._seen.add(key)
        self.eager += 1
        return function()

    def _room(self, now: int) -> bool:
        """Whether another graph may be kept, in place of an idle one if need be."""
        if len(self._kept) < self._most:
            return True
        oldest = next(iter(self._kept))
        if now - self._used[oldest] < _IDLE * self._most:
            if not self._told:
                log(
                    f"more than {self._most} sizes of batches are in use: some run without CUDA graphs (Budgets.graphs)"
                )
                self._told = True
            return False
        del self._kept[oldest], self._used[oldest]
        return True

    def _capture(self, function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        self.captured += 1
        return graph, result
