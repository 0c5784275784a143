"""The GEMM floor: what the linear layers alone take for a batch's rows.

    floor(B) = Σ_layers Σ_{M ∈ B·(T, min(W, C), W, …)} time( (M × in) · (in × out) for qkv, out, gate + up, down )

All products of one batch in one CUDA graph, every layer with weights of its own, so that they come from memory as they
do in a model; random inputs, because zeros are multiplied faster. Batches are repeated for as long as an engine is kept
saturated, since a GPU that meets its power limit after a moment slows products down by 2 to 6% (H100 at 700 W). On a
CPU the same products are timed one by one.
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
        requests_per_s: at that size.
        requests: the size.
        batch_s: its seconds.
        alone_s: seconds of one request alone.
    """

    requests_per_s: float
    requests: int
    batch_s: float
    alone_s: float


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
    """Sweep batch sizes, each repeated for ``least_s``."""
    alone = products.seconds(rows)
    found = {size: products.seconds([size * count for count in rows], least_s=least_s) for size in sizes}
    best = max(found, key=lambda size: size / found[size])
    return Floor(requests_per_s=best / found[best], requests=best, batch_s=found[best], alone_s=alone)


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
