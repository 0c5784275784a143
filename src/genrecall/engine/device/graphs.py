"""CUDA graphs of functions of static shapes, captured when a shape comes back.

A function that is called with a key for the first time runs as it is, which also compiles its kernels; the second time
it is captured; from then on it is replayed. The function reads and writes the same addresses every time, and what it
returns is overwritten by the next replay. Where there are no graphs (CPU), it just runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch

from genrecall.telemetry import log

T = TypeVar("T")


class Graphs:
    """Captures by key.

    Args:
        device: graphs exist on CUDA alone.
        most: graphs that are kept; the least recently used one goes first.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self._most = most if device.type == "cuda" else 0
        self._seen: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = OrderedDict()
        self._pool: Any = None
        self.captured = self.replayed = self.eager = 0

    @property
    def unusual(self) -> int:
        """Runs so far that compiled or captured something: what they took says nothing of later ones."""
        return self.captured + len(self._seen) if self._most else 0

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """The function's result, by whichever way."""
        if key in self._kept:
            self._kept.move_to_end(key)
            graph, result = self._kept[key]
            graph.replay()
            self.replayed += 1
            return cast(T, result)
        if self._most and key in self._seen:
            graph, result = self._capture(function)
            self._kept[key] = graph, result
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
            graph.replay()
            return cast(T, result)
        self._seen.add(key)
        self.eager += 1
        return function()

    def _capture(self, function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        if self.captured == self._most:
            log(f"more than {self._most} sizes of batches: CUDA graphs are captured again and again")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        self.captured += 1
        return graph, result
