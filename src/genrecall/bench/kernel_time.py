"""Where GPU time goes, by kind of kernel, as CUPTI saw it during a few batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

_KINDS = (
    ("linear layers", ("gemm", "nvjet", "cutlass", "cublas", "xmma", "scaled_mm", "_widen", "_few_rows", "splitk")),
    ("sums between devices", ("nccl", "_rank_sum")),
    ("attention", ("_attend", "_join")),
    ("selection", ("measure", "histogram", "count_rows", "write", "select_whole", "normaliser")),
    ("norms", ("_norm",)),
    ("rotation", ("_rotate",)),
    ("activation", ("_product", "_quantized_product")),
    ("quantisation", ("_quantize",)),
    ("copies", ("memcpy", "memset")),
)


def kernel_time(run: Callable[[], object]) -> dict[str, Any]:
    """Milliseconds of the kernels that ``run`` launches, by kind and for the ten longest by name."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        run()
        torch.cuda.synchronize()
    by_name: Counter[str] = Counter()
    for event in profiled.key_averages():
        by_name[event.key] += event.self_device_time_total / 1e3
    by_kind: Counter[str] = Counter()
    for name, spent in by_name.items():
        by_kind[_kind(name)] += spent
    return {
        "by_kind_ms": {kind: round(spent, 3) for kind, spent in by_kind.most_common()},
        "longest_ms": {name[:90]: round(spent, 3) for name, spent in by_name.most_common(12)},
    }


def _kind(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, marks in _KINDS if any(mark in lower for mark in marks)), "other")
