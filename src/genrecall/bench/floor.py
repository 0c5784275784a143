"""The GEMM floor: what the linear layers alone take for a batch's rows.

    floor(B) = Σ_layers Σ_{M ∈ B·(T, min(W, C), W, …)} time( (M × in) · (in × out) for qkv, out, gate + up, down )

All products of one batch in one CUDA graph, every layer with weights of its own, so that they come from memory as they
do in a model; random inputs, because zeros are multiplied faster. A GPU that meets its power limit after a moment slows
products down (H100 at 700 W: by 2 to 20%), so there are two floors: of batches that are repeated for as long as an
engine is kept saturated, and of the first few after a rest, which no engine under load can reach. On a CPU the same
products are timed one by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrecall.bench.shapes import Shape
from genrecall.engine.device.arithmetic import ARITHMETIC, Arithmetic


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The best batch size of a sweep.

    Attributes:
        requests_per_s: at that size, under load.
        requests: the size.
        batch_s: its seconds.
        alone_s: seconds of one request alone.
        rested_per_s: requests a second of the first few batches after a rest, at whichever size is best for that.
    """

    requests_per_s: float
    requests: int
    batch_s: float
    alone_s: float
    rested_per_s: float


_REST_S = 1.0


class Products:
    """Random weights of one shape in one arithmetic."""

    def __init__(self, shape: Shape, weights: str, *, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._arithmetic: Arithmetic = ARITHMETIC[weights]()
        self._layers = [
            [self._arithmetic.matrix(torch.randn(size, device=device, dtype=dtype) * 0.02) for size in shape.matrices]
            for _ in range(shape.layers)
        ]
        self._inputs = [size[1] for size in shape.matrices]

    def seconds(self, rows: Sequence[int], repeats: int = 5, least_s: float = 0.0) -> float:
        """Median time of all layers' products for passes of so many rows each, see ``timed``."""
        passes = [
            [
                self._arithmetic.ready(torch.randn(count, width, device=self._device, dtype=self._dtype))
                for width in self._inputs
            ]
            for count in rows
        ]

        def run() -> None:
            for inputs in passes:
                for layer in self._layers:
                    for x, matrix in zip(inputs, layer, strict=True):
                        self._arithmetic.product(x, matrix)

        return timed(graphed(run, self._device), self._device, repeats, least_s)


def rows_of(prompt: int, beam: int, codes: Sequence[int]) -> tuple[int, ...]:
    """Rows of one request's passes: the prompt, then the beams after each level but the last."""
    rows, width = [prompt], 1
    for size in codes[:-1]:
        width = min(beam, width * size)
        rows.append(width)
    return tuple(rows)


def floor(products: Products, rows: Sequence[int], sizes: Sequence[int], least_s: float = 0.0) -> Floor:
    """Sweep batch sizes, each after a rest and then repeated for ``least_s``; without it, under load is rested."""
    alone = products.seconds(rows)
    rested: dict[int, float] = {}
    found: dict[int, float] = {}
    for size in sizes:
        batch = [size * count for count in rows]
        time.sleep(_REST_S if least_s else 0.0)
        rested[size] = products.seconds(batch)
        found[size] = products.seconds(batch, least_s=least_s) if least_s else rested[size]
    best = max(found, key=lambda size: size / found[size])
    return Floor(
        requests_per_s=best / found[best], requests=best, batch_s=found[best], alone_s=alone,
        rested_per_s=max(size / seconds for size, seconds in rested.items()),
    )  # fmt: skip


def graphed(run: Callable[[], None], device: torch.device) -> Callable[[], Any]:
    """A function as a CUDA graph; on a CPU as it is."""
    if device.type != "cuda":
        return run
    run()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(run: Callable[[], Any], device: torch.device, repeats: int, least_s: float = 0.0) -> float:
    """Median seconds of the last ``repeats`` runs, of which at least one more, and ``least_s`` of them, came before."""
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) <= repeats or time.perf_counter() - started < least_s:
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken = begin.elapsed_time(end) / 1e3
        else:
            start = time.perf_counter()
            run()
            taken = time.perf_counter() - start
        seconds.append(taken)
    return statistics.median(seconds[-repeats:])
