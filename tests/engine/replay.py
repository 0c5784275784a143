"""CUDA graphs as a CPU can have them: a replay runs what was captured once more, and overwrites its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from genrecall.engine.device.frontier import FrontierMemory
from genrecall.engine.device.graphs import Graphs
from genrecall.engine.device.padding import Padding
from genrecall.engine.device.runner import Runner


class Replay:
    """What a capture returns.

    Args:
        function: that was captured.
        result: what it returned then.
    """

    def __init__(self, function: Callable[[], Any], result: Any) -> None:
        self.function, self.result = function, result

    def replay(self) -> None:
        """Run it again."""
        _overwrite(self.result, self.function())


def _overwrite(old: Any, new: Any) -> None:
    if isinstance(old, torch.Tensor):
        assert old.shape == new.shape, "a graph's shapes do not change"
        old.copy_(new)
    elif isinstance(old, list | tuple):
        for one, other in zip(old, new, strict=True):
            _overwrite(one, other)
    elif is_dataclass(old):
        for field in fields(old):
            _overwrite(getattr(old, field.name), getattr(new, field.name))


def let_capture(runner: Runner, most: int = 64) -> Graphs:
    """Let a runner keep graphs on a CPU."""
    graphs = Graphs(torch.device("cuda"), most)

    def capture(function: Callable[[], Any]) -> tuple[Replay, Any]:
        result = function()
        graphs.captured += 1
        return Replay(function, result), result

    graphs._capture = capture  # type: ignore[assignment, method-assign]
    runner.graphs, runner.padding = graphs, Padding(graphs)
    if runner.search.compact_from is not None:
        rows = len(runner.search._root)
        runner.search._memory = FrontierMemory(runner.search.levels, rows, rows, runner.device)
    return graphs
