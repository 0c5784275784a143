"""Every kernel beside its torch reference and beside the floor that this device sets.

    floor = max(bytes / copy bandwidth, FLOP / matmul rate),    both ceilings measured in the same run

Bytes count each input read and each output written once (Williams et al. 2009, "Roofline", CACM 52). We deviate: inputs
are left in the cache between repeats, as they are in the engine, so that small operations can pass their floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from genrecall import hardware
from genrecall.bench.kernel_cases import Case, Workload, cases
from genrecall.kernels import dispatch
from genrecall.kernels.quantized_linear import fp8_linear, quantize_fp8


@dataclass(frozen=True, kw_only=True)
class KernelBench:
    """One run.

    Attributes:
        workload: sizes of the cases.
        only: names that begin so; empty for all.
        repeats: timed; figures are medians.
        calls: of a kernel in one CUDA graph, so that launches cost what they cost in the engine.
        device: auto, cpu or cuda.
    """

    workload: Workload = field(default_factory=Workload)
    only: str = ""
    repeats: int = 9
    calls: int = 10
    device: str = "auto"


def measure(bench: KernelBench) -> dict[str, Any]:
    """Times in microseconds of every kernel, its reference and its floor, and on what they were measured."""
    device = hardware.pick_device(bench.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bandwidth, rate = _copy_bandwidth(device, bench), _matmul_rate(device, dtype, bench)
    fp8_rate = _fp8_rate(device, bench) if device.type == "cuda" else rate
    found: dict[str, Any] = {
        "config": asdict(bench),
        "hardware": hardware.describe(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "implementation": dispatch.choice(device.type),
        "copy_bytes_per_s": bandwidth,
        "matmul_flop_per_s": rate,
        "fp8_flop_per_s": fp8_rate,
        "kernels": [],
    }
    for case in cases(bench.workload, device, dtype):
        if case.name.startswith(bench.only):
            found["kernels"].append(_row(case, bandwidth, fp8_rate if case.fp8 else rate, device, bench))
    return found


def _row(case: Case, bandwidth: float, rate: float, device: torch.device, bench: KernelBench) -> dict[str, Any]:
    floor_s = max(case.bytes / bandwidth, case.flop / rate)
    difference = max(
        float((ours.double() - theirs.double()).abs().max())
        for ours, theirs in zip(_tensors(case.run()), _tensors(case.reference()), strict=True)
    )
    kernel_s = seconds(case.run, device, bench.repeats, bench.calls)
    reference_s = seconds(case.reference, device, max(3, bench.repeats // 3), 0)
    return {
        "name": case.name,
        "shape": case.shape,
        "kernel_us": kernel_s * 1e6,
        "reference_us": reference_s * 1e6,
        "floor_us": floor_s * 1e6,
        "share_of_floor": floor_s / kernel_s,
        "bytes": case.bytes,
        "flop": case.flop,
        "largest_difference": difference,
    }


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    for one in result if isinstance(result, tuple) else (result,):
        yield torch.nan_to_num(one.float(), neginf=0.0)


def seconds(call: Callable[[], object], device: torch.device, repeats: int, graph_calls: int) -> float:
    """Median time of one call; on a GPU within a graph of ``graph_calls``, or with its launches where that is 0."""
    call()
    if device.type != "cuda":
        return statistics.median(_wall(call) for _ in range(repeats))
    graph_calls, run = (graph_calls, _captured(call, graph_calls)) if graph_calls else (1, call)
    run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / graph_calls)
    return statistics.median(times)


def _captured(call: Callable[[], object], calls: int) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def _wall(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _copy_bandwidth(device: torch.device, bench: KernelBench) -> float:
    """Bytes a second, read and written counted, of a copy that no cache holds."""
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, bench.repeats, 0)


def _matmul_rate(device: torch.device, dtype: torch.dtype, bench: KernelBench) -> float:
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, device, bench.repeats, 0)


def _fp8_rate(device: torch.device, bench: KernelBench) -> float:
    size = 8192
    left, right = (quantize_fp8(torch.randn(size, size, device=device, dtype=torch.bfloat16)) for _ in range(2))
    return 2 * size**3 / seconds(lambda: fp8_linear(left, right), device, bench.repeats, 0)
