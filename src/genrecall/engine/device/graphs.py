"""CUDA graphs of functions of static shapes, captured when a shape comes back.

A function that is called with a key for the first time runs as it is, which also compiles its kernels; the second time
it is captured, or later where running it as it is costs nothing; from then on it is replayed. The function reads and
writes the same addresses every time, and what it returns is overwritten by the next replay. Where there are no graphs
(CPU), it just runs.

A graph gives way to another only once it has not been used for long: where more sizes of batches come than are kept,
some run as they are, which takes no longer than to capture them, and nothing is captured again and again.

To launch a graph takes the host about a microsecond a kernel, and the device begins when that is over: long functions
call ``cut`` on their way and become several graphs, of which all but the first are launched while others run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar, cast

import torch

from genrecall.telemetry import log

T = TypeVar("T")
_IDLE = 8
"""A graph may go once so many times as many others have been asked for as are kept."""


class _Capture:
    """What is done within it, as one graph or, where it is cut, as several that run one after the other."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._pool, self._stream = pool, torch.cuda.stream(stream)
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def __enter__(self) -> _Capture:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what is cached is of no use to the graphs' own pool
        self._stream.__enter__()
        self._begin()
        self._token = _running.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.reset(self._token)
        self._graphs[-1].capture_end()
        self._stream.__exit__(kind, error, trace)

    def cut(self) -> None:
        """Go on in another graph."""
        self._graphs[-1].capture_end()
        self._begin()

    def replay(self) -> None:
        """All of it."""
        for graph in self._graphs:
            graph.replay()

    def _begin(self) -> None:
        self._graphs.append(torch.cuda.CUDAGraph())
        self._graphs[-1].capture_begin(pool=self._pool, capture_error_mode="thread_local")


_running: ContextVar[_Capture | None] = ContextVar("running", default=None)


def cut() -> None:
    """A graph that is being captured here may end here; without one, nothing happens."""
    capture = _running.get()
    if capture is not None:
        capture.cut()


class Graphs:
    """Captures by key.

    Args:
        device: graphs exist on CUDA alone.
        most: graphs that are kept.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self._most = most if device.type == "cuda" else 0
        self._seen: dict[Hashable, int] = {}
        self._kept: OrderedDict[Hashable, tuple[_Capture, Any]] = OrderedDict()  # least recently used first
        self._used: dict[Hashable, int] = {}
        self._lasting: set[Hashable] = set()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._told = self.lasting = False
        self.in_haste = False
        """Whether every key is captured the second time it comes. All ranks of a group must agree: NCCL hangs where a
        sum is captured on one rank and runs as it is on another. ``lasting``, too: whether what is captured is never
        given up."""
        self.captured = self.replayed = self.eager = 0

    @property
    def possible(self) -> bool:
        """Whether anything is ever captured."""
        return self._most > 0

    @property
    def keys(self) -> Collection[Hashable]:
        """Of the graphs that there are."""
        return self._kept.keys()

    @property
    def unusual(self) -> int:
        """Runs so far that compiled or captured something: what they took says nothing of later ones."""
        return self.captured + len(self._seen) if self._most else 0

    def run(self, key: Hashable, function: Callable[[], T], *, after: int = 1) -> T:
        """The function's result, by whichever way; it is captured once it has run ``after`` times as it is."""
        now = self.captured + self.replayed + self.eager
        if key in self._kept:
            self._kept.move_to_end(key)
            self._used[key] = now
            graph, result = self._kept[key]
            graph.replay()
            self.replayed += 1
            return cast(T, result)
        if self._most and self._seen.get(key, 0) >= (1 if self.in_haste else after) and self._room(now):
            graph, result = self._capture(function)
            self._kept[key], self._used[key] = (graph, result), now
            if self.lasting:
                self._lasting.add(key)
            graph.replay()
            return cast(T, result)
        self._seen[key] = self._seen.get(key, 0) + 1
        self.eager += 1
        return function()

    @contextmanager
    def hasty(self) -> Iterator[None]:
        """In haste, as while warming up."""
        before, self.in_haste = self.in_haste, True
        try:
            yield
        finally:
            self.in_haste = before

    def results(self) -> Iterator[Any]:
        """What graphs returned last."""
        return (result for _, result in self._kept.values())

    @property
    def has_room(self) -> bool:
        """Whether another graph would be kept."""
        return len(self._kept) < self._most or self._idle(self.captured + self.replayed + self.eager) is not None

    def _idle(self, now: int) -> Hashable | None:
        """A graph that may give way to another."""
        oldest = next((key for key in self._kept if key not in self._lasting), None)
        return None if oldest is None or now - self._used[oldest] < _IDLE * self._most else oldest

    def _room(self, now: int) -> bool:
        """Whether another graph may be kept, in place of an idle one if need be."""
        if len(self._kept) < self._most:
            return True
        oldest = self._idle(now)
        if oldest is None:
            if not self._told:
                log(
                    f"more than {self._most} sizes of batches are in use: some run without CUDA graphs (Budgets.graphs)"
                )
                self._told = True
            return False
        del self._kept[oldest], self._used[oldest]
        return True

    def _capture(self, function: Callable[[], T]) -> tuple[_Capture, T]:
        # One stream: what a capture frees is handed to later ones of the same stream alone.
        self._pool, self._stream = self._pool or torch.cuda.graph_pool_handle(), self._stream or torch.cuda.Stream()
        with _Capture(self._pool, self._stream) as capture:
            result = function()
        self.captured += 1
        return capture, result
