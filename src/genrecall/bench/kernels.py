"""Every kernel beside its torch reference and beside the floor that this device sets.

    floor = max(bytes / copy bandwidth, FLOP / matmul rate, host bytes / bus rate),    all measured in the same run

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
from genrecall.bench.kernel_cases import Case, RankerWorkload, Workload, cases
from genrecall.kernels import dispatch
from genrecall.kernels.quantized_linear import fp8_linear, quantize_fp8
from genrecall.telemetry import track


@dataclass(frozen=True, kw_only=True)
class KernelBench:
    """One run.

    Attributes:
        workload, ranks: sizes of the cases, of the engine and of the ranker.
        only: beginnings of names; an empty one for all.
        repeats: timed; figures are medians.
        calls: of a kernel in one CUDA graph, so that launches cost what they cost in the engine.
        device: auto, cpu or cuda.
    """

    workload: Workload = field(default_factory=Workload)
    ranks: RankerWorkload = field(default_factory=RankerWorkload)
    only: tuple[str, ...] = ("",)
    repeats: int = 9
    calls: int = 10
    device: str = "auto"


def measure(bench: KernelBench) -> dict[str, Any]:
    """Times in microseconds of every kernel, its reference and its floor, and on what they were measured."""
    device = hardware.pick_device(bench.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    ceilings = _ceilings(device, dtype, bench)
    found: dict[str, Any] = {
        "config": asdict(bench),
        "hardware": hardware.describe(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "implementation": dispatch.choice(device.type),
        **ceilings,
        "kernels": [],
    }
    for case in track(cases(bench.workload, bench.ranks, device, dtype, bench.only), "kernels"):
        found["kernels"].append(_row(case, ceilings, device, bench))
    return found


def difference(case: Case) -> float:
    """The largest between the kernel's numbers and its reference's."""
    ours = list(_tensors(case.run()))  # copies: the reference may write to the same place
    return max(float((one - other).abs().max()) for one, other in zip(ours, _tensors(case.reference()), strict=True))


def _ceilings(device: torch.device, dtype: torch.dtype, bench: KernelBench) -> dict[str, float]:
    bandwidth, rate = _copy_bandwidth(device, bench), _matmul_rate(device, dtype, bench)
    on_gpu = device.type == "cuda"
    return {
        "copy_bytes_per_s": bandwidth,
        "bus_bytes_per_s": _bus_rate(device, bench) if on_gpu else bandwidth,
        "matmul_flop_per_s": rate,
        "fp8_flop_per_s": _fp8_rate(device, bench) if on_gpu else rate,
        "float32_flop_per_s": _matmul_rate(device, torch.float32, bench) if on_gpu else rate,
    }


def _row(case: Case, ceilings: dict[str, float], device: torch.device, bench: KernelBench) -> dict[str, Any]:
    floor_s = max(
        case.bytes / ceilings["copy_bytes_per_s"],
        case.bus_bytes / ceilings["bus_bytes_per_s"],
        case.flop / ceilings[f"{case.arithmetic}_flop_per_s"],
    )
    differs = difference(case)
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
        "bus_bytes": case.bus_bytes,
        "flop": case.flop,
        "largest_difference": differs,
    }


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    for one in result if isinstance(result, tuple) else (result,):
        # Of 16 and 8 bits by way of float32; rows and sums of 64 bits keep theirs.
        yield torch.nan_to_num((one if one.element_size() == 8 else one.float()).double(), neginf=0.0)


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


def _bus_rate(device: torch.device, bench: KernelBench) -> float:
    """Bytes a second out of page-locked host memory."""
    source = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(len(source), dtype=torch.uint8, device=device)
    return len(source) / seconds(lambda: target.copy_(source, non_blocking=True), device, bench.repeats, 0)


def _matmul_rate(device: torch.device, dtype: torch.dtype, bench: KernelBench) -> float:
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, device, bench.repeats, 0)


def _fp8_rate(device: torch.device, bench: KernelBench) -> float:
    size = 8192
    left, right = (quantize_fp8(torch.randn(size, size, device=device, dtype=torch.bfloat16)) for _ in range(2))
    return 2 * size**3 / seconds(lambda: fp8_linear(left, right), device, bench.repeats, 0)
